package identity

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The vectors of draft-irtf-cfrg-cpace-21, appendix "CPace using group X25519 and
// hash SHA-512" and its low-order points.
type cpaceVectors struct {
	PRS, CI, SID, GeneratorString, G string
	YaScalar, ADa, Ya                string
	YbScalar, ADb, Yb                string
	K, ISK                           string
	LowOrder                         struct {
		Scalar string
		Points []struct{ U, Product string }
	}
}

func readVectors(t *testing.T) (v cpaceVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/cpace21-x25519-sha512.json")
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s = %x, want %s", what, got, want)
	}
}

func scalarOf(t *testing.T, s string) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCPaceVectors(t *testing.T) {
	v := readVectors(t)
	prs, ci, sid := unhex(t, v.PRS), unhex(t, v.CI), unhex(t, v.SID)
	wantHex(t, "generator string", generatorString(prs, ci, sid), v.GeneratorString)
	wantHex(t, "generator", generator(prs, ci, sid), v.G)

	a, err := shareOf(scalarOf(t, v.YaScalar), prs, ci, sid)
	if err != nil {
		t.Fatal(err)
	}
	b, err := shareOf(scalarOf(t, v.YbScalar), prs, ci, sid)
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "Ya", a.public, v.Ya)
	wantHex(t, "Yb", b.public, v.Yb)

	ka, err := scalarMult(a.scalar, b.public)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := scalarMult(b.scalar, a.public)
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "K of A", ka, v.K)
	wantHex(t, "K of B", kb, v.K)
	wantHex(t, "ISK", sessionKey(sid, ka, a.public, unhex(t, v.ADa), b.public, unhex(t, v.ADb)), v.ISK)
}

// The draft lists points of low order, which must abort, and non-canonical ones
// that would be of low order if bit 255 were not cleared, which must not.
func TestCPaceLowOrder(t *testing.T) {
	v := readVectors(t)
	scalar := scalarOf(t, v.LowOrder.Scalar)
	refused := 0
	for _, p := range v.LowOrder.Points {
		got, err := scalarMult(scalar, unhex(t, p.U))
		if strings.Trim(p.Product, "0") == "" {
			refused++
			if err == nil {
				t.Errorf("point %s: taken, want refused", p.U)
			}
			continue
		}
		if err != nil {
			t.Errorf("point %s: %v", p.U, err)
			continue
		}
		wantHex(t, "product with "+p.U, got, p.Product)
	}
	if refused != 7 || len(v.LowOrder.Points) != 12 {
		t.Errorf("%d of %d points are of low order, want 7 of 12", refused, len(v.LowOrder.Points))
	}
}

func TestLV(t *testing.T) {
	long := bytes.Repeat([]byte{7}, 200)
	got := lv([]byte("1234"), []byte{5}, nil, long)
	want := append([]byte{4, '1', '2', '3', '4', 1, 5, 0, 0xc8, 1}, long...)
	if !bytes.Equal(got, want) {
		t.Errorf("lv = %x, want %x", got, want)
	}
}
