package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// The ends of a VPN in the lab.
const (
	vpnA    = "10.99.0.1"
	vpnB    = "10.99.0.2"
	vpnPort = "7777"
)

// vpn makes a tunnel of 1 Mbit/s between the two peers, over UDP through both
// NATs, as WireGuard would, and waits until packets pass both ways.
func (s *standing) vpn() {
	s.t.Helper()
	end := func(node, own, peer, inside string) {
		s.exec(node, "socat", "UDP4:"+peer+":"+vpnPort+",bind="+own+":"+vpnPort, "TUN:"+inside+"/24,up,tun-name=wg0,iff-no-pi,tun-type=tun")
		s.must(node, "timeout", "30", "sh", "-c", "until ip link show wg0 up 2>/dev/null | grep -q wg0; do sleep 0.02; done")
		s.must(node, "ip", "link", "set", "wg0", "mtu", "1400")
		s.must(node, "tc", "qdisc", "add", "dev", "wg0", "root", "tbf", "rate", "1mbit", "burst", "4k", "latency", "400ms")
	}
	end("peer-a", "10.1.0.2", publicB, vpnA)
	end("peer-b", "10.2.0.2", publicA, vpnB)
	for deadline := time.Now().Add(patience); s.received("peer-a", "wg0") == 0 || s.received("peer-b", "wg0") == 0; {
		if time.Now().After(deadline) {
			s.t.Fatal("nothing passes the tunnel")
		}
		s.must("peer-a", "bash", "-c", "echo > /dev/udp/"+vpnB+"/9")
		s.must("peer-b", "bash", "-c", "echo > /dev/udp/"+vpnA+"/9")
	}
}

// received counts the bytes that an interface of a node has received.
func (s *standing) received(node, iface string) int {
	s.t.Helper()
	text := s.must(node, "cat", "/proc/net/dev")
	m := regexp.MustCompile(iface + `:\s*(\d+)`).FindStringSubmatch(text)
	if m == nil {
		s.t.Fatalf("%s has no %s:\n%s", node, iface, text)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// A VPN between the two machines is not taken for the direct path: it is used
// while there is nothing else, and left when a path beside it is proved.
func TestVPNIsNotTheDirectPath(t *testing.T) {
	needLab(t)
	needProgram(t, "socat", "socat")
	s := stand(t, "port-restricted", "port-restricted")
	s.vpn()
	passes := []string{"-p", "udp", "-d", publicB, "!", "--dport", vpnPort, "-j", "DROP"}
	s.must("nat-a", append([]string{"iptables", "-I", "FORWARD"}, passes...)...)
	a, b := s.agents(nil, "--require", "direct")
	inside := func(name, text string) {
		t.Helper()
		if !strings.Contains(text, "direct, but inside the tunnel wg0") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	for _, p := range []*process{a, b} {
		awaitEvent(t, p, "path through the VPN", func(e trace.Event) bool {
			c, ok := e.(trace.PathChanged)
			return ok && c.To != nil && c.To.Tunnel == "wg0"
		})
		awaitEvent(t, p, "verdict that says so", func(e trace.Event) bool {
			v, ok := e.(trace.Verdict)
			return ok && strings.Contains(v.Text, "inside the tunnel wg0")
		})
	}
	inside("status", s.must("peer-a", "p2pagent", "status"))
	inside("explain", s.must("peer-b", "p2pagent", "explain"))

	s.must("nat-a", append([]string{"iptables", "-D", "FORWARD"}, passes...)...)
	for name, p := range map[string]*process{"a.jsonl": a, "b.jsonl": b} {
		var plain trace.Path
		awaitEvent(t, p, "plain path", func(e trace.Event) bool {
			c, ok := e.(trace.PathChanged)
			if ok = ok && c.To != nil && !c.To.InTunnel; ok {
				plain = *c.To
			}
			return ok
		})
		if proof, moved := s.when(name, plain.ID); moved.Sub(proof) > 10*time.Second {
			t.Errorf("%s: moved to the plain path %v after its proof", name, moved.Sub(proof))
		}
		if n := len(s.moves(name)); n != 2 {
			t.Errorf("%s: %d moves, want two: into the tunnel and out of it", name, n)
		}
	}
}

// when tells when a path was proved, and when payload first moved to it. What an agent
// has printed already may not be in its trace yet.
func (s *standing) when(name string, id int) (proof, moved time.Time) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		for r, err := range trace.Read(strings.NewReader(s.read(name))) {
			if err != nil {
				continue // the last line may be half written
			}
			switch e := r.Event.(type) {
			case trace.PathAdded:
				if e.Path.ID == id {
					proof = r.Time
				}
			case trace.PathChanged:
				if e.To != nil && e.To.ID == id && moved.IsZero() {
					moved = r.Time
				}
			}
		}
		if !proof.IsZero() && !moved.IsZero() {
			return proof, moved
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not tell of path %d", name, id)
		}
	}
}
