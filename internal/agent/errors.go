package agent

import (
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
