package identity

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha512"
	"fmt"

	"filippo.io/edwards25519/field"
)

// CPACE-X25519-SHA512 of draft-irtf-cfrg-cpace-21, section by section: the
// generator string, Elligator2 onto Curve25519, the two scalar multiplications
// and the session key. Names in comments are the draft's.

const (
	cpaceDSI    = "CPace255"
	cpaceDSIISK = "CPace255_ISK"

	// sha512Block is s_in_bytes, the input block size of SHA-512.
	sha512Block = 128

	pointSize = 32
)

// generatorString is generator_string(DSI, PRS, CI, sid, s_in_bytes). Zeros fill
// the first hash block, so the time to hash does not tell the password's length.
func generatorString(prs, ci, sid []byte) []byte {
	used := len(lv([]byte(cpaceDSI), prs))
	zpad := make([]byte, max(0, sha512Block-used-1))
	return lv([]byte(cpaceDSI), prs, zpad, ci, sid)
}

// generator is calculate_generator: the point, as a u-coordinate, that the
// password stands for in this session.
func generator(prs, ci, sid []byte) []byte {
	h := sha512.Sum512(generatorString(prs, ci, sid))
	u, err := new(field.Element).SetBytes(h[:pointSize]) // clears bit 255, as decodeUCoordinate
	if err != nil {
		panic("identity: a field element of the wrong size: " + err.Error()) // the size is a constant
	}
	return elligator2(u).Bytes()
}

// elligator2 is map_to_curve_elligator2 of RFC 9380 for Curve25519 (J = 486662,
// K = 1, Z = 2), without the v-coordinate that CPace does not use. The exceptional
// case 1 + 2u² = 0 does not exist here: -1/2 is not a square. Constant time.
func elligator2(u *field.Element) *field.Element {
	one := new(field.Element).One()
	j := new(field.Element).Mult32(one, 486662)

	// x1 = -J / (1 + 2u²)
	den := new(field.Element).Square(u)
	den.Add(den, den)
	den.Add(den, one)
	x1 := new(field.Element).Invert(den)
	x1.Multiply(x1, j)
	x1.Negate(x1)

	// gx1 = x1³ + J x1² + x1 = x1 (x1 (x1 + J) + 1)
	gx1 := new(field.Element).Add(x1, j)
	gx1.Multiply(gx1, x1)
	gx1.Add(gx1, one)
	gx1.Multiply(gx1, x1)

	// x2 = -x1 - J
	x2 := new(field.Element).Add(x1, j)
	x2.Negate(x2)

	_, square := new(field.Element).SqrtRatio(gx1, one)
	return new(field.Element).Select(x1, x2, square)
}

// scalarMult is scalar_mult_vfy. It refuses a point of low order, where the
// draft has a party abort because the result is the neutral element.
func scalarMult(scalar *ecdh.PrivateKey, point []byte) ([]byte, error) {
	p, err := ecdh.X25519().NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("public share: %w", err)
	}
	k, err := scalar.ECDH(p)
	if err != nil {
		return nil, fmt.Errorf("public share: %w", err)
	}
	return k, nil
}

// A cpaceShare is one party's secret scalar and the public share made of it.
type cpaceShare struct {
	scalar *ecdh.PrivateKey
	public []byte
}

// newShare draws a fresh scalar and multiplies the session's generator with it.
func newShare(prs, ci, sid []byte) (cpaceShare, error) {
	scalar, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return cpaceShare{}, fmt.Errorf("draw a scalar: %w", err)
	}
	return shareOf(scalar, prs, ci, sid)
}

func shareOf(scalar *ecdh.PrivateKey, prs, ci, sid []byte) (cpaceShare, error) {
	public, err := scalarMult(scalar, generator(prs, ci, sid))
	if err != nil {
		return cpaceShare{}, err
	}
	return cpaceShare{scalar, public}, nil
}

// sessionKey is ISK with transcript_ir: A is the initiator, B the responder.
func sessionKey(sid, k, ya, ada, yb, adb []byte) []byte {
	b := lv([]byte(cpaceDSIISK), sid, k)
	b = append(b, lv(ya, ada)...)
	b = append(b, lv(yb, adb)...)
	isk := sha512.Sum512(b)
	return isk[:]
}
