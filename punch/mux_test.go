package punch

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// Two attempts at the same time, between the same two sockets.
func TestTwoAttemptsOnOneMux(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		second := &match{world: m.world, signaling: m.signaling, a: again(m.a), b: again(m.b)}
		second.a.cfg.Remote, second.b.cfg.Remote = second.b.cfg.Local, second.a.cfg.Local
		var wg sync.WaitGroup
		wg.Go(func() { m.run(t.Context()) })
		wg.Go(func() { second.run(t.Context()) })
		wg.Wait()
		m.connected(t)
		second.connected(t)
	})
}

// again is the same host with credentials for another attempt.
func again(s *side) *side {
	c := *s
	c.cfg.Local = NewCredentials()
	return &c
}

// Many attempts one after another leave nothing behind but the last ones, for
// which the mux answers.
func TestManyAttemptsOnOneMux(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		for range 50 {
			m.a, m.b = again(m.a), again(m.b)
			m.a.cfg.Remote, m.b.cfg.Remote = m.b.cfg.Local, m.a.cfg.Local
			m.run(t.Context())
			m.connected(t)
		}
		for _, s := range []*side{m.a, m.b} {
			mux := s.node.mux
			if len(mux.conns) != len(mux.order) || len(mux.conns) > maxEnded || len(mux.transactions) != 0 {
				t.Errorf("left: %d conns, %d in order, %d transactions", len(mux.conns), len(mux.order), len(mux.transactions))
			}
			time.Sleep(answerFor + time.Second)
			if mux.sweep(time.Now()); len(mux.conns) != 0 {
				t.Errorf("%d conns left after %s", len(mux.conns), answerFor)
			}
		}
	})
}

// Two families: IPv4 is blocked, IPv6 is not. One socket of each, no opener on
// IPv6, and the result names the socket.
func TestTwoFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, udpBlocked)
		for i, s := range []*side{m.a, m.b} {
			six := m.world.add(none, uint16(7000+i), s.cfg.Trace)
			six.addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(1 + i)}), six.addr.Port())
			s.cfg.Muxes = append(s.cfg.Muxes, six.mux)
			s.cfg.OpenerTTL = 2
			other := []*side{m.b, m.a}[i]
			other.cfg.Candidates = append(other.cfg.Candidates, candidates.Candidate{Type: candidates.Host, Addr: six.addr})
		}
		m.run(t.Context())
		for _, s := range []*side{m.a, m.b} {
			six := s.cfg.Muxes[1]
			if s.err != nil || s.res.Mux != six || s.res.Local != six.LocalAddr() || s.res.Type != candidates.Host {
				t.Fatalf("%+v, %v", s.res, s.err)
			}
			for _, p := range six.Sender().(*node).packets() {
				if p.ttl != 64 {
					t.Errorf("opener on IPv6 to %s", p.dst)
				}
			}
		}
	})
}

func TestPeerReflexiveResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(addressRestricted, symmetric)
		m.world.latency = 15 * time.Millisecond
		m.run(t.Context())
		m.connected(t)
		if m.a.res.Type != candidates.PeerReflexive || m.b.res.Type != candidates.ServerReflexive {
			t.Errorf("types %s and %s, want prflx and srflx", m.a.res.Type, m.b.res.Type)
		}
		for _, s := range []*side{m.a, m.b} {
			if s.res.RTT != 30*time.Millisecond {
				t.Errorf("rtt %s, want 30 ms", s.res.RTT)
			}
		}
		// The caller's filter holds for learned addresses, too.
		n := newMatch(addressRestricted, symmetric)
		n.a.cfg.Allow = func(netip.AddrPort) bool { return false }
		n.run(t.Context())
		if n.a.err == nil {
			t.Errorf("connected to a refused address: %v", n.a.res)
		}
	})
}

func TestMuxRefusesAttempts(t *testing.T) {
	m := newMatch(none, none)
	a := newAttempt(m.a.cfg, false, time.Now())
	if _, err := m.a.node.mux.open(a, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.a.node.mux.open(a, time.Now()); err == nil {
		t.Error("one ufrag twice")
	}
	m.a.node.mux.Close()
	m.a.node.mux.Close()
	if _, err := Run(t.Context(), m.a.cfg); !errors.Is(err, net.ErrClosed) {
		t.Errorf("attempt on a closed mux: %v", err)
	}
}

// A socket that cannot send is told of in the end, and its loss is not the end.
func TestSendErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		broken := &brokenSender{m.a.node}
		mux := NewMux(broken, nil)
		m.a.cfg.Muxes = []*Mux{mux}
		_, err := Run(t.Context(), m.a.cfg)
		var no *NoPathError
		if !errors.As(err, &no) || !errors.Is(err, errUnreachable) {
			t.Errorf("%v", err)
		}
	})
}

var errUnreachable = errors.New("network is unreachable")

type brokenSender struct{ *node }

func (*brokenSender) Send([]byte, int, netip.AddrPort) error    { return errUnreachable }
func (*brokenSender) SendTTL([]byte, netip.AddrPort, int) error { return errUnreachable }

// The conn does what pion relies on: deadlines and Close unblock a reader.
func TestConnUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		c := newConn(m.a.node.mux, newAttempt(m.a.cfg, false, time.Now()))
		read := func() error { _, _, err := c.ReadFrom(make([]byte, 100)); return err }
		blocked := func(unblock func(), want error) {
			t.Helper()
			got := make(chan error)
			go func() { got <- read() }()
			synctest.Wait()
			unblock()
			if err := <-got; !errors.Is(err, want) {
				t.Errorf("read: %v, want %v", err, want)
			}
		}
		blocked(func() { c.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded)
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("deadline passed: %v", err)
		}
		blocked(func() {}, os.ErrDeadlineExceeded)
		start := time.Now()
		c.SetDeadline(start.Add(time.Second))
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		c.SetReadDeadline(time.Time{})
		blocked(func() { c.deliver([]byte("x"), stunServer) }, nil)
		for range 2 * connQueue {
			c.deliver([]byte("x"), stunServer)
		}
		if len(c.queue) != connQueue {
			t.Errorf("%d packets queued, want %d", len(c.queue), connQueue)
		}
		c.queue = nil
		blocked(func() { c.Close() }, net.ErrClosed)
		if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(stunServer)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

// Whatever bytes come from whatever source, nothing unauthenticated reaches an
// agent, is learned, or is answered.
func FuzzHandleSTUN(f *testing.F) {
	m := newMatch(none, none)
	user := m.a.cfg.Local.Ufrag + ":" + m.a.cfg.Remote.Ufrag
	request := stunmsg.NewRequest(stunmsg.MethodBinding).Username(user).IceControlled(1).Priority(1)
	f.Add(request.Bytes())
	f.Add(request.Sign([]byte("a wrong password")).Fingerprint().Bytes())
	f.Add(openerPacket())
	a := newAttempt(m.a.cfg, false, time.Now())
	c, err := m.a.node.mux.open(a, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range []phase{opening, checking, answering} {
			a.enter(p, time.Now().Add(time.Hour))
			m.a.node.mux.HandleSTUN(b, stunServer)
		}
		if len(c.queue) != 0 || len(a.gate.dests) != 0 || len(m.a.node.packets()) != 0 {
			t.Fatalf("%x had an effect", b)
		}
	})
}
