package udpsock

import "testing"

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
	l := NewLoops(1, false)
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
	l := NewLoops(1, false)
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
