package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// UDP stops on a link whose TURN credentials the relay does not take any more, as on
// one that is older than they are; new ones come while the relay is tried with the
// old. Payload then goes on over TCP as soon as on a young link: nobody waits for UDP.
func TestUDPStopsWithOldCredentials(t *testing.T) {
	needLab(t)
	s := startSplit(t, "port-restricted", "port-restricted")
	a, b := s.agents([]int{7000}, "--signal", s.url)
	onPath(t, a, "direct")

	// Signaling and relay come back with another secret, and peer-a does not hear
	// of it.
	signalingPort := []string{"OUTPUT", "-p", "tcp", "--dport", "9080", "-j", "REJECT", "--reject-with", "tcp-reset"}
	s.must("peer-a", append([]string{"iptables", "-I"}, signalingPort...)...)
	for _, p := range []*process{s.signaling, s.relay} {
		p.signalInside(os.Kill)
		<-p.ended
	}
	s.write("secret", "another secret of this test\n")
	s.startRelay()
	s.startSignaling()
	awaitEvents(t, b, "second connection to signaling", 2, func(e trace.Event) bool {
		c, ok := e.(trace.SignalState)
		return ok && c.State == "connected"
	})

	cut := time.Now()
	s.must("peer-a", "iptables", "-I", "OUTPUT", "-p", "udp", "-j", "DROP")
	awaitEvent(t, a, "relay that refuses the old credentials", func(e trace.Event) bool {
		r, ok := e.(trace.RelayRefused)
		return ok && r.What == "allocate" && r.Code == 401
	})
	s.must("peer-a", append([]string{"iptables", "-D"}, signalingPort...)...)
	moved := awaitEvent(t, a, "relayed path", func(e trace.Event) bool {
		c, ok := e.(trace.PathChanged)
		return ok && c.To != nil && c.To.Kind == "relayed" && c.From != nil && c.From.Kind == "direct"
	})
	t.Logf("payload went on after %v", moved.Time.Sub(cut).Round(time.Millisecond))
	// New credentials come when signaling is reached again, which has its own pauses.
	var fresh bool
	for r, err := range trace.Read(strings.NewReader(a.stdout.String())) {
		if err != nil || r.Time.Before(cut) || r.Time.After(moved.Time) {
			continue
		}
		switch e := r.Event.(type) {
		case trace.SignalState:
			fresh = fresh || e.State == "connected"
		case trace.RelayRefused:
			if fresh && e.What == "allocate" && strings.Contains(e.Why, "no answer") {
				t.Errorf("it waited until TURN over UDP was given up, %v after UDP had stopped", r.Time.Sub(cut))
			}
		case trace.RelayAllocated:
			if fresh {
				t.Logf("there is a relay again %v after UDP had stopped", r.Time.Sub(cut).Round(time.Millisecond))
				return
			}
		}
	}
	t.Error("payload goes over a relay that was never allocated with the new credentials")
}
