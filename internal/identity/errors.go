package identity

import (
	"errors"
	"fmt"
)

var (
	// ErrWrongCode says that the two sides do not have the same code, or that
	// somebody between them changed what they sent. The code is spent.
	ErrWrongCode = errors.New("wrong pairing code")

	// ErrBadMessage says that a message is not one this side can take now:
	// malformed, out of order, repeated, or not authentic. It was ignored.
	ErrBadMessage = errors.New("bad message")

	// ErrSelf says that the other side has this side's own key.
	ErrSelf = errors.New("cannot pair with the same key")

	// ErrFinished says that a pairing or meeting is over and takes nothing more.
	ErrFinished = errors.New("already finished")
)

// ErrVersion says that the other side speaks another version of a protocol. It
// may have been forged by whoever carries the messages.
type ErrVersion struct{ Ours, Theirs string }

// Error implements error.
func (e ErrVersion) Error() string {
	return fmt.Sprintf("the peer speaks %q and this side %q: the older of the two needs an update", e.Theirs, e.Ours)
}

func badMessage(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrBadMessage, fmt.Errorf(format, args...))
}
