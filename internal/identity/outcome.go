package identity

import (
	"errors"
	"syscall"
	"unicode/utf8"
)

// What the last two messages of a pairing say: that this side has stored the peer, or
// why it could not.

const (
	outcomeStored    = 1
	outcomeNotStored = 2

	maxOutcomeText = 80 // bytes; with the rest it fits a field
)

// ErrNotStored says that the other side could not store this one. Neither keeps
// anything then.
type ErrNotStored struct {
	Why string // the peer's words, untrusted; may be empty
}

// Error implements error.
func (e ErrNotStored) Error() string {
	if e.Why == "" {
		return "the other machine could not store the pairing"
	}
	return "the other machine could not store the pairing: " + e.Why
}

// outcome is the plaintext of a stored message.
func outcome(failure error) []byte {
	if failure == nil {
		return []byte{outcomeStored}
	}
	return append([]byte{outcomeNotStored}, reason(failure)...)
}

// reason is what the peer may know of a failure: no paths.
func reason(failure error) string {
	var errno syscall.Errno
	switch {
	case errors.As(failure, &errno):
		return cutName(errno.Error(), maxOutcomeText)
	case errors.Is(failure, ErrNameTaken):
		return ErrNameTaken.Error()
	}
	return ""
}

// parseOutcome returns nil when the peer has stored this side. What it says else, and
// what a later version may say, is that it has not.
func parseOutcome(plain []byte) error {
	switch {
	case len(plain) == 1 && plain[0] == outcomeStored:
		return nil
	case len(plain) > 1 && plain[0] == outcomeNotStored && utf8.Valid(plain[1:]):
		return ErrNotStored{Why: clip(string(plain[1:]), maxOutcomeText)}
	}
	return ErrNotStored{}
}
