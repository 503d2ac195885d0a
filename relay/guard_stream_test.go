package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func dialStream(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp4", s.StreamAddr("tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantClosed waits for the server to end the connection.
func wantClosed(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, c); isTimeout(err) {
		t.Fatalf("still open after %v, %d bytes read", patience, n)
	}
}

func TestRelayOverTLS(t *testing.T) {
	cfg := labConfig()
	cfg.TLS = selfSigned(t)
	checkRelay(t, startServer(t, cfg), "tls")
}

// Frames that make pion's framing spin or recurse end the connection.
func TestHostileFrames(t *testing.T) {
	s := startServer(t, labConfig())
	for name, b := range map[string][]byte{
		"ChannelData of 0xFFFC": {0x40, 0, 0xff, 0xfc, 1, 2, 3, 4, 5},
		"STUN of 0xFFEC":        {0, 1, 0xff, 0xec, 0x21, 0x12, 0xa4, 0x42, 0},
		"ChannelData of 1600":   {0x40, 0, 0x06, 0x40, 0},
		"neither":               []byte("GET / HTTP/1.1\r\n\r\n"),
		"no cookie":             {0, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialStream(t, s)
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			wantClosed(t, c)
		})
	}
	checkRelay(t, s, "tcp")
}

// A frame that is too long costs a client with an allocation that frame.
func TestLongFrames(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "tcp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	c.sendChannel(0x4000, strings.Repeat("x", 1577))
	c.sendIndication(p.addr(), strings.Repeat("x", 0xFF00))
	c.sendChannel(0x4000, strings.Repeat("x", 0xFFFF))
	c.sendChannel(0x4000, "and on")
	p.want(relayed, "and on")
	if n := s.count.drops[dropTooLong].Load(); n != 3 {
		t.Errorf("%d dropped, want 3", n)
	}
}

// A peer's datagrams that do not fit a frame are lost to a client over a stream,
// and nothing else is.
func TestLongDatagramsToAStream(t *testing.T) {
	s := startServer(t, labConfig())
	c, p, q := dialTURN(t, s, "tcp", "u"), newPeer(t), newPeer(t) // q has no channel
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	fits := strings.Repeat("x", stunmsg.MaxFrame-stunmsg.ChannelDataHeaderSize)
	for _, peer := range []peer{p, q} {
		peer.send(relayed, fits+"x")
		peer.send(relayed, strings.Repeat("x", 60000))
	}
	batchFromPeer(s.ledger.atPort(relayed.Port()), p.addr(), strings.Repeat("x", 2000), strings.Repeat("x", 2000), "the last")
	p.send(relayed, fits)
	for _, want := range []string{"the last", fits} {
		c.wantChannel(0x4000, want)
	}
	q.send(relayed, "without a channel")
	c.wantIndication(q.addr(), "without a channel")
	waitFor(t, "the last frame to be counted", func() bool { return s.Stats().Relay.ToClientPackets >= 3 }) // after it has left
	if n := s.count.drops[dropTooLong].Load(); n != 6 {
		t.Errorf("%d dropped as too long, want 6", n)
	}
	if st := s.Stats().Relay; st.FromPeerPackets != 9 || st.ToClientPackets != 3 {
		t.Errorf("counted %+v", st)
	}
}

// Who drips bytes holds a connection no longer than who says nothing.
func TestDrippedBytes(t *testing.T) {
	cfg := labConfig()
	cfg.Limits.StreamIdle = 200 * time.Millisecond
	s := startServer(t, cfg)
	drip := func() int {
		c := dialStream(t, s)
		dripped := make(chan int)
		go func() {
			n := 0
			defer func() { dripped <- n }()
			b := stunmsg.NewRequest(stunmsg.MethodBinding).Bytes()
			for {
				if _, err := c.Write(b[n%len(b):][:1]); err != nil {
					return
				}
				n++
				time.Sleep(5 * time.Millisecond)
			}
		}()
		wantClosed(t, c)
		c.Close()
		return <-dripped
	}
	waitFor(t, "bytes that drip", func() bool { return drip() > 1 }) // a stalled machine may drip none
	waitFor(t, "its seat to be free", func() bool { return s.seats.taken() == 0 })
	cfg.Limits.StreamIdle = 0
	checkRelay(t, startServer(t, cfg), "tcp")
}

// A whole allocation in single bytes works, at no more cost than their number.
func TestFramesInPieces(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "tcp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	for _, b := range stunmsg.AppendChannelData(nil, 0x4000, []byte("piecemeal"), true) {
		c.write([]byte{b})
	}
	p.want(relayed, "piecemeal")
}

func TestStalledTLSHandshake(t *testing.T) {
	cfg := labConfig()
	cfg.TLS = selfSigned(t)
	cfg.Limits.StreamIdle = 200 * time.Millisecond
	s := startServer(t, cfg)
	c, err := net.Dial("tcp4", s.StreamAddr("tls").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte{22, 3, 1}) // the beginning of a ClientHello
	wantClosed(t, c)
	waitFor(t, "its seat to be free", func() bool { return s.seats.taken() == 0 })
}

func TestStreamCaps(t *testing.T) {
	cfg := labConfig()
	cfg.Limits.StreamsPerIP = 3
	s := startServer(t, cfg)
	first := dialStream(t, s)
	dialStream(t, s)
	dialStream(t, s)
	waitFor(t, "three seats", func() bool { return s.seats.taken() == 3 })
	wantClosed(t, dialStream(t, s))
	if n := s.count.drops[dropStream].Load(); n != 1 {
		t.Errorf("%d connections refused", n)
	}
	first.Close()
	waitFor(t, "a free seat", func() bool { return s.seats.taken() == 2 })
	checkRelay(t, s, "tcp")
}

// The end of a connection is the end of its allocation.
func TestStreamEndsAllocation(t *testing.T) {
	s := startServer(t, labConfig())
	c := dialTURN(t, s, "tcp", "u")
	c.allocate()
	c.conn.Close()
	waitFor(t, "the allocation to end", func() bool { return s.ledger.live() == 0 })
	waitFor(t, "its place to be free", func() bool { return s.places() == 0 })
}

// An idle connection lives as long as what a Refresh gave its allocation.
func TestStreamIdleAfterRefresh(t *testing.T) {
	s := startServer(t, labConfig())
	c := brief(t, s, "tcp", func(c *turnClient) *stunmsg.Message { return c.refresh(time.Minute) })
	if b, err := c.readWithin(3 * time.Second); !isTimeout(err) {
		t.Errorf("%d bytes, %v; %d allocations left", len(b), err, s.ledger.live())
	}
}

// A client that does not read loses packets and keeps nobody waiting.
func TestClientThatDoesNotRead(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "tcp", "slow"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	kib := string(make([]byte, 1024))
	waitFor(t, "the queue to fill", func() bool {
		for range 100 {
			p.send(relayed, kib)
		}
		return s.count.drops[dropQueue].Load() > 0
	})
	checkRelay(t, s, "tcp")
	checkRelay(t, s, "udp")
}

// A client that reads slowly is not cut, however long all that waits for it
// takes; one that hardly reads is, over TCP and over TLS.
func TestSlowReaders(t *testing.T) {
	var frames []byte
	for len(frames) < 200<<10 {
		frames = stunmsg.AppendChannelData(frames, 0x4000, make([]byte, 1200), true)
	}
	for name, tc := range map[string]struct {
		each time.Duration // between two reads of 4 KiB
		cut  bool
	}{
		"slow":        {2 * time.Second, false},
		"hardly ever": {4 * time.Second, true},
	} {
		for _, guard := range []*streamGuard{{}, {tls: &tls.Config{}}} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, guard.tls != nil), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ours, theirs := net.Pipe()
					var reader sync.WaitGroup
					reader.Go(func() {
						for b := make([]byte, 4<<10); ; time.Sleep(tc.each) {
							if _, err := io.ReadFull(theirs, b); err != nil {
								return
							}
						}
					})
					begin := time.Now()
					err := (&stream{guard: guard, conn: ours}).flush(frames)
					if isTimeout(err) != tc.cut {
						t.Errorf("after %v: %v", time.Since(begin), err)
					}
					ours.Close()
					reader.Wait()
				})
			})
		}
	}
}

// flakyListener fails so many times, as a process without file descriptors
// does.
type flakyListener struct {
	net.Listener
	left atomic.Int32
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptErrorsAreSurvived(t *testing.T) {
	s, err := NewServer(labConfig())
	if err != nil {
		t.Fatal(err)
	}
	flaky := &flakyListener{Listener: s.streams[0].ln}
	flaky.left.Store(5)
	s.streams[0].ln = s.patient(flaky, "tcp")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	checkRelay(t, s, "tcp")
	if flaky.left.Load() >= 0 {
		t.Error("Accept did not fail")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestIdleTimer(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	timer := newIdleTimer(10*time.Second, start)
	conn, longer := &relayConn{}, &relayConn{}
	conn.granted.Store(int64(time.Minute))
	longer.granted.Store(int64(2 * time.Minute))
	for i, step := range []struct {
		now  int
		conn *relayConn
		want int
		set  bool
	}{
		{0, nil, 10, true},
		{9, nil, 10, false}, // frames do not prolong it
		{9, conn, 129, true},
		{9, conn, 129, false},
		{100, conn, 220, true},
		{100, longer, 340, true},
		{150, nil, 160, true}, // the allocation has ended
		{159, nil, 160, false},
	} {
		got, set := timer.deadline(step.conn, at(step.now))
		if got != at(step.want) || set != step.set {
			t.Errorf("step %d: deadline %v (%v), want %v (%v)", i, got.Sub(start), set, at(step.want).Sub(start), step.set)
		}
	}
}
