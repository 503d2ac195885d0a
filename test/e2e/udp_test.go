package e2e

import (
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Where no UDP leaves a network, a failed attempt for a direct path is followed by
// another after about a minute; but when UDP passes again, at once.
func TestNoUDPLeaves(t *testing.T) {
	needLab(t)
	s := stand(t, "port-restricted", "port-restricted")
	wall := []string{"FORWARD", "-p", "udp", "-j", "DROP"}
	s.must("nat-a", append([]string{"iptables", "-I"}, wall...)...)
	a, _ := s.agents([]int{7000})
	onPath(t, a, "relayed")
	r := awaitEvent(t, a, "plan for the next attempt", func(e trace.Event) bool {
		_, ok := e.(trace.AttemptPlanned)
		return ok
	})
	if e := r.Event.(trace.AttemptPlanned); !e.NoUDP || e.MS < 40_000 {
		t.Errorf("after the first attempt the next one is planned in %d ms, no UDP: %v", e.MS, e.NoUDP)
	}
	s.must("nat-a", append([]string{"iptables", "-D"}, wall...)...)
	onPath(t, a, "direct")
	started := awaitEvents(t, a, "second attempt", 2, func(e trace.Event) bool {
		_, ok := e.(trace.AttemptStarted)
		return ok
	})
	if e := started.Event.(trace.AttemptStarted); e.Trigger != "network" {
		t.Errorf("the attempt that succeeded was made for %q", e.Trigger)
	}
}
