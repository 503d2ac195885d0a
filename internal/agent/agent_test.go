package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
	"github.com/p2pagent/p2pagent/signaling"
)

// The whole life: known peers meet, the link comes up, moves to the direct
// path, carries data, and ends cleanly on both sides.
func TestLink(t *testing.T) {
	_, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	stopB := startListener(t, b)
	c, stopA := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1<<20)
	await(t, a.events, 0, movedTo("direct"))
	await(t, b.events, 0, movedTo("direct"))
	if err := stopA(); err != nil {
		t.Errorf("connector: %v", err)
	}
	await(t, b.events, 0, func(e trace.SessionState) bool { return e.State == "closed" })
	if err := stopB(); err != nil {
		t.Errorf("listener: %v", err)
	}
}

func TestRelayOnly(t *testing.T) {
	d, a, b, target := twoMachines(t)
	a.cfg.RelayOnly = true
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1<<20)
	if _, _, changed := find(a.events, 0, movedTo("direct")); changed == nil {
		t.Error("payload moved to a direct path")
	}
	if _, _, changed := find(b.events, 0, func(e trace.Candidate) bool {
		return e.Remote && e.Type != string(candidates.Relayed)
	}); changed == nil {
		t.Error("a host or reflexive address left the side with --relay-only")
	}
	if _, _, changed := find(b.events, 0, func(e trace.NATMeasured) bool { return e.Remote && len(e.Mapped) > 0 }); changed == nil {
		t.Error("a mapped address left the side with --relay-only")
	}
	until(t, "the relay to count the payload", func() bool { // which it does after each packet has left
		s := d.relay.Stats().Relay
		return s.ClientToPeerBytes+s.PeerToClientBytes >= 2<<20
	})
}

func TestRequireDirect(t *testing.T) {
	d, a, b, target := twoMachines(t)
	a.cfg.RequireDirect = true
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1<<20)
	if s := d.relay.Stats().Relay; s.ClientToPeerBytes+s.PeerToClientBytes != 0 {
		t.Errorf("the relay carried %+v", s)
	}
}

// Pairing by code, then the link that it was for.
func TestPair(t *testing.T) {
	_, a, b, target := twoMachines(t)
	codes := make(chan identity.Code, maxCodes)
	ls, err := NewListener(b.cfg, ListenConfig{OnCode: func(c identity.Code, _ string) { codes <- c }})
	if err != nil {
		t.Fatal(err)
	}
	start(t, ls.Run)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	peer, err := Pair(ctx, a.cfg, <-codes, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if peer.Name != "bob" || peer.Fingerprint != b.cfg.Key.Fingerprint() {
		t.Errorf("paired with %+v", peer)
	}
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1000)
}

// Forgetting locks out at once: the live link ends, and no new one begins.
func TestForget(t *testing.T) {
	_, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	conn.Write([]byte("x"))
	io.ReadFull(conn, make([]byte, 1))
	if err := b.cfg.Peers.Forget("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("a connection of a forgotten peer ended cleanly")
	}
	await(t, b.events, 0, func(e trace.SessionState) bool {
		return e.State == "closed" && strings.Contains(e.Why, ErrForgotten.Error())
	})
}

// The link outlives the signaling server, and the next meeting finds it.
func TestSignalingGoesAndComes(t *testing.T) {
	_, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)
	_, at := await(t, a.events, 0, movedTo("direct"))
	c.env.client.Kick("this is a test")
	_, at = await(t, a.events, at, func(e trace.SignalState) bool {
		return e.State == "lost" && e.Why == "reconnecting, as this is a test"
	})
	roundTrip(t, addr, 1<<20)
	// The other side sees it leave and come, and does not wait for it.
	_, left := await(t, b.events, 0, func(e trace.PeerState) bool { return !e.Present && e.Linked })
	await(t, b.events, left, func(e trace.PeerState) bool { return e.Present && e.Linked })
	await(t, a.events, at, func(e trace.PeerState) bool { return e.Present && e.Linked })
	await(t, a.events, at, func(e trace.SignalMessage) bool { return e.Via == viaSignaling && !e.Sent })
	roundTrip(t, addr, 1000)
	if _, _, changed := find(a.events, at, func(e trace.SessionState) bool { return e.State == "closed" }); changed == nil {
		t.Error("the session did not survive")
	}
}

// A listener that restarts is found again, by a connector that never gave up.
func TestListenerRestarts(t *testing.T) {
	_, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	stopB := startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)
	stopB()
	_, at := await(t, a.events, 0, func(e trace.SessionState) bool { return e.State == "closed" })
	startListener(t, b)
	await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "up" })
	roundTrip(t, addr, 1000)
}

// Two connectors of one machine, and a third machine, use one listener.
func TestSeveralLinks(t *testing.T) {
	d := deploy(t)
	a, b, x := newMachine(t, d, "a"), newMachine(t, d, "b"), newMachine(t, d, "x")
	target := echo(t)
	b.cfg.Allow = allow(t, target)
	aPeer, _ := befriend(t, a, b)
	xPeer, _ := befriend(t, x, b)
	startListener(t, b)
	c1, _ := startConnector(t, a, aPeer, ConnectConfig{Timeout: patience})
	c2, _ := startConnector(t, a, aPeer, ConnectConfig{Timeout: patience})
	c3, _ := startConnector(t, x, xPeer, ConnectConfig{Timeout: patience})
	for _, c := range []*Connector{c1, c2, c3} {
		roundTrip(t, forwardTo(t, c, target), 100_000)
	}
}

// -R: a port on the listener's side leads to a target here.
func TestRemoteForward(t *testing.T) {
	d := deploy(t)
	a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
	bind := freePort(t)
	_, port, _ := net.SplitHostPort(bind)
	b.cfg.Allow = allow(t, "listen:"+port)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	startConnector(t, a, peer, ConnectConfig{Timeout: patience, Remotes: []forward.Spec{
		{Bind: bind, Target: echo(t)}, {Bind: "127.0.0.1:1", Target: "127.0.0.1:1"},
	}})
	await(t, a.events, 0, func(e trace.StreamRefused) bool { return strings.Contains(e.Why, "--allow list") })
	until(t, "the port to be open", func() bool {
		conn, err := net.Dial("tcp", bind)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	roundTrip(t, bind, 1<<18)
}

// A bound for the direct path begins when the peer is there: neither server nor peer
// is given up for it.
func TestDirectTimeout(t *testing.T) {
	d := deploy(t)
	a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
	peer, _ := befriend(t, a, b)
	a.cfg.RequireDirect, a.cfg.Loopback = true, false // of loopback's addresses none is used, so no path is direct
	nowhere := a.cfg
	nowhere.SignalURL = "ws://127.0.0.1:1#token"
	at := 0
	for _, name := range []string{"no server", "no peer"} {
		cfg := a.cfg
		if name == "no server" {
			cfg = nowhere
		}
		c, err := NewConnector(cfg, peer, ConnectConfig{DirectTimeout: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		if name == "no server" {
			for range 3 { // and half a second of pauses
				_, at = await(t, a.events, at, func(e trace.SignalState) bool { return e.State == "lost" })
			}
		} else {
			await(t, a.events, at, func(e trace.PeerState) bool { return !e.Present })
		}
		select {
		case err := <-ended:
			t.Errorf("%s: gave up with %v", name, err)
		case <-time.After(50 * time.Millisecond):
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s, interrupted: %v", name, err)
		}
	}
	startListener(t, b)
	c, err := NewConnector(a.cfg, peer, ConnectConfig{DirectTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !errors.Is(err, ErrOnlyRelayed) {
		t.Errorf("no direct path: %v", err)
	}
}

// What does not come in time is told apart.
func TestTimeouts(t *testing.T) {
	d := deploy(t)
	a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
	peer, _ := befriend(t, a, b)
	run := func(cfg Config, within time.Duration) error {
		c, err := NewConnector(cfg, peer, ConnectConfig{Timeout: within})
		if err != nil {
			t.Fatal(err)
		}
		return c.Run(t.Context())
	}
	if err := run(a.cfg, absence); !errors.Is(err, ErrPeerAbsent) {
		t.Errorf("nobody listens: %v", err)
	}
	bad := a.cfg
	bad.SignalURL = "ws://127.0.0.1:1#token"
	if err := run(bad, time.Second); !errors.Is(err, ErrSignaling) {
		t.Errorf("no server: %v", err)
	}
	bad.SignalURL = strings.TrimSuffix(d.url, "token") + "guess"
	if err := run(bad, patience); !errors.Is(err, ErrRefused) {
		t.Errorf("wrong token: %v", err)
	}
}

func TestStatusSocket(t *testing.T) {
	d := deploy(t)
	a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	await(t, a.events, 0, movedTo("direct"))
	await(t, b.events, 0, movedTo("direct")) // either may be the one that answers
	sts, err := ReadStatuses()
	if err != nil {
		t.Fatal(err)
	}
	// Both run in this process, so the second took over the socket's name.
	if len(sts) != 1 || len(sts[0].Links) != 1 || sts[0].Links[0].Path == nil || !sts[0].Signal.Connected {
		t.Errorf("status: %+v", sts)
	}
}

// One known peer that floods a listener harms nobody else.
func TestHostilePeer(t *testing.T) {
	d := deploy(t)
	a, b, x := newMachine(t, d, "a"), newMachine(t, d, "b"), newMachine(t, d, "x")
	target := echo(t)
	b.cfg.Allow = allow(t, target)
	aPeer, _ := befriend(t, a, b)
	xPeer, _ := befriend(t, x, b)
	startListener(t, b)
	c, _ := startConnector(t, a, aPeer, ConnectConfig{Timeout: patience})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)

	enc := meetAs(t, x, xPeer)
	began := time.Now()
	const offers = 50
	flood := func(m *message) {
		if err := enc.say(t.Context(), m); err != nil && !errors.Is(err, signaling.ErrAbsent) {
			t.Logf("say: %v", err) // the server holds us back, which is fine
		}
	}
	for i := range offers {
		o := offer{Key: make([]byte, keyBytes)}
		rand.Read(o.Link[:])
		flood(&message{Offer: &o})
		for j := range 4 {
			seq := uint64(4*i + j + 1)
			flood(&message{Seq: seq, Attempt: &attemptMessage{ID: rand.Text(), ICE: punch.NewCredentials(), Trigger: "retry"}})
		}
	}
	roundTrip(t, addr, 1000)
	if _, _, changed := find(a.events, 0, func(e trace.SessionState) bool { return e.State == "closed" }); changed == nil {
		t.Error("another peer's flood ended our link")
	}
	b.events.mu.Lock()
	defer b.events.mu.Unlock()
	started := 0
	for _, r := range b.events.records {
		if _, ok := r.Event.(trace.AttemptStarted); ok && r.Peer == "x" {
			started++
		}
	}
	// The first of each link, and as many as may follow.
	if took := time.Since(began); started > offers+int(took/(attemptGap/2)) {
		t.Errorf("%d attempts in %v", started, took)
	}
}

// meetAs meets a listener by hand.
func meetAs(t *testing.T, m *machine, peer identity.Peer) *encounter {
	t.Helper()
	client, err := signaling.NewClient(signaling.ClientConfig{URL: m.cfg.SignalURL})
	if err != nil {
		t.Fatal(err)
	}
	start(t, client.Run)
	box := client.Join(identity.MailboxID(peer.Secret, peer.Fingerprint), signaling.RoleGuest)
	meeting, err := identity.NewMeeting(connector, m.cfg.Key.Fingerprint(), peer, box.Name())
	if err != nil {
		t.Fatal(err)
	}
	for ev := range box.Events() {
		switch ev.Kind {
		case signaling.PeerHere:
			first, err := meeting.Write(nil)
			if err := errors.Join(err, box.Send(t.Context(), signaling.HostSeat, first)); err != nil {
				t.Fatal(err)
			}
		case signaling.Message:
			if _, err := meeting.Read(ev.Body); err != nil {
				t.Fatal(err)
			}
			go func() {
				for range box.Events() {
				}
			}()
			return &encounter{box: box, seat: signaling.HostSeat, ch: meeting.Channel()}
		}
	}
	t.Fatal("no meeting")
	return nil
}

// A listener knows more peers than a few.
func TestManyKnownPeers(t *testing.T) {
	d, a, b, target := twoMachines(t)
	for range 60 {
		befriend(t, newMachine(t, d, "other"), b)
	}
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1000)
}

// Two policies that exclude each other are refused at once.
func TestPoliciesClash(t *testing.T) {
	d := deploy(t)
	a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
	a.cfg.RelayOnly, b.cfg.RequireDirect = true, true
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, err := NewConnector(a.cfg, peer, ConnectConfig{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "requires the relay") {
		t.Errorf("got %v", err)
	}
}

// A server that turns us away ends the process, but not a link that lives.
func TestLinkOutlivesRefusal(t *testing.T) {
	d, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, stop := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)
	_, at := await(t, a.events, 0, movedTo("direct"))
	d.web.Config.Handler = refusing(t)
	c.env.client.Kick("this is a test")
	await(t, a.events, at, func(e trace.Failure) bool { return e.Where == "signaling" })
	roundTrip(t, addr, 1<<18)

	// And is locked out all the same.
	if err := a.cfg.Peers.Forget(peer.Name); err != nil {
		t.Fatal(err)
	}
	await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "closed" })
	stop()
}

// refusing is a signaling server with another token.
func refusing(t *testing.T) *signaling.Server {
	t.Helper()
	s, err := signaling.NewServer(signaling.ServerConfig{Token: "another"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Drain(ctx)
	})
	return s
}

// A -R whose port is taken is asked for until it is free.
func TestRemoteForwardAsksAgain(t *testing.T) {
	_, a, b, _ := twoMachines(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bind := taken.Addr().String()
	_, port, _ := net.SplitHostPort(bind)
	b.cfg.Allow = allow(t, "listen:"+port)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	startConnector(t, a, peer, ConnectConfig{Timeout: patience, Remotes: []forward.Spec{{Bind: bind, Target: echo(t)}}})
	await(t, a.events, 0, func(e trace.StreamRefused) bool {
		return e.Port == bind && e.Code == ErrRefused.Error() && strings.Contains(e.Why, "in use")
	})
	taken.Close()
	until(t, "the port to be open", func() bool {
		conn, err := net.Dial("tcp", bind)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	roundTrip(t, bind, 1000)
}
