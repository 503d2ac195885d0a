package path

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A path through a tunnel is used while there is nothing else, and left for good
// as soon as a plain one is proved.
func TestEngineLeavesTunnel(t *testing.T) {
	tunnel, plain := testKey, key{1, netip.MustParseAddrPort("203.0.113.2:2")}
	b := newBench(t)
	b.tunnelOf = func(k key) string {
		if k == tunnel {
			return "wg0"
		}
		return ""
	}
	b.try(tunnel)
	b.run(30 * time.Second)
	if b.cur.primary != 1 {
		t.Fatalf("path %d in use", b.cur.primary)
	}
	b.log = nil
	proved := b.now + b.rtt
	b.try(plain)
	b.run(b.rtt + betterFor + probeEvery)
	if b.cur.primary != 2 {
		t.Fatalf("path %d in use %v after the plain one was proved: %q", b.cur.primary, b.now-proved, b.log)
	}
	b.log = nil
	b.run(10 * time.Minute)
	for _, a := range b.log {
		if strings.Contains(a, "route") {
			t.Errorf("afterwards: %s", a)
		}
	}
}

// Routes change under a path: a VPN takes the default route and gives it back.
func TestEngineFollowsRoutes(t *testing.T) {
	relayed := key{2, netip.MustParseAddrPort("203.0.113.9:3")}
	b := newBench(t)
	b.addCarrier(2, reach{relay: true})
	vpn := ""
	b.tunnelOf = func(k key) string {
		if k == testKey {
			return vpn
		}
		return ""
	}
	b.try(testKey)
	b.try(relayed)
	b.run(10 * time.Second)
	for _, step := range []struct {
		vpn  string
		want int
		why  string
	}{{"tun0", 2, "not in a tunnel"}, {"", 1, "direct path"}} {
		b.log = nil
		vpn = step.vpn
		b.run(routesEvery + betterFor + probeEvery)
		if moves := slices.DeleteFunc(b.log, func(a string) bool { return !strings.Contains(a, "route") }); len(moves) != 1 ||
			!strings.HasSuffix(moves[0], fmt.Sprintf("route %d+0 %s", step.want, step.why)) {
			t.Errorf("through %q: %q, want one move to path %d: %s", step.vpn, moves, step.want, step.why)
		}
		if p := b.byID(1); p.tunnel != step.vpn {
			t.Errorf("path known to be in %q, want %q", p.tunnel, step.vpn)
		}
	}
}

// Both sides know of a tunnel that only one of them has, and neither uses it
// beside a relay.
func TestTunnelOfOneSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		up.Store(true)
		s := newSite(t, func(c *Config) {
			if !c.Initiator {
				return
			}
			c.Tunnel = func(dst netip.Addr) string {
				if up.Load() && dst == netip.MustParseAddr("192.0.2.2") {
					return "wg0"
				}
				return ""
			}
		})
		s.relay(t)
		usable(t, s.a, s.b)
		s.direct(t)
		time.Sleep(10 * time.Second)
		s.on(t, Relayed, 0)
		for _, c := range []*Conn{s.a, s.b} {
			var found bool
			for _, p := range c.Status() {
				if p.Kind != Direct {
					continue
				}
				found = true
				if !p.InTunnel || p.State != Alive || (p.Tunnel == "wg0") != (c == s.a) {
					t.Errorf("initiator %v: %+v", c == s.a, p)
				}
			}
			if !found {
				t.Errorf("initiator %v has no direct path", c == s.a)
			}
		}
		for _, e := range s.eventsA.list() {
			if moved, ok := e.(trace.PathChanged); ok && moved.To != nil && moved.To.Kind == string(Direct) {
				t.Errorf("moved into the tunnel: %+v", moved)
			}
		}
		up.Store(false)
		s.on(t, Direct, routesEvery+betterFor+probeEvery)
	})
}
