package stunmsg

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	integritySize   = sha1.Size
	fingerprintSize = 4
	fingerprintXOR  = 0x5354554E // "STUN"
)

var (
	// ErrNoIntegrity is a message without MESSAGE-INTEGRITY.
	ErrNoIntegrity = errors.New("no MESSAGE-INTEGRITY")
	// ErrIntegrity is a MESSAGE-INTEGRITY that the key does not make.
	ErrIntegrity = errors.New("wrong MESSAGE-INTEGRITY")
	// ErrNoFingerprint is a message without FINGERPRINT.
	ErrNoFingerprint = errors.New("no FINGERPRINT")
	// ErrFingerprint is a FINGERPRINT that does not fit the message.
	ErrFingerprint = errors.New("wrong FINGERPRINT")
)

// LongTermKey is the key of RFC 8489 section 9.2.2 for [Builder.Sign] and
// [Message.Verify]. The password must be prepared (OpaqueString) already,
// which for ASCII changes nothing. The key of the short-term mechanism is the
// password itself.
func LongTermKey(username, realm, password string) []byte {
	k := md5.Sum([]byte(username + ":" + realm + ":" + password))
	return k[:]
}

// messageIntegrity is the HMAC over raw up to offset at, where the attribute
// begins, with the length field as if the message ended with the attribute.
func messageIntegrity(raw []byte, at int, key []byte) []byte {
	var head [4]byte
	copy(head[:], raw)
	binary.BigEndian.PutUint16(head[2:], uint16(at+attrHeaderSize+integritySize-HeaderSize))
	h := hmac.New(sha1.New, key)
	h.Write(head[:])
	h.Write(raw[len(head):at])
	return h.Sum(nil)
}

// fingerprint is the CRC over raw up to offset at, where the attribute begins.
// The attribute is the last, so the length field is right as it stands in a
// finished message.
func fingerprint(raw []byte, at int) uint32 {
	return crc32.ChecksumIEEE(raw[:at]) ^ fingerprintXOR
}

// Verify checks MESSAGE-INTEGRITY under key, in constant time. It covers
// everything before the attribute; what Decode allows behind it is integrity
// or FINGERPRINT only.
func (m *Message) Verify(key []byte) error {
	a, ok := m.find(AttrMessageIntegrity)
	if !ok {
		return ErrNoIntegrity
	}
	if !hmac.Equal(m.value(a), messageIntegrity(m.raw, a.at, key)) {
		return ErrIntegrity
	}
	return nil
}

// VerifyFingerprint checks FINGERPRINT, which tells STUN from what merely
// looks like it. It is no protection against anybody.
func (m *Message) VerifyFingerprint() error {
	a, ok := m.find(AttrFingerprint)
	if !ok {
		return ErrNoFingerprint
	}
	if binary.BigEndian.Uint32(m.value(a)) != fingerprint(m.raw, a.at) {
		return ErrFingerprint
	}
	return nil
}
