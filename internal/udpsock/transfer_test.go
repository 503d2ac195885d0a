package udpsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// pattern is n bytes of data cut into seg: each datagram begins with 0x40 and
// its number.
func pattern(n, seg int) []byte {
	b := make([]byte, n)
	i := 0
	for d := range Cut(b, seg) {
		for k := range d {
			d[k] = byte(i + k)
		}
		d[0] = 0x40
		if len(d) > 1 {
			d[1] = byte(i)
		}
		i++
	}
	return b
}

func TestDatagramsArrive(t *testing.T) {
	tests := []struct {
		name   string
		n, seg int
	}{
		{"one, by itself", 1200, 0},
		{"one, of a full segment", 1200, 1200},
		{"one, shorter than a segment", 5, 1200},
		{"one byte", 1, 0},
		{"two", 2400, 1200},
		{"a short last one", 39*1200 + 7, 1200},
		{"as many as one send takes", 64 * 1000, 1000},
		{"one more than one send takes", 65 * 1000, 1000},
		{"more bytes than one send takes", 64 * 1024, 1024},
		{"many sends", 100 * 1452, 1452},
		{"single bytes", 130, 1},
		{"large segments", 10 * 9000, 9000},
		{"two segments too large for one send", 2 * 40000, 40000},
		{"the largest datagram that loopback takes", 65536 - 40 - 8, 0},
	}
	eachMode(t, func(t *testing.T, m mode) {
		from, to := m.listen(t), m.listen(t)
		in := newInbox()
		serve(t, to, in)
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := pattern(tt.n, tt.seg)
				if err := from.Send(b, tt.seg, to.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				for want := range Cut(b, tt.seg) {
					if got := receive(t, in.data); !bytes.Equal(got, want) {
						t.Fatalf("got %d bytes %.4x, want %d bytes %.4x", len(got), got, len(want), want)
					}
					if src := receive(t, in.src); src != from.LocalAddr() {
						t.Fatalf("source %v, want %v", src, from.LocalAddr())
					}
				}
			})
		}
		tx, rx := from.Counters(), to.Counters()
		if tx.TxPackets != rx.RxPackets || tx.TxBytes != rx.RxBytes || tx.TxErrors != 0 || rx.RxErrors != 0 {
			t.Errorf("counted %+v sent, %+v received", tx, rx)
		}
	})
}

func TestSendsAreCut(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		from, to := m.listen(t), m.listen(t)
		in := newInbox()
		const datagrams = 40
		// Sent before anything is read, so that all is there to be coalesced.
		if err := from.Send(pattern(datagrams*1400, 1400), 1400, to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		serve(t, to, in)
		for range datagrams {
			receive(t, in.data)
		}
		sends, reads := from.Counters().Sends, to.Counters().Reads
		gso, _ := from.Offload()
		_, gro := to.Offload()
		if m.portable && (gso || gro) {
			t.Errorf("portable, but offload is %v %v", gso, gro)
		}
		if want := map[bool]uint64{true: 1, false: datagrams}[gso]; sends != want {
			t.Errorf("%d sends for %d datagrams, want %d", sends, datagrams, want)
		}
		if gro && reads > 4 || !gro && reads != datagrams {
			t.Errorf("%d reads for %d datagrams, gro %v", reads, datagrams, gro)
		}
		if got := to.Counters().RxPackets; got != datagrams {
			t.Errorf("%d datagrams counted", got)
		}
	})
}

// A batch may come with STUN in the middle: the kernel coalesces by address
// and size, not by content.
func TestMixedBatch(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		const seg = 100
		probe := stunmsg.NewIndication(stunmsg.MethodBinding).PadTo(seg).Bytes()
		bad := bytes.Clone(probe)
		bad[4] ^= 1 // the cookie
		data := pattern(3*seg, seg)
		batch := slices.Concat(probe, data[:seg], probe, bad, data[seg:2*seg], probe, data[2*seg:2*seg+30])

		from, to := m.listen(t), m.listen(t)
		in := newInbox()
		serve(t, to, in)
		if err := from.Send(batch, seg, to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		for _, want := range [][]byte{data[:seg], data[seg : 2*seg], data[2*seg : 2*seg+30]} {
			if got := receive(t, in.data); !bytes.Equal(got, want) {
				t.Errorf("data %x, want %x", got, want)
			}
		}
		for range 3 {
			if got := receive(t, in.stun); !bytes.Equal(got, probe) {
				t.Errorf("STUN %x, want %x", got, probe)
			}
		}
		if c := to.Counters(); c.Malformed != 1 || c.RxPackets != 7 {
			t.Errorf("counted %+v", c)
		}
	})
}

func TestMalformedIsDropped(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		from, to := m.listen(t), m.listen(t)
		in := newInbox()
		serve(t, to, in)
		good := bindingRequest()
		junk := [][]byte{{}, {0}, {3, 1, 2}, good[:19], append(bytes.Clone(good), 0), make([]byte, 1400)}
		for _, b := range junk {
			if err := from.Send(b, 0, to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		from.Send([]byte{4}, 0, to.LocalAddr())
		if got := receive(t, in.data); !bytes.Equal(got, []byte{4}) {
			t.Errorf("data %x", got)
		}
		if got := to.Counters().Malformed; got != uint64(len(junk)) {
			t.Errorf("%d counted as malformed, want %d", got, len(junk))
		}
		if n := len(in.data) + len(in.stun); n != 0 {
			t.Errorf("%d more went up", n)
		}
	})
}

func TestRawTakesSTUNForData(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		from, to := m.listen(t), m.listen(t, func(c *Config) { c.Raw = true })
		in := newInbox()
		serve(t, to, in)
		want := [][]byte{bindingRequest(), {0, 1}, {0x40, 0, 0, 0}}
		for _, b := range want {
			from.Send(b, 0, to.LocalAddr())
			if got := receive(t, in.data); !bytes.Equal(got, b) {
				t.Errorf("data %x, want %x", got, b)
			}
		}
		if _, _, err := to.RoundTrip(t.Context(), bindingRequest(), from.LocalAddr()); !errors.Is(err, errRaw) {
			t.Errorf("RoundTrip on a raw socket: %v", err)
		}
	})
}

// The time-to-live of SendTTL is on its datagram and on no other, whoever else
// sends at that moment.
func TestSendTTL(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		udp, err := net.ListenUDP(m.network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(m.loopback)))
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		readTTL, err := ttlReader(m.network, udp)
		if err != nil {
			t.Skip("this platform does not tell the time-to-live:", err)
		}
		from := m.listen(t)
		dst := udp.LocalAddr().(*net.UDPAddr).AddrPort()

		dawdleWithTTL(from)
		udp.SetReadDeadline(time.Now().Add(patience))
		// Each round reads what it sent, so that nothing is lost for want of
		// buffer.
		for range 50 {
			var senders sync.WaitGroup
			senders.Go(func() { from.SendTTL([]byte("low"), dst, 3) })
			const usual = 20
			senders.Go(func() {
				for range usual {
					from.Send([]byte("usual"), 0, dst)
					runtime.Gosched()
				}
			})
			for range 1 + usual {
				payload, ttl, err := readTTL()
				if err != nil {
					t.Fatal(err)
				}
				if low := payload == "low"; low != (ttl == 3) {
					t.Errorf("%s datagram has a time-to-live of %d", payload, ttl)
				}
			}
			senders.Wait()
		}
		for _, ttl := range []int{-1, 0, 256} {
			var loss *LossError
			if err := from.SendTTL([]byte("x"), dst, ttl); !errors.As(err, &loss) {
				t.Errorf("SendTTL(%d) = %v", ttl, err)
			}
		}
	})
}

// dawdleWithTTL has a socket whose time-to-live is the socket's take its time
// over each change, so that others may get in between if they can.
func dawdleWithTTL(s *Socket) {
	c, ok := s.conn.(*portableConn)
	if !ok {
		return
	}
	set := c.setTTL
	c.setTTL = func(ttl int) error {
		err := set(ttl)
		for range 1000 {
			runtime.Gosched()
		}
		return err
	}
}

func ttlReader(network string, udp *net.UDPConn) (func() (string, int, error), error) {
	b := make([]byte, 100)
	if network == "udp4" {
		p := ipv4.NewPacketConn(udp)
		return func() (string, int, error) {
			n, cm, _, err := p.ReadFrom(b)
			if err != nil {
				return "", 0, err
			}
			return string(b[:n]), cm.TTL, nil
		}, p.SetControlMessage(ipv4.FlagTTL, true)
	}
	p := ipv6.NewPacketConn(udp)
	return func() (string, int, error) {
		n, cm, _, err := p.ReadFrom(b)
		if err != nil {
			return "", 0, err
		}
		return string(b[:n]), cm.HopLimit, nil
	}, p.SetControlMessage(ipv6.FlagHopLimit, true)
}

func TestConcurrentSends(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		from, to := m.listen(t), m.listen(t)
		in := newInbox()
		serve(t, to, in)
		const senders, datagrams = 4, 30
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				b := bytes.Repeat([]byte{byte(0x40 + i)}, datagrams*500)
				if err := from.Send(b, 500, to.LocalAddr()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := map[byte]int{}
		for range senders * datagrams {
			d := receive(t, in.data)
			if len(d) != 500 || !bytes.Equal(d, bytes.Repeat(d[:1], 500)) {
				t.Fatalf("datagrams are mixed up: %x", d)
			}
			got[d[0]]++
		}
		for i := range senders {
			if n := got[byte(0x40+i)]; n != datagrams {
				t.Errorf("sender %d: %d datagrams", i, n)
			}
		}
	})
}

func TestServeEnds(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s := m.listen(t)
		why := fmt.Errorf("the network changed")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, newInbox()) }()
		cancel(why)
		if err := receive(t, done); err != why {
			t.Errorf("Serve = %v, want the cause", err)
		}

		// It can go on afterwards.
		in := newInbox()
		serve(t, s, in)
		m.listen(t).Send([]byte("data"), 0, s.LocalAddr())
		receive(t, in.data)
		if err := s.Serve(t.Context(), in); err != errServing {
			t.Errorf("second Serve at once: %v", err)
		}
	})
}

func TestCloseUnblocks(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s, silent := m.listen(t), m.listen(t)
		done := make(chan error, 2)
		go func() { done <- s.Serve(t.Context(), newInbox()) }()
		go func() {
			_, _, err := s.RoundTrip(t.Context(), bindingRequest(), silent.LocalAddr())
			done <- err
		}()
		in := newInbox()
		serve(t, silent, in)
		receive(t, in.stun) // the RoundTrip is under way
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := receive(t, done); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close = %v", err)
		}
		for what, err := range map[string]error{
			"Send":      s.Send([]byte("x"), 0, silent.LocalAddr()),
			"Send, cut": s.Send(pattern(300, 100), 100, silent.LocalAddr()),
			"SendTTL":   s.SendTTL([]byte("x"), silent.LocalAddr(), 1),
			"Serve":     s.Serve(t.Context(), newInbox()),
		} {
			if err != net.ErrClosed {
				t.Errorf("%s after Close = %v", what, err)
			}
		}
		if _, _, err := s.RoundTrip(t.Context(), bindingRequest(), silent.LocalAddr()); err != net.ErrClosed {
			t.Errorf("RoundTrip after Close = %v", err)
		}
	})
}

func TestLossError(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s := m.listen(t)
		wrong := netip.MustParseAddrPort("192.0.2.1:0") // port 0, and not IPv6
		var loss *LossError
		if err := s.Send([]byte("x"), 0, wrong); !errors.As(err, &loss) || loss.Dst != wrong {
			t.Errorf("Send = %v", err)
		}
		if err := s.Send(make([]byte, 70000), 0, s.LocalAddr()); !errors.As(err, &loss) {
			t.Errorf("Send of 70000 bytes = %v", err)
		}
		if s.Counters().TxErrors != 2 {
			t.Errorf("counted %+v", s.Counters())
		}
		before, _ := s.Offload()
		if err := s.Send(pattern(300, 100), 100, wrong); !errors.As(err, &loss) {
			t.Errorf("Send, cut = %v", err)
		}
		if after, _ := s.Offload(); after != before {
			t.Error("a wrong destination ended the use of GSO")
		}
	})
}
