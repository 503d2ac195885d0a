package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Fingerprint names a key: the SHA-256 of its SubjectPublicKeyInfo.
type Fingerprint [sha256.Size]byte

// fingerprintOf returns the fingerprint of a DER-encoded SubjectPublicKeyInfo.
func fingerprintOf(spki []byte) Fingerprint { return sha256.Sum256(spki) }

// String returns a short form for people: 80 bits in four groups. It is enough
// to tell keys apart and to compare them aloud; programs use MarshalText.
func (f Fingerprint) String() string {
	s := strings.ToLower(base32.StdEncoding.EncodeToString(f[:10]))
	return s[0:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:16]
}

// MarshalText returns the whole fingerprint in hexadecimal.
func (f Fingerprint) MarshalText() ([]byte, error) {
	return hex.AppendEncode(nil, f[:]), nil
}

// UnmarshalText parses what MarshalText returned.
func (f *Fingerprint) UnmarshalText(text []byte) error {
	if len(text) != 2*len(f) {
		return fmt.Errorf("fingerprint: want %d hexadecimal digits, got %d", 2*len(f), len(text))
	}
	if _, err := hex.Decode(f[:], text); err != nil {
		return fmt.Errorf("fingerprint: %w", err)
	}
	return nil
}

// IsZero reports whether f is the zero value, which is nobody's fingerprint.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// equal compares in constant time.
func (f Fingerprint) equal(g Fingerprint) bool {
	return subtle.ConstantTimeCompare(f[:], g[:]) == 1
}
