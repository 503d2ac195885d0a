package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha512"
)

// A transcript is what both sides of a pairing have seen, in the listener's and
// the connector's places, whoever looks at it.
type transcript struct {
	sid              []byte
	yl, adl, yc, adc []byte
	boxC, tagC, boxL []byte
}

// pairKeys are the keys that a pairing's session key yields.
type pairKeys struct {
	tagC, tagL   []byte
	nameC, nameL []byte

	storedC, storedL []byte
	secret           Secret
}

// keys derives all keys from the point k that the two shares have in common.
func (t transcript) keys(k []byte) pairKeys {
	isk := sessionKey(t.sid, k, t.yl, t.adl, t.yc, t.adc)
	key := func(label string, n int) []byte { return derive(isk, PairingVersion+" "+label, n) }
	return pairKeys{
		tagC:    key("connector tag", tagSize),
		tagL:    key("listener tag", tagSize),
		nameC:   key("connector name", 32),
		nameL:   key("listener name", 32),
		storedC: key("connector stored", 32),
		storedL: key("listener stored", 32),
		secret:  Secret(key("pairwise secret", 32)),
	}
}

// connectorTag is the connector's proof that it has the code.
func (t transcript) connectorTag(k pairKeys) []byte {
	return mac(k.tagC, t.sid, t.yl, t.adl, t.yc, t.adc, t.boxC)
}

// listenerTag is the listener's, over the connector's proof as well.
func (t transcript) listenerTag(k pairKeys) []byte {
	return mac(k.tagL, t.sid, t.yl, t.adl, t.yc, t.adc, t.boxC, t.tagC, t.boxL)
}

func mac(key []byte, fields ...[]byte) []byte {
	h := hmac.New(sha512.New, key)
	h.Write(lv(fields...))
	return h.Sum(nil)
}

// sealOnce encrypts with a key that seals this one message, so the nonce is zero.
func sealOnce(key, plain []byte) []byte {
	aead := onceAEAD(key)
	return aead.Seal(nil, make([]byte, aead.NonceSize()), plain, nil)
}

// openOnce is the inverse of sealOnce.
func openOnce(key, box []byte) ([]byte, error) {
	aead := onceAEAD(key)
	return aead.Open(nil, make([]byte, aead.NonceSize()), box, nil)
}

// peerName returns the name in a box whose tag has been verified. When the peer
// sent none that can be used here (its rules may be newer), its key names it.
func peerName(key, box []byte, f Fingerprint) string {
	name, err := openOnce(key, box)
	if err != nil || ValidateName(string(name)) != nil {
		return "peer-" + f.String()
	}
	return string(name)
}

func onceAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("identity: " + err.Error()) // the key size is a constant
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("identity: " + err.Error())
	}
	return aead
}
