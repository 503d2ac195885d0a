package stunmsg

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// The sample messages of RFC 5769, sections 2.1 to 2.4.
const (
	sampleRequest = `
		00010058 2112a442 b7e7a701 bc34d686 fa87dfae
		80220010 5354554e 20746573 7420636c 69656e74
		00240004 6e0001ff
		80290008 932ff9b1 51263b36
		00060009 6576746a 3a683676 59202020
		00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
		80280004 e57a3bcf`

	sampleResponse4 = `
		0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
		8022000b 74657374 20766563 746f7220
		00200008 0001a147 e112a643
		00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
		80280004 c07d4c96`

	sampleResponse6 = `
		01010048 2112a442 b7e7a701 bc34d686 fa87dfae
		8022000b 74657374 20766563 746f7220
		00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
		00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
		80280004 c8fb0b4c`

	sampleLongTerm = `
		00010060 2112a442 78ad3433 c6ad72c0 29da412e
		00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000
		0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341
		0014000b 6578616d 706c652e 6f726700
		00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666`

	samplePassword = "VOkJxbRl1RmTxUk/WvJxBt"
)

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decoded(t testing.TB, b []byte) *Message {
	t.Helper()
	m, err := Decode(b)
	if err != nil {
		t.Fatalf("decode %x: %v", b, err)
	}
	return m
}

func TestRFC5769Request(t *testing.T) {
	m := decoded(t, unhex(t, sampleRequest))
	if m.Class != ClassRequest || m.Method != MethodBinding {
		t.Errorf("is a %v %v", m.Method, m.Class)
	}
	if got := m.Username(); got != "evtj:h6vY" {
		t.Errorf("USERNAME %q", got)
	}
	if got := m.Software(); got != "STUN test client" {
		t.Errorf("SOFTWARE %q", got)
	}
	if p, ok := m.Priority(); !ok || p != 0x6e0001ff {
		t.Errorf("PRIORITY %#x, %v", p, ok)
	}
	if tb, ok := m.IceControlled(); !ok || tb != 0x932ff9b151263b36 {
		t.Errorf("ICE-CONTROLLED %#x, %v", tb, ok)
	}
	verifySample(t, m)
}

func TestRFC5769Responses(t *testing.T) {
	for sample, want := range map[string]string{
		sampleResponse4: "192.0.2.1:32853",
		sampleResponse6: "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
	} {
		m := decoded(t, unhex(t, sample))
		if m.Class != ClassSuccess {
			t.Errorf("is a %v", m.Class)
		}
		if a, ok := m.XORMapped(); !ok || a.String() != want {
			t.Errorf("XOR-MAPPED-ADDRESS %v, %v, want %v", a, ok, want)
		}
		verifySample(t, m)
	}
}

func verifySample(t *testing.T, m *Message) {
	t.Helper()
	if err := m.Verify([]byte(samplePassword)); err != nil {
		t.Error(err)
	}
	if err := m.VerifyFingerprint(); err != nil {
		t.Error(err)
	}
}

func TestRFC5769LongTerm(t *testing.T) {
	m := decoded(t, unhex(t, sampleLongTerm))
	const user = "\u30DE\u30C8\u30EA\u30C3\u30AF\u30B9"
	if got := m.Username(); got != user {
		t.Errorf("USERNAME %q", got)
	}
	if got := m.Realm(); got != "example.org" {
		t.Errorf("REALM %q", got)
	}
	if got := m.Nonce(); got != "f//499k954d6OL34oL9FSTvy64sA" {
		t.Errorf("NONCE %q", got)
	}
	// The RFC's password, after its preparation.
	if err := m.Verify(LongTermKey(user, "example.org", "TheMatrIX")); err != nil {
		t.Error(err)
	}
	if err := m.VerifyFingerprint(); err != ErrNoFingerprint {
		t.Errorf("fingerprint: %v", err)
	}
}

// What Builder makes of the samples' content is the samples, where the RFC
// pads with zeros as we do (its short-term ones pad with blanks).
func TestRFC5769Build(t *testing.T) {
	want := unhex(t, sampleLongTerm)
	m := decoded(t, want)
	b := newBuilder(m.Header).Username(m.Username()).Nonce(m.Nonce()).Realm(m.Realm())
	b.integrity(LongTermKey(m.Username(), "example.org", "TheMatrIX"))
	if got := b.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("built\n%x, want\n%x", got, want)
	}

	a := netip.MustParseAddrPort("[2001:db8:1234:5678:11:2233:4455:6677]:32853")
	resp := decoded(t, unhex(t, sampleResponse6))
	got, _ := decoded(t, Success(resp.Header).XORMappedAddress(a).Bytes()).Attr(AttrXORMappedAddress)
	if want, _ := resp.Attr(AttrXORMappedAddress); !bytes.Equal(got, want) {
		t.Errorf("XOR-MAPPED-ADDRESS built as %x, want %x", got, want)
	}
}
