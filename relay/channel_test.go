package relay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

var (
	peerA = netip.MustParseAddrPort("192.0.2.1:5000")
	peerB = netip.MustParseAddrPort("192.0.2.2:5000")
)

// batches is a handler that notes what it is given, as text.
type batches struct{ got []string }

func (b *batches) HandleData(p *udpsock.Packet) {
	var ds []string
	for d := range p.Datagrams() {
		ds = append(ds, string(d))
	}
	b.got = append(b.got, fmt.Sprintf("%v %d %q", p.Src.Addr(), p.Seg, ds))
	p.Release()
}

func (b *batches) HandleSTUN(m []byte, src netip.AddrPort) {
	b.got = append(b.got, fmt.Sprintf("%v STUN %d", src.Addr(), len(m)))
}

func TestUnpack(t *testing.T) {
	ch := func(n uint16, s string) []byte { return stunmsg.AppendChannelData(nil, n, []byte(s), false) }
	data := func(peer netip.AddrPort, s string) []byte {
		return stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peer).Data([]byte(s)).Bytes()
	}
	check := string(stunmsg.NewRequest(stunmsg.MethodBinding).Bytes())
	for _, tt := range []struct {
		name string
		in   [][]byte // of equal size but the last
		want []string
	}{
		{"one", [][]byte{ch(0x4000, "abcd")}, []string{`192.0.2.1 4 ["abcd"]`}},
		{"batch", [][]byte{ch(0x4000, "abcd"), ch(0x4000, "efgh"), ch(0x4000, "ijkl")}, []string{`192.0.2.1 4 ["abcd" "efgh" "ijkl"]`}},
		{"batch with a short end", [][]byte{ch(0x4000, "abcd"), ch(0x4000, "efgh"), ch(0x4000, "i")}, []string{`192.0.2.1 4 ["abcd" "efgh" "i"]`}},
		{"two peers", [][]byte{ch(0x4000, "abcd"), ch(0x4001, "efgh"), ch(0x4001, "ijkl"), ch(0x4000, "mnop")},
			[]string{`192.0.2.1 4 ["abcd"]`, `192.0.2.2 4 ["efgh" "ijkl"]`, `192.0.2.1 4 ["mnop"]`}},
		{"padded, so that lengths differ", [][]byte{append(ch(0x4000, "abc"), 0), ch(0x4000, "defg"), append(ch(0x4000, "hij"), 0), ch(0x4000, "klmn")},
			[]string{`192.0.2.1 3 ["abc"]`, `192.0.2.1 4 ["defg" "hij"]`, `192.0.2.1 4 ["klmn"]`}},
		{"STUN in between", [][]byte{ch(0x4000, "abcdefghijklmnopqrst"), ch(0x4000, check), ch(0x4000, "ABCDEFGHIJKLMNOPQRST")},
			[]string{`192.0.2.1 STUN 20`, `192.0.2.1 20 ["abcdefghijklmnopqrst" "ABCDEFGHIJKLMNOPQRST"]`}},
		{"indications", [][]byte{data(peerA, "abcd"), data(peerA, "efgh"), data(peerB, "ijkl")},
			[]string{`192.0.2.1 4 ["abcd" "efgh"]`, `192.0.2.2 4 ["ijkl"]`}},
		{"indication and STUN", [][]byte{data(peerB, check)}, []string{`192.0.2.2 STUN 20`}},
		{"not STUN after all", [][]byte{ch(0x4000, "\x00bcd"), ch(0x4000, "abcd")}, []string{`192.0.2.1 4 ["abcd"]`}},
		{"unknown channel", [][]byte{ch(0x4002, "abcd"), ch(0x4000, "efgh")}, []string{`192.0.2.1 4 ["efgh"]`}},
		{"longer than it is", [][]byte{{0x40, 0, 0, 5, 1, 2, 3, 4}}, nil},
		{"empty payload", [][]byte{ch(0x4000, "")}, nil},
		{"nothing of ours", [][]byte{[]byte("\x80abcdefg")}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got batches
			u := unpacker{h: &got, peers: map[uint16]netip.AddrPort{0x4000: peerA, 0x4001: peerB}, response: func([]byte) {}}
			u.unpack(udpsock.NewPacket(bytes.Join(tt.in, nil), len(tt.in[0]), loopbackServer))
			if !slices.Equal(got.got, tt.want) {
				t.Fatalf("got %q, want %q", got.got, tt.want)
			}
		})
	}
}

var loopbackServer = netip.MustParseAddrPort("127.0.0.1:3478")

// TestFraming compares the messages for datagrams with what the server reads.
func TestFraming(t *testing.T) {
	for n := 1; n < 10; n++ {
		payload := bytes.Repeat([]byte{0x40}, n)
		indication := framing{indication: stunmsg.NewIndication(stunmsg.MethodSend).XORPeerAddress(peerA).Bytes()}
		b := indication.append([]byte("before"), payload)[len("before"):]
		if len(b) != indication.size(n) {
			t.Errorf("indication of %d bytes has %d, not %d", n, len(b), indication.size(n))
		}
		m, err := stunmsg.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		peer, _ := m.XORPeer()
		if data, ok := m.Data(); !ok || !bytes.Equal(data, payload) || peer != peerA || m.Method != stunmsg.MethodSend {
			t.Errorf("indication with %x to %v", data, peer)
		}
		for _, stream := range []bool{false, true} {
			bound := framing{bound: true, stream: stream, channel: 0x4000}
			b := bound.append(nil, payload)
			if len(b) != bound.size(n) || stream && len(b)%4 != 0 {
				t.Errorf("ChannelData of %d bytes has %d, not %d", n, len(b), bound.size(n))
			}
			if number, data, err := stunmsg.ChannelData(b); err != nil || number != 0x4000 || !bytes.Equal(data, payload) {
				t.Errorf("channel %x, %x, %v", number, data, err)
			}
		}
	}
}

func TestChannelNumbers(t *testing.T) {
	var c channels
	c.init()
	first, err := c.number(peerA)
	if err != nil || first != firstChannel {
		t.Fatalf("%x, %v", first, err)
	}
	second, _ := c.number(peerB)
	again, _ := c.number(peerA)
	if second != firstChannel+1 || again != first {
		t.Fatalf("%x, then %x", second, again)
	}
	if _, bound := c.table.Load().bound[peerA]; bound {
		t.Error("bound before the server said so")
	}
	if c.table.Load().peers[first] != peerA {
		t.Error("data that arrives before the answer has no peer")
	}
	old := c.table.Load()
	table := &channelTable{clone(old.numbers), clone(old.bound), clone(old.peers)}
	for i := len(table.numbers); i <= lastChannel-firstChannel; i++ {
		table.numbers[netip.AddrPortFrom(loopback, uint16(i))] = 0
	}
	c.table.Store(table)
	if n, err := c.number(netip.MustParseAddrPort("192.0.2.3:5000")); err == nil {
		t.Errorf("channel %x though all are taken", n)
	}
}

// memoryConn is a way to a server that counts messages.
type memoryConn struct {
	framePool
	streaming bool
	sent      int
	bytes     int
}

func (m *memoryConn) serve(func(*udpsock.Packet)) error { return net.ErrClosed }

func (m *memoryConn) send(f *frames, seg int) error {
	m.sent += (len(f.b) + seg - 1) / max(seg, 1)
	m.bytes += len(f.b)
	m.release(f)
	return nil
}

func (m *memoryConn) limit() int            { return maxUDPPayload }
func (m *memoryConn) stream() bool          { return m.streaming }
func (m *memoryConn) local() netip.AddrPort { return netip.AddrPort{} }
func (m *memoryConn) udp() *udpsock.Socket  { return nil }
func (m *memoryConn) close() error          { return nil }

// TestSendBatches sends more than fits one buffer.
func TestSendBatches(t *testing.T) {
	for _, tt := range []struct {
		name        string
		seg, n      int
		bound       bool
		sent, bytes int
	}{
		{"one", 0, 1200, true, 1, 1204},
		{"batch", 1200, 12000, true, 10, 12040},
		{"short end", 1200, 12001, true, 11, 12045},
		{"two buffers", 1200, 64 << 10, true, 55, 64<<10 + 55*4},
		{"indications", 1200, 12000, false, 10, 12000 + 10*36},
		{"nothing", 0, 0, true, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := &memoryConn{}
			a := &Allocation{conn: conn, done: make(chan struct{})}
			a.channels.init()
			if _, err := a.channels.number(peerA); err != nil {
				t.Fatal(err)
			}
			if tt.bound {
				a.channels.bind(peerA)
			}
			if err := a.Send(make([]byte, tt.n), tt.seg, peerA); err != nil {
				t.Fatal(err)
			}
			if conn.sent != tt.sent || conn.bytes != tt.bytes {
				t.Errorf("%d messages with %d bytes, want %d with %d", conn.sent, conn.bytes, tt.sent, tt.bytes)
			}
			if err := a.Send(make([]byte, 1<<16), 0, peerA); err == nil {
				t.Error("no error for a datagram longer than any")
			}
		})
	}
}

// dropAll is a handler without a memory.
type dropAll struct{}

func (dropAll) HandleData(p *udpsock.Packet)      { p.Release() }
func (dropAll) HandleSTUN([]byte, netip.AddrPort) {}

// TestDataPathAllocates asserts that a bound channel costs no garbage.
func TestDataPathAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	a := &Allocation{conn: &memoryConn{}, done: make(chan struct{})}
	a.channels.init()
	if _, err := a.channels.number(peerA); err != nil {
		t.Fatal(err)
	}
	a.channels.bind(peerA)
	out := make([]byte, 20*1200)
	for i := range out {
		out[i] = 0x40
	}
	if n := testing.AllocsPerRun(200, func() { _ = a.Send(out, 1200, peerA) }); n >= 1 {
		t.Errorf("%v allocations for each Send", n)
	}
	var in []byte
	for d := range udpsock.Cut(out, 1200) {
		in = stunmsg.AppendChannelData(in, firstChannel, d, false)
	}
	a.in.h = dropAll{}
	if n := testing.AllocsPerRun(200, func() { a.read(udpsock.NewPacket(in, 1204, loopbackServer)) }); n >= 1 {
		t.Errorf("%v allocations for each batch received", n)
	}
}

func BenchmarkSend(b *testing.B) {
	a := &Allocation{conn: &memoryConn{}, done: make(chan struct{})}
	a.channels.init()
	if _, err := a.channels.number(peerA); err != nil {
		b.Fatal(err)
	}
	a.channels.bind(peerA)
	out := make([]byte, 20*1200)
	b.SetBytes(int64(len(out)))
	for b.Loop() {
		_ = a.Send(out, 1200, peerA)
	}
}

func BenchmarkUnpack(b *testing.B) {
	var in []byte
	for range 20 {
		in = stunmsg.AppendChannelData(in, firstChannel, bytes.Repeat([]byte{0x40}, 1200), false)
	}
	u := unpacker{h: dropAll{}, peers: map[uint16]netip.AddrPort{firstChannel: peerA}}
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		u.unpack(udpsock.NewPacket(in, 1204, loopbackServer))
	}
}

// strictHandler fails on whatever no handler may be given.
type strictHandler struct{ t *testing.T }

func (h strictHandler) HandleData(p *udpsock.Packet) {
	if len(p.Data) == 0 || p.Seg <= 0 || p.Seg > len(p.Data) || !p.Src.IsValid() {
		h.t.Errorf("packet of %d bytes in %d from %v", len(p.Data), p.Seg, p.Src)
	}
	for d := range p.Datagrams() {
		if d[0] <= 3 {
			h.t.Errorf("data that begins with %d", d[0])
		}
	}
	p.Release()
}

func (h strictHandler) HandleSTUN(b []byte, _ netip.AddrPort) {
	if err := stunmsg.Check(b, stunmsg.AsPeer); err != nil {
		h.t.Error(err)
	}
}

// FuzzUnpack cuts any bytes in any way and compares with one at a time: batching
// must not change what arrives.
func FuzzUnpack(f *testing.F) {
	ch := func(n uint16, s string) []byte { return stunmsg.AppendChannelData(nil, n, []byte(s), false) }
	check := string(stunmsg.NewRequest(stunmsg.MethodBinding).Bytes())
	data := stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peerA).Data([]byte(check)).Bytes()
	f.Add(bytes.Repeat(ch(0x4000, "abcd"), 5), uint16(8))
	f.Add(slices.Concat(ch(0x4000, "abcd"), ch(0x4001, "efgh"), ch(0x4000, "i")), uint16(8))
	f.Add(slices.Concat(ch(0x4000, check), ch(0x4000, "abcdefghijklmnopqrst")), uint16(24))
	f.Add(slices.Concat(data, data), uint16(len(data)))
	f.Add([]byte{0, 0x17, 0, 4, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0, 0}, uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, seg uint16) {
		if len(b) == 0 || len(b) > 1<<15 {
			return
		}
		peers := map[uint16]netip.AddrPort{0x4000: peerA, 0x4001: peerB}
		responses := func([]byte) {}
		var single batches
		for d := range udpsock.Cut(b, int(seg)) {
			u := unpacker{h: &single, peers: peers, response: responses}
			u.unpack(udpsock.NewPacket(d, 0, loopbackServer))
		}
		var all flatten
		u := unpacker{h: &all, peers: peers, response: responses}
		u.unpack(udpsock.NewPacket(b, int(seg), loopbackServer))
		slices.Sort(single.got) // STUN overtakes data within a batch
		slices.Sort(all.got)
		if !slices.Equal(single.got, all.got) {
			t.Errorf("one by one %q, together %q", single.got, all.got)
		}
		u.h = strictHandler{t}
		u.unpack(udpsock.NewPacket(b, int(seg), loopbackServer))
	})
}

// flatten is batches with each datagram told apart.
type flatten struct{ batches }

func (f *flatten) HandleData(p *udpsock.Packet) {
	for d := range p.Datagrams() {
		f.batches.HandleData(udpsock.NewPacket(d, 0, p.Src))
	}
	p.Release()
}

// TestBatchesOverUDP shows that a batch stays one system call where the kernel
// can do that: ChannelData both ways between two sockets, one of them a client's.
func TestBatchesOverUDP(t *testing.T) {
	server, err := udpsock.Listen(udpsock.Config{Network: "udp4", Addr: netip.AddrPortFrom(loopback, 0), Raw: true})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := listenUDPConn(ClientConfig{Server: server.LocalAddr()})
	if err != nil {
		t.Fatal(err)
	}
	if gso, gro := conn.sock.Offload(); !gso || !gro {
		server.Close()
		conn.close()
		t.Skip("no segmentation offload here")
	}
	atServer, atClient := newInbox(), newInbox()
	u := unpacker{h: atClient, peers: map[uint16]netip.AddrPort{firstChannel: peerA}}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(context.Background(), atServer) })
	serving.Go(func() { _ = conn.serve(u.unpack) })
	t.Cleanup(func() { server.Close(); conn.close(); serving.Wait() })

	a := &Allocation{conn: conn, done: make(chan struct{})}
	a.channels.init()
	if _, err := a.channels.number(peerA); err != nil {
		t.Fatal(err)
	}
	a.channels.bind(peerA)
	if err := a.Send(bytes.Repeat([]byte{0x40}, 10*1000), 1000, peerA); err != nil {
		t.Fatal(err)
	}
	if c := conn.sock.Counters(); c.Sends != 1 || c.TxPackets != 10 {
		t.Errorf("%d sends for %d datagrams", c.Sends, c.TxPackets)
	}
	p := atServer.packet(t)
	if p.Count() != 10 || p.Seg != 1004 {
		t.Errorf("the server reads %d datagrams of %d bytes at once", p.Count(), p.Seg)
	}
	back := netip.AddrPortFrom(loopback, conn.local().Port())
	if err := server.Send(p.Data, p.Seg, back); err != nil {
		t.Fatal(err)
	}
	if p := atClient.packet(t); p.Count() != 10 || p.Seg != 1000 || p.Src != peerA {
		t.Errorf("the client gets %d datagrams of %d bytes from %v at once", p.Count(), p.Seg, p.Src)
	}
	if c := conn.sock.Counters(); c.Reads != 1 || c.RxPackets != 10 {
		t.Errorf("%d reads for %d datagrams", c.Reads, c.RxPackets)
	}
}
