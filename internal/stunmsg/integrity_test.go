package stunmsg

import (
	"bytes"
	"testing"
)

func TestVerifyRefuses(t *testing.T) {
	good := NewRequest(MethodBinding).Username("a:b").Priority(9).Sign(key).Bytes()
	m := decoded(t, good)
	if err := m.Verify(key); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify([]byte("another key")); err != ErrIntegrity {
		t.Errorf("another key: %v", err)
	}
	if err := m.Verify(nil); err != ErrIntegrity {
		t.Errorf("no key: %v", err)
	}

	// Each bit before FINGERPRINT counts, the header's as well.
	fingerprintAt := len(good) - attrHeaderSize - fingerprintSize
	for at := range fingerprintAt {
		b := bytes.Clone(good)
		b[at] ^= 1
		m, err := Decode(b)
		if err != nil {
			continue
		}
		if m.Verify(key) == nil {
			t.Errorf("verifies with byte %d changed", at)
		}
		if m.VerifyFingerprint() == nil {
			t.Errorf("fingerprint fits with byte %d changed", at)
		}
	}
}

// A signature over less than the message must not be taken for one over all
// of it: what was cut out of one message or stands behind it is not covered.
func TestVerifyPlacement(t *testing.T) {
	signed := NewRequest(MethodBinding).Username("a:b").integrity(key).Bytes()
	attrs := signed[HeaderSize:]
	user, mi := attrs[:8], attrs[8:]

	if m := decoded(t, rawMessage(ClassRequest, mi, finger)); m.Verify(key) != ErrIntegrity {
		t.Error("verifies without the attributes that were signed")
	}
	if _, err := Decode(rawMessage(ClassRequest, user, mi, user)); err != errAfterMI {
		t.Errorf("attribute behind the signature: %v", err)
	}

	// A second MESSAGE-INTEGRITY, hidden in an attribute's value, is not one.
	hidden := tlv(AttrData, mi...)
	if m := decoded(t, rawMessage(ClassRequest, user, hidden)); m.Verify(key) != ErrNoIntegrity {
		t.Error("a value was taken for an attribute")
	}
}

func TestVerifyDoesNotWrite(t *testing.T) {
	b := NewRequest(MethodBinding).Sign(key).Bytes()
	m := decoded(t, b)
	m.Verify(key)
	m.VerifyFingerprint()
	if !bytes.Equal(m.Raw(), b) {
		t.Error("verifying changed the message")
	}
}

func TestVerifyWithSHA256Behind(t *testing.T) {
	b := NewRequest(MethodBinding).Username("a:b").integrity(key)
	b.Attr(AttrMessageIntegritySHA256, zeros(32)).Fingerprint()
	m := decoded(t, b.Bytes())
	if err := m.Verify(key); err != nil {
		t.Errorf("MESSAGE-INTEGRITY before the SHA-256 one: %v", err)
	}
}

func BenchmarkSign(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewRequest(MethodBinding).Username("path:1").Sign(key).Bytes()
	}
}

func BenchmarkDecodeVerify(b *testing.B) {
	raw := NewRequest(MethodBinding).Username("path:1").Sign(key).Bytes()
	b.ReportAllocs()
	for b.Loop() {
		m, err := Decode(raw)
		if err != nil || m.Verify(key) != nil {
			b.Fatal(err)
		}
	}
}
