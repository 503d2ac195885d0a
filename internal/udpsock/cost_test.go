package udpsock

import (
	"net/netip"
	"testing"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A drain is a Handler that only counts.
type drain struct{ datagrams, stun int }

func (d *drain) HandleData(p *Packet) {
	d.datagrams += p.Count()
	p.Release()
}

func (d *drain) HandleSTUN([]byte, netip.AddrPort) { d.stun++ }

func TestDataPathDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	eachMode(t, func(t *testing.T, m mode) {
		from, to := m.listen(t), m.listen(t)
		h := new(drain)
		r := reader{s: to, h: h, p: getPacket()}
		batch, one, probe := pattern(20*1200, 1200), pattern(1200, 0), bindingRequest()
		junk := probe[:19]
		dst := to.LocalAddr()
		read := func(datagrams, stun int) {
			for h.datagrams, h.stun = 0, 0; h.datagrams < datagrams || h.stun < stun; {
				if err := r.once(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for name, f := range map[string]func(){
			"batch":        func() { from.Send(batch, 1200, dst); read(20, 0) },
			"one datagram": func() { from.Send(one, 0, dst); read(1, 0) },
			"STUN":         func() { from.Send(probe, 0, dst); read(0, 1) },
			"malformed":    func() { from.Send(junk, 0, dst); r.once() },
			"low TTL": func() {
				if !m.portable { // there x/net allocates, once per opener
					from.SendTTL(one, dst, 3)
					read(1, 0)
				}
			},
		} {
			if n := testing.AllocsPerRun(50, f); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}

// One send and what reads it takes, one goroutine: the cost per byte without
// scheduling.
func BenchmarkLoopback(b *testing.B) {
	const seg, datagrams = 1452, 45
	for name, m := range map[string]mode{
		"platform": {"udp4", "127.0.0.1:0", false},
		"portable": {"udp4", "127.0.0.1:0", true},
	} {
		b.Run(name, func(b *testing.B) {
			from, to := m.listen(b), m.listen(b)
			h := new(drain)
			r := reader{s: to, h: h, p: getPacket()}
			batch := pattern(datagrams*seg, seg)
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Send(batch, seg, to.LocalAddr()); err != nil {
					b.Fatal(err)
				}
				for h.datagrams = 0; h.datagrams < datagrams; {
					if err := r.once(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkTakeSTUN(b *testing.B) {
	batch := pattern(45*1452, 1452)
	b.ReportAllocs()
	for b.Loop() {
		if len(takeSTUN(batch, 1452, func([]byte) {})) != len(batch) {
			b.Fatal("lost")
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	m := mode{"udp4", "127.0.0.1:0", false}
	server := newResponder(b, m)
	server.stun = make(chan []byte, 1) // not kept
	server.respond = func(req *stunmsg.Message, src netip.AddrPort) {
		<-server.stun
		server.s.Send(stunmsg.Success(req.Header).XORMappedAddress(src).Bytes(), 0, src)
	}
	server.serve(b)
	s := m.listen(b)
	serve(b, s, newInbox())
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.RoundTrip(b.Context(), bindingRequest(), server.s.LocalAddr()); err != nil {
			b.Fatal(err)
		}
	}
}
