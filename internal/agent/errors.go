package agent

import (
	"context"
	"errors"
	"fmt"
)

// What callers branch on; each has its exit code in cmd/p2pagent.
var (
	// ErrPeerAbsent: the peer did not come to the rendezvous in time.
	ErrPeerAbsent = errors.New("peer absent")
	// ErrSignaling: the signaling server could not be reached in time.
	ErrSignaling = errors.New("signaling unreachable")
	// ErrNoPath: peer and server were there, but no path worked in time.
	ErrNoPath = errors.New("no path to the peer")
	// ErrOnlyRelayed: a path worked, but not the direct one that was required.
	ErrOnlyRelayed = errors.New("no direct path, and a direct one was required")
	// ErrForgotten: the peer is not a known one any more.
	ErrForgotten = errors.New("peer was forgotten")
	// ErrRefused: the server or the peer refused by policy or quota.
	ErrRefused = errors.New("refused")
	// ErrWrongCode: the pairing code was wrong, or somebody guessed.
	ErrWrongCode = errors.New("wrong pairing code")
)

// Why a link ends that nothing is wrong with. The peer is told, too.
var (
	errEnding    = errors.New("this program is done")
	errTimeOver  = errors.New("its time is over")
	errRestarted = errors.New("the listener was started again")
)

// endOf is why ctx ended, in words for people: a bare cancel is the end of what the
// program was for.
func endOf(ctx context.Context) error {
	switch cause := context.Cause(ctx); cause {
	case nil, context.Canceled:
		return errEnding
	case context.DeadlineExceeded:
		return errTimeOver
	default:
		return cause
	}
}

// hinted is an error with advice for whoever reads it.
type hinted struct {
	error
	hint string
}

// Hint returns what to do next.
func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

// withHint adds advice to an error.
func withHint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}
