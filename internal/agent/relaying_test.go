package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/relay"
)

// bothRelayed links two machines by relay alone and returns both ends.
func bothRelayed(t *testing.T) (a, b *link) {
	t.Helper()
	a, b, _, _ = relayedBy(t, deploy(t))
	return a, b
}

// relayedBy is bothRelayed with a given deployment.
func relayedBy(t *testing.T, d *deployment) (a, b *link, ma, mb *machine) {
	t.Helper()
	_, ma, mb, target := twoMachinesOf(t, d)
	ma.cfg.RelayOnly, mb.cfg.RelayOnly = true, true
	peer, _ := befriend(t, ma, mb)
	ls, err := NewListener(mb.cfg, ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	start(t, ls.Run)
	c, _ := startConnector(t, ma, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1000)
	return c.env.live()[0], ls.env.live()[0], ma, mb
}

// onLoop runs f on a link's loop and waits for it.
func onLoop(l *link, f func()) {
	done := make(chan struct{})
	l.do(func() { f(); close(done) })
	<-done
}

// eventually waits until ok, which is asked on a link's loop.
func eventually(t *testing.T, l *link, what string, ok func() bool) {
	t.Helper()
	until(t, what, func() (is bool) {
		onLoop(l, func() { is = ok() })
		return is
	})
}

// A relayed link heals however often its relays restart, as long as that is not
// all the time.
func TestRelayRestartsOften(t *testing.T) {
	a, b := bothRelayed(t)
	ends := []*link{a, b}
	alive := func() bool {
		for _, l := range ends {
			if p, ok := l.conn.Active(); !ok || p.State != path.Alive {
				return false
			}
		}
		return true
	}
	for i := range maxPeerRelays + 4 {
		for _, l := range ends {
			onLoop(l, func() {
				if i == maxPeerRelays/2 { // some time has passed since the first of them
					l.relaying.peers.spent = time.Now()
				}
				l.dropAllocation()
				l.allocate()
			})
		}
		time.Sleep(30 * time.Millisecond)
		until(t, fmt.Sprintf("a path after restart %d", i+1), alive)
		time.Sleep(100 * time.Millisecond)
	}
}

// An address too many waits for its time; another one takes its place.
func TestPeerRelayWaits(t *testing.T) {
	a, _ := bothRelayed(t)
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(40000+i))
	}
	onLoop(a, func() {
		r := &a.relaying
		for i := range maxPeerRelays + 2 {
			a.peerRelay(addr(i))
		}
		last := addr(maxPeerRelays + 1)
		if r.waiting != last || r.takeAt.IsZero() || r.peer == last {
			t.Errorf("waiting %v until %v, in use %v; want %v to wait", r.waiting, r.takeAt, r.peer, last)
			return
		}
		if a.wake().After(r.takeAt) {
			t.Error("the link does not wake for it")
		}
		r.peers.spent = r.peers.spent.Add(-peerRelayEvery) // time passes
		r.takeAt = time.Now()
		a.tick(time.Now())
		if r.peer != last || !r.takeAt.IsZero() {
			t.Errorf("in use %v, want %v", r.peer, last)
		}
	})
}

func TestPeerRelays(t *testing.T) {
	var p peerRelays
	now := time.Now()
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(i+1))
	}
	taken := func(i int) bool { _, ready := p.take(addr(i), now); return ready.IsZero() }
	n := 0
	for i := range 1000 {
		if taken(i) {
			n++
		}
	}
	if n != maxPeerRelays {
		t.Errorf("%d at once, want %d", n, maxPeerRelays)
	}
	if fresh, ready := p.take(addr(3), now); fresh || !ready.IsZero() {
		t.Error("one that is known counts again")
	}
	_, ready := p.take(addr(2000), now)
	if d := ready.Sub(now); d <= 0 || d > peerRelayEvery {
		t.Errorf("ready after %v", d)
	}
	now = ready
	if !taken(2000) || taken(2001) {
		t.Error("not one more in its time")
	}
	if len(p.known) != maxPeerRelays || p.known[maxPeerRelays-1] != addr(2000) {
		t.Errorf("known are %v", p.known)
	}
	if now = now.Add(time.Hour); !taken(0) { // the oldest was forgotten
		t.Error("not after a while")
	}
}

// A peer that names its addresses over and over keeps two workers busy, and no
// more.
func TestOnePermitAtATime(t *testing.T) {
	a, _ := bothRelayed(t)
	onLoop(a, func() { // which none of the workers can report to meanwhile
		before := runtime.NumGoroutine()
		for i := range 1000 {
			a.peerAnnounced(&announcement{Generation: 1000 + i})
			a.peerRelay(a.relaying.peer)
		}
		if n := runtime.NumGoroutine() - before; n > 100 {
			t.Errorf("%d more goroutines after 2000 messages", n)
		}
		if a.relaying.alloc == nil || !a.relaying.permit.again || !a.relaying.pair.again {
			t.Error("what came last is not done any more")
		}
	})
	eventually(t, a, "the workers to end", func() bool { return a.relaying.permit.alloc == nil && a.relaying.pair.alloc == nil })
}

// Whom the server does not let us reach is asked for once an allocation.
func TestDeniedIsRemembered(t *testing.T) {
	a, _ := bothRelayed(t)
	denied, silent := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	onLoop(a, func() {
		a.noteDenied(errors.Join(
			&relay.RequestError{What: "permission", Peer: denied.String(), Err: relay.ErrDenied},
			&relay.RequestError{What: "permission", Peer: silent.String(), Err: relay.ErrNoAnswer},
		))
		if d := a.relaying.denied; !d[denied] || d[silent] {
			t.Errorf("denied are %v", d)
		}
	})
}
