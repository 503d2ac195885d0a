package identity

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Peer is a machine this one has been paired with.
type Peer struct {
	// Name is what the user calls it: unique in the store, see [ValidateName].
	Name string `json:"name"`
	// Fingerprint is the pin: the key that TLS must show.
	Fingerprint Fingerprint `json:"fingerprint"`
	// Secret is shared with this peer alone. Only the store's file holds it. It is
	// zero for a peer that has never confirmed a pairing.
	Secret Secret `json:"-"`
	// Proposed is the secret of a pairing that this side has stored and the peer
	// has not confirmed; zero when there is none.
	Proposed Secret `json:"-"`
	// Added is when the two were paired, the last time if more than once.
	Added time.Time `json:"added"`
}

// Confirmed reports whether the peer is known to have stored this side.
func (p Peer) Confirmed() bool { return p.Secret != Secret{} }

// Variants returns p with each secret that the peer may have, the newest one first:
// one, or two while a new pairing with it is not confirmed. In each, Secret is the one
// to meet the peer with, and Proposed is the same when it is not confirmed.
func (p Peer) Variants() (all []Peer) {
	if (p.Proposed != Secret{}) {
		v := p
		v.Secret = p.Proposed
		all = append(all, v)
	}
	if p.Confirmed() {
		p.Proposed = Secret{}
		all = append(all, p)
	}
	return all
}

// A Secret is 32 bytes that two peers share. It prints and logs as a
// placeholder; the bytes come out only by converting it to a [32]byte.
type Secret [32]byte

const redacted = "[redacted]"

// Format implements fmt.Formatter for every verb, so that no spelling of a
// format string shows the bytes.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue keeps the bytes out of structured logs.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the bytes out of JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MaxNameBytes is the length of the longest name.
const MaxNameBytes = 64

// ErrBadName is wrapped by the errors of [ValidateName].
var ErrBadName = errors.New("bad name")

// ValidateName reports why s cannot be the name of a machine, or nil. A name is
// 1 to [MaxNameBytes] bytes of printable UTF-8. It begins with a letter or digit,
// has no slash or backslash, no space at its end, and does not look like a
// pairing code: names stand on command lines, in terminals and in traces.
func ValidateName(s string) error {
	if why := nameFault(s); why != "" {
		return fmt.Errorf("%w %q: %s", ErrBadName, clip(s, MaxNameBytes), why)
	}
	return nil
}

func nameFault(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > MaxNameBytes:
		return fmt.Sprintf("longer than %d bytes", MaxNameBytes)
	case !utf8.ValidString(s):
		return "not UTF-8"
	case s[len(s)-1] == ' ':
		return "it ends with a space"
	case LooksLikeCode(s):
		return "it looks like a pairing code"
	}
	for i, r := range s {
		switch {
		case !unicode.IsPrint(r): // the only space it takes is U+0020
			return fmt.Sprintf("character %U is not printable", r)
		case r == '/' || r == '\\':
			return "it has a slash"
		case i == 0 && !unicode.IsLetter(r) && !unicode.IsDigit(r):
			return "it does not begin with a letter or digit"
		}
	}
	return ""
}

// clip shortens s to at most n bytes for an error message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
