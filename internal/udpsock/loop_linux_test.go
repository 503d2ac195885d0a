package udpsock

import (
	"testing"
	"time"
)

// A loop naps from the rate on where several datagrams come in a nap, and is
// awake again as soon as fewer come.
func TestPace(t *testing.T) {
	now := time.Unix(1000, 0)
	var p pace
	at := func(perSecond int, d time.Duration) (naps bool) {
		for end := now.Add(d); now.Before(end); now = now.Add(100 * time.Microsecond) {
			p.packets += perSecond / 10000
			naps = p.nap(now)
		}
		return naps
	}
	if at(0, 10*time.Millisecond) {
		t.Error("naps when nothing comes")
	}
	if !at(40000, 10*time.Millisecond) {
		t.Error("does not nap at 40000 datagrams a second")
	}
	if at(0, 3*time.Millisecond) {
		t.Error("naps still when nothing comes any more")
	}
}

// A datagram never waits long for a loop that naps.
func TestNapIsShort(t *testing.T) {
	best := time.Hour
	for range 20 {
		start := time.Now()
		nap(napTime)
		best = min(best, time.Since(start))
	}
	if best > 2*time.Millisecond {
		t.Errorf("a nap of %v took %v at best", napTime, best)
	}
}

func TestNextSize(t *testing.T) {
	for _, tc := range []struct{ size, n, bytes, want int }{
		{16, 1, 100, 16},
		{16, 16, 1600, 32},
		{4, 1, 100, 16},
		{64, 64, 6400, 64},
		{64, 20, 2000, 64},
		{64, 2, 200, 32},
		{64, 64, 64 << 16, 4}, // coalesced by the kernel
		{8, 8, 8 * 16000, 16},
		{16, 1, 0, 16},
	} {
		if got := nextSize(tc.size, tc.n, tc.bytes); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

func TestLoopForgetsClosedSockets(t *testing.T) {
	l, err := NewLoops(1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Listen(Config{Network: "udp4"})
	if err != nil {
		t.Fatal(err)
	}
	l.Read(s, newInbox())
	s.Close()
	l.loops[0].mu.Lock()
	defer l.loops[0].mu.Unlock()
	if n := len(l.loops[0].watched); n != 0 {
		t.Errorf("%d closed sockets are still watched", n)
	}
}

// Some sandboxes have no recvmmsg: then a loop takes one message a call.
func TestLoopWithoutRecvmmsg(t *testing.T) {
	l, err := NewLoops(1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.loops[0].batch.single = true
	m := mode{"udp4", "127.0.0.1:0", false}
	in := newInbox()
	s, from := l.listenAnd(t, m, in), m.listen(t)
	for range 3 {
		from.Send(pattern(5*100, 100), 100, s.LocalAddr())
	}
	for range 15 {
		if d := receive(t, in.data); len(d) != 100 {
			t.Fatalf("datagram of %d bytes", len(d))
		}
	}
}
