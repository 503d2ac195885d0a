package path

import (
	"testing"
	"testing/synctest"
	"time"
)

// A crowd is two Conns that have every kind of path between them: one direct,
// two over one relay, one over two.
type crowd struct {
	*site
	relayA *simCarrier
}

func newCrowd(t *testing.T) *crowd {
	c := &crowd{site: newSite(t)}
	c.relayA = add(t, c.a, c.wire.carrier("203.0.113.9:4000"), Relayed)
	c.wire.set(c.relayA, c.directB, func(l *link) { l.delay = 20 * time.Millisecond })
	c.wire.set(c.relayA, c.relayB, func(l *link) { l.delay = 30 * time.Millisecond })
	return c
}

// meet tries the relayed paths, and soon after the direct one, and waits until
// that has proved how much it carries.
func (c *crowd) meet(t *testing.T) {
	c.relay(t)
	try(t, c.a, c.relayA, c.relayB, Relayed)
	try(t, c.b, c.directB, c.relayA, Relayed)
	usable(t, c.a, c.b)
	time.Sleep(200 * time.Millisecond)
	c.direct(t)
	c.on(t, Direct, time.Second)
	for _, conn := range []*Conn{c.a, c.b} {
		for p, _ := conn.Active(); p.Size < DefaultMaxDatagram; p, _ = conn.Active() {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// probed is how many bytes of probes and answers both sides have sent, in all
// and over relays.
func (c *crowd) probed() (all, relayed int) {
	for _, conn := range []*Conn{c.a, c.b} {
		for _, p := range conn.Status() {
			all += int(p.Out.Probes)
			if p.Kind == Relayed {
				relayed += int(p.Out.Probes)
			}
		}
	}
	return all, relayed
}

// cost returns the same per second of a stretch of time.
func (c *crowd) cost(d time.Duration) (all, relayed int) {
	all0, relayed0 := c.probed()
	time.Sleep(d)
	all1, relayed1 := c.probed()
	perSecond := func(n int) int { return int(time.Duration(n) * time.Second / d) }
	return perSecond(all1 - all0), perSecond(relayed1 - relayed0)
}

// TestCostOfProbes bounds what the upkeep of a link with four paths costs, both
// sides together. The figures are the policy's, with a tenth to spare.
func TestCostOfProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		c.meet(t)
		if n := len(c.a.Status()); n != 4 {
			t.Fatalf("%d paths", n)
		}
		expect := func(when string, all, relayed, maxAll, maxRelayed int) {
			t.Helper()
			t.Logf("%s: %d bytes per second, %d of them relayed", when, all, relayed)
			if all > maxAll || relayed > maxRelayed {
				t.Errorf("%s: more than %d and %d", when, maxAll, maxRelayed)
			}
		}
		all, relayed := c.probed()
		t.Logf("up to the move to the direct path: %d bytes, %d of them relayed", all, relayed)

		all, relayed = c.cost(3 * time.Second)
		expect("right after the move", all, relayed, 1300, 520)
		all, relayed = c.cost(time.Minute)
		expect("idle", all, relayed, 1300, 620)

		q := connect(t, c.a, c.b, c.a.PeerAddr())
		there := send(t, q.client, q.server, 1<<20, 20*time.Millisecond)
		back := send(t, q.server, q.client, 1<<20, 20*time.Millisecond)
		all, relayed = c.cost(20 * time.Second)
		expect("under load", all, relayed, 4200, 620)
		there.wait(t)
		back.wait(t)
	})
}
