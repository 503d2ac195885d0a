package path

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestRequireDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Only b requires it: a must not use the relay either.
		w := newWire()
		a := testConn(t, true)
		b := testConn(t, false, func(c *Config) { c.RequireDirect = true })
		s := &site{wire: w, a: a, b: b}
		s.directA = add(t, a, w.carrier("192.0.2.1:1000"), Direct)
		relayA := add(t, a, w.carrier("203.0.113.9:3000"), Relayed)
		s.directB = add(t, b, w.carrier("192.0.2.2:2000"), Direct)
		s.cut(true)
		try(t, a, relayA, s.directB, Direct)
		s.direct(t)

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := b.WaitUsable(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("usable without a direct path: %v", err)
		}
		if _, ok := a.Active(); ok {
			t.Errorf("the other side uses the relay: %+v", a.Status())
		}

		s.cut(false)
		usable(t, a, b)
		q := connect(t, a, b, a.PeerAddr())
		send(t, q.client, q.server, 1<<20, 0).wait(t)
		s.cut(true)
		send(t, q.server, q.client, 20_000, 10*time.Millisecond)
		send(t, q.client, q.server, 20_000, 10*time.Millisecond)
		time.Sleep(time.Minute)
		if n := relayA.sentPayload(); n != 0 {
			t.Errorf("%d bytes of payload over the relay", n)
		}
		for _, p := range b.Status() {
			if p.Kind == Relayed {
				t.Errorf("relayed path %+v", p)
			}
		}

		// Nor is it accepted.
		before := b.Losses().Untrusted
		w.transmit(relayA.addr, s.directB.addr, datagram(1200, 0), 1200)
		time.Sleep(50 * time.Millisecond)
		if b.Losses().Untrusted != before+1 {
			t.Error("payload from the relay was taken")
		}
		s.cut(false)
	})
}

func TestRelayOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(c *Config) { c.RelayOnly = true })
		if err := s.a.Try(s.directA, s.directB.addr, Direct); err == nil {
			t.Error("a direct path was tried")
		}
		s.relay(t)
		usable(t, s.a, s.b)
		s.on(t, Relayed, 0)
	})
}

func TestOneRelayOverTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		relayA := add(t, s.a, s.wire.carrier("203.0.113.9:4000"), Relayed)
		// b does not know yet that a's address is a relay's; a says so.
		try(t, s.a, relayA, s.relayB, Relayed)
		usable(t, s.a, s.b)
		for _, c := range []*Conn{s.a, s.b} {
			if p, _ := c.Active(); p.Hops != 2 || p.Kind != Relayed {
				t.Errorf("first %+v", p)
			}
		}
		s.relay(t)
		time.Sleep(time.Second)
		for _, c := range []*Conn{s.a, s.b} {
			if p, _ := c.Active(); p.Hops != 1 {
				t.Errorf("then %+v", p)
			}
		}
	})
}

func TestExpect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		far := netip.MustParseAddrPort("203.0.113.77:1")
		s.a.Expect(far)
		if err := s.a.Try(s.directA, far, Direct); err != nil {
			t.Fatal(err)
		}
		if p := s.a.Status()[0]; p.Kind != Relayed || p.Hops != 1 {
			t.Errorf("%+v", p)
		}
	})
}

// When the far end has not said for half a minute that it wants payload, it
// gets none (RFC 7675), and what waits as soon as it says so again.
func TestConsentExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, sa, sb, _ := met(t)
		w.set(sa, sb, func(l *link) { l.down = true })
		write := func(salt byte) (sent bool) {
			before := sa.sentPayload()
			if err := a.write(datagram(1200, salt), 1200); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return sa.sentPayload() != before
		}
		time.Sleep(consentFor - 2*time.Second)
		if !write(1) {
			t.Error("nothing is sent before consent has ended")
		}
		time.Sleep(3 * time.Second)
		if write(2) {
			t.Error("payload is sent without consent")
		}
		w.set(sa, sb, func(l *link) { l.down = false })
		time.Sleep(time.Second)
		if got := deliverable(t, b); len(got) != 2 || string(got[1]) != string(datagram(1200, 2)) {
			t.Errorf("%d datagrams came after the path healed", len(got))
		}
		if !write(3) {
			t.Error("nothing is sent over the path that healed")
		}
	})
}

// A dead path is kept as its mapping may come back. An address on a relay does
// not: with another one named, the paths to it go when they die, or at once when
// they never worked.
func TestExpectAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.a.Expect(s.relayB.addr)
		s.relay(t)
		usable(t, s.a, s.b)
		never := netip.MustParseAddrPort("203.0.113.9:3999")
		s.a.Expect(s.relayB.addr, never)
		if err := s.a.Try(s.directA, never, Relayed); err != nil {
			t.Fatal(err)
		}
		s.direct(t)
		s.on(t, Direct, time.Second)

		next := add(t, s.b, s.wire.carrier("203.0.113.9:3001"), Relayed)
		s.a.Expect(next.addr)
		try(t, s.a, s.directA, next, Relayed)
		try(t, s.b, next, s.directA, Direct)
		time.Sleep(5 * time.Second)
		remotes := func() (out []netip.AddrPort) {
			for _, p := range s.a.Status() {
				out = append(out, p.Remote)
			}
			return out
		}
		if got, want := remotes(), []netip.AddrPort{s.relayB.addr, s.directB.addr, next.addr}; !slices.Equal(got, want) {
			t.Errorf("paths to %v, want %v", got, want)
		}
		s.b.RemoveCarrier(s.relayB)
		time.Sleep(minDead + coldEvery)
		if got, want := remotes(), []netip.AddrPort{s.directB.addr, next.addr}; !slices.Equal(got, want) {
			t.Errorf("paths to %v, want %v", got, want)
		}
	})
}

// What the trace says of a silent path is where payload goes.
func TestSuspectsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		usable(t, s.a, s.b)
		s.on(t, Direct, time.Second)
		suspected := func() (out []trace.PathSuspected) {
			for _, e := range s.eventsA.list() {
				if e, ok := e.(trace.PathSuspected); ok {
					out = append(out, e)
				}
			}
			return out
		}
		relayed := func(down bool) { s.wire.set(s.directA, s.relayB, func(l *link) { l.down = down }) }
		time.Sleep(time.Second)
		relayed(true)
		time.Sleep(4 * time.Second)
		if got := suspected(); len(got) != 1 || got[0].Active || got[0].Second != nil {
			t.Errorf("the spare path: %+v, %+v", got, s.a.Status())
		}
		relayed(false)
		time.Sleep(4 * time.Second)
		s.cut(true)
		time.Sleep(4 * time.Second)
		if got := suspected(); len(got) != 2 || !got[1].Active || got[1].Second == nil || got[1].Second.Kind != string(Relayed) {
			t.Errorf("the path in use: %+v", got)
		}
		s.cut(false)
	})
}
