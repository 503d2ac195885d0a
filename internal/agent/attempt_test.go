package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/punch"
)

// That the peer gave an attempt up is said once, with its reason, whether our side
// of the attempt ran by then or not.
func TestPeerGaveUpOnce(t *testing.T) {
	a, _ := bothRelayed(t)
	const why = "no direct path after 5 s: nothing arrived"
	onLoop(a, func() {
		at := newAttempt("x", punch.TriggerFirst)
		a.attempts.current, a.attempts.history.Failures = at, 3 // so that it counts
		a.peerFailed(&attemptRef{ID: "x", Why: why})
		err := a.attempts.lastErr
		if !errors.Is(err, punch.ErrPeerFailed) || err.Error() != `the peer gave up: "`+why+`"` {
			t.Errorf("before it ran: %v", err)
		}

		at = newAttempt("y", punch.TriggerRetry)
		at.running = true
		a.attempts.current = at
		a.peerFailed(&attemptRef{ID: "y", Why: why})
		if err := <-at.peerFailed; strings.Contains(err.Error(), "gave up") || !strings.Contains(err.Error(), why) {
			t.Errorf("to punch, which says who gave up: %v", err)
		}
		a.attempts.current = nil
	})
}

// An attempt that did not take place says nothing of NATs, unless there are no others.
func TestTells(t *testing.T) {
	for _, tt := range []struct {
		name      string
		tookPlace bool
		failures  int
		want      bool
	}{
		{"it took place", true, 0, true},
		{"the peer wants a pause, after an outage", false, 0, false},
		{"the peer does not join, once more", false, 2, false},
		{"the peer never joins", false, 3, true},
	} {
		if got := tells(tt.tookPlace, tt.failures); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
