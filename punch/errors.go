package punch

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/internal/units"
)

var (
	// ErrRoleConflict is a peer that claims the role we have: a mistake of the
	// caller, since roles follow from who connects.
	ErrRoleConflict = errors.New("both sides have the same ICE role")
	// ErrPeerFailed is a peer that reported the end of its side of the attempt.
	ErrPeerFailed = errors.New("the peer gave up")
	// ErrNoPath is in the tree of every *NoPathError.
	ErrNoPath = errors.New("no direct path")

	errTimeout = errors.New("attempt timed out")
)

// NoPathError is an attempt that ran its time without selecting a pair. What
// it counted tells in which direction packets were lost.
type NoPathError struct {
	Counts
	Candidates int              // remote candidates that were checked, peer-reflexive ones excluded
	Heard      []netip.AddrPort // where the peer's checks came from
	PeerOpened bool             // the peer said that its openers were out
	Exhausted  bool             // the budget of packets was spent before the time
	After      time.Duration
	SendErr    error // the first error of a socket, nil when there was none
}

func (e *NoPathError) Error() string {
	s := fmt.Sprintf("no direct path after %s: %s", units.Duration(e.After), e.what())
	if e.Exhausted {
		s += fmt.Sprintf("; the budget of %d packets is spent", sendBudget)
	}
	if e.SendErr != nil {
		s += fmt.Sprintf("; %v", e.SendErr)
	}
	return s
}

func (e *NoPathError) what() string {
	switch {
	case e.Candidates == 0 && e.ChecksReceived == 0:
		return "the peer has no address we can check, and nothing arrived from it"
	case e.ChecksReceived == 0 && e.AnswersReceived == 0:
		return fmt.Sprintf("we sent %s to %s, nothing arrived from the peer",
			count(e.ChecksSent, "check"), count(e.Candidates, "address"))
	case e.AnswersReceived == 0:
		return fmt.Sprintf("%s of the peer arrived (from %v), none of our %s was answered",
			count(e.ChecksReceived, "check"), e.Heard, count(e.ChecksSent, "check"))
	case e.ChecksReceived == 0:
		return fmt.Sprintf("%s to our checks arrived, no check of the peer did", count(e.AnswersReceived, "answer"))
	}
	return "packets crossed both ways, but no pair was nominated"
}

// Is makes every NoPathError an ErrNoPath.
func (e *NoPathError) Is(target error) bool { return target == ErrNoPath }

// Unwrap returns the socket's error, if any.
func (e *NoPathError) Unwrap() error { return e.SendErr }

// Timeout says that waiting longer was the alternative.
func (e *NoPathError) Timeout() bool { return true }

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if what == "address" {
		what = "addresse"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
