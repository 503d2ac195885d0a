package udpsock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// eachLoops runs f with loops as the platform has them, and without any.
func eachLoops(t *testing.T, f func(*testing.T, *Loops, mode)) {
	eachMode(t, func(t *testing.T, m mode) {
		l := NewLoops(2, m.portable)
		t.Cleanup(func() { l.Close() })
		f(t, l, m)
	})
}

func (l *Loops) listenAnd(t *testing.T, m mode, h Handler) *Socket {
	t.Helper()
	s, err := l.Listen(m.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := l.Read(s, h); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLoopsRead(t *testing.T) {
	eachLoops(t, func(t *testing.T, l *Loops, m mode) {
		in := newInbox()
		s, from := l.listenAnd(t, m, in), m.listen(t)
		const n = 200
		for i := range n {
			if err := from.Send([]byte(fmt.Sprintf("datagram %d", i)), 0, s.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		from.Send(bindingRequest(), 0, s.LocalAddr())
		from.Send(pattern(30*1000, 1000), 1000, s.LocalAddr())
		for i := range n {
			if got, want := string(receive(t, in.data)), fmt.Sprintf("datagram %d", i); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			if src := receive(t, in.src); src != from.LocalAddr() {
				t.Fatalf("from %v", src)
			}
		}
		receive(t, in.stun)
		for range 30 {
			if d := receive(t, in.data); len(d) != 1000 {
				t.Fatalf("datagram of %d bytes", len(d))
			}
		}
		if c := s.Counters(); c.RxPackets != n+31 || c.Reads == 0 {
			t.Errorf("counters %+v", c)
		}
	})
}

// What sends on a socket of a loop arrives, in batches and with a time-to-live.
func TestLoopsSend(t *testing.T) {
	eachLoops(t, func(t *testing.T, l *Loops, m mode) {
		in := newInbox()
		s, to := l.listenAnd(t, m, newInbox()), m.listen(t)
		serve(t, to, in)
		batch := pattern(100*1000, 1000)
		if err := errors.Join(s.Send(batch, 1000, to.LocalAddr()), s.SendTTL(batch[:10], to.LocalAddr(), 5)); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if d := receive(t, in.data); len(d) != 1000 {
				t.Fatalf("datagram of %d bytes", len(d))
			}
		}
		if d := receive(t, in.data); len(d) != 10 {
			t.Fatalf("datagram of %d bytes", len(d))
		}
		s.Close()
		if err := s.Send(batch, 0, to.LocalAddr()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
	})
}

// counted is a Handler that tells how many datagrams came together.
type counted struct{ batches chan int }

func (c counted) HandleData(p *Packet) {
	n := p.Count()
	p.Release()
	c.batches <- n
}

func (c counted) HandleSTUN([]byte, netip.AddrPort) {}

// Datagrams that a sender gave the kernel one by one come as one batch.
func TestLoopsJoin(t *testing.T) {
	l := NewLoops(1, false)
	if len(l.loops) == 0 {
		t.Skip("no loops on this platform:", l.Refused())
	}
	defer l.Close()
	m := mode{"udp4", "127.0.0.1:0", false}
	from := m.listen(t)
	together := func() int {
		s, err := l.Listen(m.config())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range 16 {
			from.Send(pattern(1000, 0), 0, s.LocalAddr())
		}
		in := counted{make(chan int, 64)}
		l.Read(s, in)
		return receive(t, in.batches)
	}
	// Under load the kernel may deliver some a little later than it returns.
	n := 0
	for end := time.Now().Add(patience); n != 16 && time.Now().Before(end); n = together() {
	}
	if n != 16 {
		t.Errorf("%d of 16 datagrams came together", n)
	}
}

// lengths is a Handler that tells how many bytes each Packet has.
type lengths chan int

func (h lengths) HandleData(p *Packet) {
	n := len(p.Data)
	p.Release()
	h <- n
}

func (lengths) HandleSTUN([]byte, netip.AddrPort) {}

// An empty datagram is one too, where nobody asks what is in it.
func TestRawTakesEmptyDatagrams(t *testing.T) {
	eachLoops(t, func(t *testing.T, l *Loops, m mode) {
		c := m.config()
		c.Raw = true
		s, err := l.Listen(c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		from := m.listen(t)
		sizes := []int{10, 0, 10, 0, 0}
		for _, n := range sizes {
			if err := from.Send(make([]byte, n), 0, s.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		in := make(lengths, len(sizes))
		if err := l.Read(s, in); err != nil {
			t.Fatal(err)
		}
		for i, want := range sizes {
			if got := receive(t, in); got != want {
				t.Errorf("datagram %d of %d bytes, want %d", i, got, want)
			}
		}
		if c := s.Counters(); c.Malformed != 0 || c.RxPackets != 5 {
			t.Errorf("counted %+v", c)
		}
	})
}

func TestListenEach(t *testing.T) {
	eachLoops(t, func(t *testing.T, l *Loops, m mode) {
		all, err := l.ListenEach(m.config())
		if err != nil {
			t.Fatal(err)
		}
		in := newInbox()
		for _, s := range all {
			defer s.Close()
			if s.LocalAddr() != all[0].LocalAddr() {
				t.Errorf("%v beside %v", s.LocalAddr(), all[0].LocalAddr())
			}
			if err := l.Read(s, in); err != nil {
				t.Fatal(err)
			}
		}
		for range 32 { // sources
			m.listen(t).Send([]byte("to one of them"), 0, all[0].LocalAddr())
			receive(t, in.data)
			receive(t, in.src)
		}
		used := 0
		for _, s := range all {
			if s.Counters().RxPackets > 0 {
				used++
			}
		}
		if used != len(all) {
			t.Errorf("32 sources came to %d of %d sockets", used, len(all))
		}

		// Nobody else gets the address, not even one who would share it too.
		c := m.config()
		c.Addr = all[0].LocalAddr()
		other := NewLoops(2, m.portable)
		defer other.Close()
		if again, err := other.ListenEach(c); err == nil {
			again[0].Close()
			t.Error("an address in use was opened again")
		}
	})
}

// A closed socket's number may be another socket's at once.
func TestLoopsReuseDescriptors(t *testing.T) {
	eachLoops(t, func(t *testing.T, l *Loops, m mode) {
		from := m.listen(t)
		for i := range 100 {
			in := newInbox()
			s, err := l.Listen(m.config())
			if err != nil {
				t.Fatal(err)
			}
			l.Read(s, in)
			from.Send([]byte(fmt.Sprint("round ", i)), 0, s.LocalAddr())
			if got, want := string(receive(t, in.data)), fmt.Sprint("round ", i); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			s.Close()
		}
	})
}

// closer is a Handler that closes its socket.
type closer struct {
	s    *Socket
	done chan struct{}
}

func (c closer) HandleData(p *Packet) {
	p.Release()
	c.s.Close()
	close(c.done)
}

func (c closer) HandleSTUN([]byte, netip.AddrPort) {}

func TestLoopsCloseInHandler(t *testing.T) {
	eachLoops(t, func(t *testing.T, l *Loops, m mode) {
		s, err := l.Listen(m.config())
		if err != nil {
			t.Fatal(err)
		}
		h := closer{s, make(chan struct{})}
		l.Read(s, h)
		m.listen(t).Send([]byte("the last"), 0, s.LocalAddr())
		receive(t, h.done)

		late, err := l.Listen(m.config())
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		l.Close()
		l.Close()
		m.listen(t).Send([]byte("too late"), 0, late.LocalAddr())
		in := newInbox()
		l.Read(late, in)
		select {
		case <-in.data:
			t.Error("read after Close")
		case <-time.After(10 * time.Millisecond):
		}
	})
}

func TestLoopsRefuse(t *testing.T) {
	l := NewLoops(1, false)
	defer l.Close()
	for name, c := range map[string]Config{
		"network": {Network: "tcp4"},
		"family":  {Network: "udp4", Addr: netip.MustParseAddrPort("[::1]:0")},
		"not us":  {Network: "udp4", Addr: netip.MustParseAddrPort("192.0.2.99:0")},
	} {
		if s, err := l.Listen(c); err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
