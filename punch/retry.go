package punch

import (
	"time"

	"github.com/p2pagent/p2pagent/candidates"
)

// The triggers of an attempt, as they stand in the trace.
const (
	TriggerFirst    = "first"
	TriggerRetry    = "retry"
	TriggerNetwork  = "network"   // an address or route of ours or of the peer changed, or UDP passes again
	TriggerPathLost = "path-lost" // the direct path in use died
)

// maxBackoff is the longest wait between two attempts while relayed.
const maxBackoff = 60 * time.Second

// backoff is the wait after the first failure, the second, and so on; the last
// one stays.
func backoff(failures int) time.Duration {
	steps := [...]time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, maxBackoff}
	return steps[min(max(failures, 1), len(steps))-1]
}

// History is what came before, for deciding on the next attempt.
type History struct {
	// Failures counts the attempts that failed since the last success, or since
	// the last network change or path loss.
	Failures int
	// Ended is when the last attempt ended; zero if there was none.
	Ended time.Time
	// Event is TriggerNetwork or TriggerPathLost when such a thing happened
	// since the last attempt began, else empty.
	Event string
	// NoUDP says that, as far as is known, no UDP leaves one of the two networks: a
	// retry is of little use before there is a sign that it does, an Event.
	NoUDP bool
	// Trap says that the last failure looked like the early-probe trap; see
	// SuspectTrap.
	Trap bool
	// Jitter, from 0 to below 1, spreads the retries of many agents. Up to a
	// quarter of the wait is taken off.
	Jitter float64
}

// Plan is the next attempt.
type Plan struct {
	At        time.Time
	Trigger   string
	FreshPort bool // from a new socket, whose mapping no router has spoiled yet
}

// NextTry says when to try again for a direct path while there is none: at
// once for the first time and after every change that makes success likelier,
// else after a backoff of at most a minute; of a minute from the first failure on
// where no UDP leaves.
func NextTry(h History, now time.Time) Plan {
	switch {
	case h.Event != "":
		return Plan{At: now, Trigger: h.Event}
	case h.Ended.IsZero():
		return Plan{At: now, Trigger: TriggerFirst}
	}
	wait := backoff(h.Failures)
	if h.NoUDP && h.Failures > 0 {
		wait = maxBackoff
	}
	wait -= time.Duration(float64(wait) * 0.25 * min(max(h.Jitter, 0), 1))
	at := h.Ended.Add(wait)
	if at.Before(now) {
		at = now
	}
	return Plan{At: at, Trigger: TriggerRetry, FreshPort: h.Trap}
}

// SuspectTrap reports that a failed attempt looks like the early-probe trap:
// both mappings are endpoint-independent, so the attempt should have worked,
// and yet nothing crossed both ways. A router that accepts packets to itself
// remembers a probe that came before our own first packet, and then gives our
// packets to that peer another port, for as long as probes go on. From a new
// port all is as before.
func SuspectTrap(ours, peers candidates.NAT, e *NoPathError) bool {
	return e != nil && e.Candidates > 0 && e.AnswersReceived == 0 &&
		ours.Mapping == candidates.EndpointIndependent && peers.Mapping == candidates.EndpointIndependent &&
		!known(ours.UDP, false) && !known(peers.UDP, false)
}

func known(b *bool, want bool) bool { return b != nil && *b == want }
