package agent

import (
	"crypto/rand"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
)

// victims are sockets of people who have nothing to do with any of this. They
// count what they get.
type victims struct {
	addrs []netip.AddrPort
	hits  []atomic.Int64
}

func newVictims(t *testing.T, n int) *victims {
	t.Helper()
	v := &victims{hits: make([]atomic.Int64, n)}
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // after the sockets are closed
	for i := range n {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatalf("socket %d: %v", i, err)
		}
		t.Cleanup(func() { c.Close() })
		v.addrs = append(v.addrs, c.LocalAddr().(*net.UDPAddr).AddrPort())
		running.Go(func() {
			for b := make([]byte, 2048); ; v.hits[i].Add(1) {
				if _, _, err := c.ReadFromUDPAddrPort(b); err != nil {
					return
				}
			}
		})
	}
	return v
}

// count is how many were hit, and how often in all.
func (v *victims) count() (hit, packets int) {
	for i := range v.hits {
		if n := int(v.hits[i].Load()); n > 0 {
			hit++
			packets += n
		}
	}
	return hit, packets
}

// A peer that was let in may name a thousand addresses, over and over and in
// every message that has an address in it: few of them get packets, and few
// packets at that. The link goes on.
func TestThousandAddresses(t *testing.T) {
	const n = 1000
	list := func(addrs []netip.AddrPort) (out []candidates.Candidate) {
		for _, a := range addrs {
			out = append(out, candidates.Candidate{Type: candidates.ServerReflexive, Addr: a})
		}
		return out
	}
	for _, attack := range []struct {
		name string
		each int           // addresses in one message
		gap  time.Duration // between two: an attempt needs some time to begin
		make func(addrs []netip.AddrPort, i int) []*message
		// most is how many addresses may get packets in this time, and how many
		// packets that may be.
		most func(time.Duration) (hit, packets int)
	}{
		{"attempts and what trickles in", 50, 200 * time.Millisecond, func(addrs []netip.AddrPort, i int) []*message {
			return []*message{
				{Attempt: &attemptMessage{ID: rand.Text(), ICE: punch.NewCredentials(), FreshPort: i%5 == 4, Trigger: punch.TriggerFirst, Candidates: list(addrs[:25])}},
				{Candidates: &announcement{Generation: 1000 + i, List: list(addrs[25:])}},
			}
		}, func(d time.Duration) (hit, packets int) {
			attempts := 2 + int(d/(attemptGap/2))
			return 20 * attempts, 40*attempts + int(200*d.Seconds())
		}},
		{"relays", 1, 0, func(addrs []netip.AddrPort, i int) []*message {
			return []*message{{Relay: &relayedAt{addrs[0]}}}
		}, func(d time.Duration) (hit, packets int) {
			n := maxPeerRelays + int(d/peerRelayEvery)
			return n, 100 * n
		}},
	} {
		t.Run(attack.name, func(t *testing.T) {
			v := newVictims(t, n)
			d := deploy(t)
			a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
			target := echo(t)
			b.cfg.Allow = allow(t, target)
			peer, _ := befriend(t, a, b)
			startListener(t, b)
			c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
			addr := forwardTo(t, c, target)
			roundTrip(t, addr, 1000)
			await(t, b.events, 0, movedTo("direct"))

			evil := c.env.live()[0].post
			began := time.Now()
			send := func(i int) {
				for _, m := range attack.make(v.addrs[i*attack.each:][:attack.each], i) {
					evil.send(m)
				}
			}
			for i := 0; i*attack.each < n; i++ {
				send(i)
				time.Sleep(attack.gap)
			}
			time.Sleep(attemptGap)
			send(0) // nothing replaces it
			awaitRefusal(t, evil, b.events)
			time.Sleep(time.Second) // what is counted is what is sent until then

			hit, packets := v.count()
			t.Logf("%d of %d addresses got %d packets", hit, n, packets)
			if hit == 0 {
				t.Error("nobody got any: nothing was tested")
			}
			if maxHit, maxPackets := attack.most(time.Since(began)); hit > maxHit || packets > maxPackets {
				t.Errorf("%d addresses got %d packets, at most %d and %d may", hit, packets, maxHit, maxPackets)
			}
			roundTrip(t, addr, 1<<20)
			if _, _, changed := find(b.events, 0, func(e trace.SessionState) bool { return e.State == "closed" }); changed == nil {
				t.Error("the session did not survive")
			}
		})
	}
}

// awaitRefusal asks for a bind that is refused: all that was sent before it is
// done then. It asks again and again, as a busy link drops what comes too fast.
func awaitRefusal(t *testing.T, p *post, events *log) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(patience)
	for {
		p.send(&message{Bind: &bindRequest{ID: rand.Text(), Bind: "127.0.0.1:1"}})
		select {
		case <-again.C:
		case <-deadline:
			events.dump(t)
			t.Fatalf("no bind was refused within %v", patience)
		}
		if _, _, none := find(events, 0, func(e trace.StreamRefused) bool { return e.Target == "127.0.0.1:1" }); none == nil {
			return
		}
	}
}
