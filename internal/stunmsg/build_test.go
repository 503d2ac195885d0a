package stunmsg

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

var (
	addr4 = netip.MustParseAddrPort("203.0.113.7:3478")
	addr6 = netip.MustParseAddrPort("[2001:db8::7]:5349")
	key   = []byte("a password of sufficient length")
)

// everything is a message with each attribute that Builder knows.
func everything() *Builder {
	return NewRequest(MethodAllocate).
		Username("ab:cd").Realm("example.org").Nonce("n-1").Software("p2pagent").
		Priority(0x6e0001ff).IceControlling(7).IceControlled(1<<63|8).UseCandidate().
		ChangeRequest(true, false).ErrorCode(438, "Stale Nonce").
		XORMappedAddress(addr4).XORPeerAddress(addr6).XORPeerAddress(addr4).XORRelayedAddress(addr4).
		ResponseOrigin(addr6).OtherAddress(addr4).
		ChannelNumber(0x4001).Lifetime(10 * time.Minute).RequestedTransport(17).
		UnknownAttributes([]AttrType{AttrEvenPort, 0x7FFF}).
		Data([]byte("payload")).Padding(5)
}

func TestBuildAndDecode(t *testing.T) {
	m := decoded(t, everything().Sign(key).Bytes())
	check := func(what string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s was not read as written", what)
		}
	}
	check("header", m.Class == ClassRequest && m.Method == MethodAllocate)
	check("USERNAME", m.Username() == "ab:cd")
	check("REALM", m.Realm() == "example.org")
	check("NONCE", m.Nonce() == "n-1")
	check("SOFTWARE", m.Software() == "p2pagent")
	p, ok := m.Priority()
	check("PRIORITY", ok && p == 0x6e0001ff)
	tb, ok := m.IceControlling()
	check("ICE-CONTROLLING", ok && tb == 7)
	tb, ok = m.IceControlled()
	check("ICE-CONTROLLED", ok && tb == 1<<63|8)
	check("USE-CANDIDATE", m.UseCandidate())
	ip, port, ok := m.ChangeRequest()
	check("CHANGE-REQUEST", ok && ip && !port)
	code, reason, ok := m.ErrorCode()
	check("ERROR-CODE", ok && code == 438 && reason == "Stale Nonce")
	a, ok := m.XORMapped()
	check("XOR-MAPPED-ADDRESS", ok && a == addr4)
	a, ok = m.XORPeer()
	check("XOR-PEER-ADDRESS", ok && a == addr6)
	all := m.XORPeers()
	check("XOR-PEER-ADDRESS twice", len(all) == 2 && all[0] == addr6 && all[1] == addr4)
	a, ok = m.XORRelayed()
	check("XOR-RELAYED-ADDRESS", ok && a == addr4)
	a, ok = m.ResponseOrigin()
	check("RESPONSE-ORIGIN", ok && a == addr6)
	a, ok = m.OtherAddress()
	check("OTHER-ADDRESS", ok && a == addr4)
	n, ok := m.ChannelNumber()
	check("CHANNEL-NUMBER", ok && n == 0x4001)
	d, ok := m.Lifetime()
	check("LIFETIME", ok && d == 10*time.Minute)
	proto, ok := m.RequestedTransport()
	check("REQUESTED-TRANSPORT", ok && proto == 17)
	v, ok := m.Data()
	check("DATA", ok && string(v) == "payload")
	size, ok := m.PaddingSize()
	check("PADDING", ok && size == 5)
	check("MESSAGE-INTEGRITY", m.Verify(key) == nil)
	check("FINGERPRINT", m.VerifyFingerprint() == nil)
}

func TestAbsentAttributes(t *testing.T) {
	m := decoded(t, NewIndication(MethodBinding).Bytes())
	for what, ok := range map[string]bool{
		"text":    m.Username()+m.Realm()+m.Nonce()+m.Software() != "",
		"flag":    m.UseCandidate(),
		"xored":   second(m.XORMapped()) || second(m.XORPeer()) || second(m.XORRelayed()) || len(m.XORPeers()) > 0,
		"address": second(m.Mapped()) || second(m.ResponseOrigin()) || second(m.OtherAddress()) || second(m.AlternateServer()),
		"number":  second(m.Priority()) || second(m.IceControlled()) || second(m.IceControlling()) || second(m.ChannelNumber()),
		"rest":    second(m.Lifetime()) || second(m.RequestedTransport()) || second(m.Data()) || second(m.PaddingSize()),
	} {
		if ok {
			t.Errorf("a message without attributes has a %s", what)
		}
	}
	if _, _, ok := m.ChangeRequest(); ok {
		t.Error("CHANGE-REQUEST found")
	}
	if _, _, ok := m.ErrorCode(); ok {
		t.Error("ERROR-CODE found")
	}
	if err := m.Verify(key); err != ErrNoIntegrity {
		t.Errorf("Verify = %v", err)
	}
}

func second[T any](_ T, ok bool) bool { return ok }

// pion reads what we write.
func TestPionReadsOurs(t *testing.T) {
	m, err := ToPion(everything().Sign(key).Bytes(), AsServer)
	if err != nil {
		t.Fatal(err)
	}
	if m.Type.Method != stun.MethodAllocate || m.Type.Class != stun.ClassRequest {
		t.Errorf("pion: type %v", m.Type)
	}
	if err := stun.MessageIntegrity(key).Check(m); err != nil {
		t.Errorf("pion: integrity: %v", err)
	}
	if err := stun.Fingerprint.Check(m); err != nil {
		t.Errorf("pion: fingerprint: %v", err)
	}
	var a stun.XORMappedAddress
	if err := a.GetFromAs(m, stun.AttrXORPeerAddress); err != nil || !a.IP.Equal(addr6.Addr().AsSlice()) || a.Port != 5349 {
		t.Errorf("pion: peer address %v, %v", a, err)
	}
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil || code.Code != 438 || string(code.Reason) != "Stale Nonce" {
		t.Errorf("pion: error code %v, %v", code, err)
	}
}

// We read what pion writes.
func TestWeReadPions(t *testing.T) {
	k := stun.NewLongTermIntegrity("user", "realm", "password")
	p := stun.MustBuild(stun.TransactionID, stun.BindingSuccess, stun.NewUsername("user"),
		&stun.XORMappedAddress{IP: addr6.Addr().AsSlice(), Port: 5349}, stun.CodeStaleNonce, k, stun.Fingerprint)
	m := decoded(t, p.Raw)
	if err := m.Verify(LongTermKey("user", "realm", "password")); err != nil {
		t.Error(err)
	}
	if err := m.VerifyFingerprint(); err != nil {
		t.Error(err)
	}
	if a, ok := m.XORMapped(); !ok || a != addr6 {
		t.Errorf("XOR-MAPPED-ADDRESS %v, %v", a, ok)
	}
	if code, _, _ := m.ErrorCode(); code != 438 {
		t.Errorf("ERROR-CODE %d", code)
	}
}

func TestResponsesEchoTheTransaction(t *testing.T) {
	req := decoded(t, NewRequest(MethodRefresh).Bytes())
	for class, b := range map[Class][]byte{
		ClassSuccess: Success(req.Header).Bytes(),
		ClassError:   Error(req.Header, 401, "").Bytes(),
	} {
		want := Header{class, MethodRefresh, req.TransactionID}
		if got := decoded(t, b).Header; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if other := NewRequest(MethodRefresh).TransactionID(); other == req.TransactionID {
		t.Error("two requests have one transaction id")
	}
}

func TestPadTo(t *testing.T) {
	build := func() *Builder { return NewRequest(MethodBinding).Username("path:1") }
	ends := map[string]func(*Builder) *Builder{
		"signed":        func(b *Builder) *Builder { return b.Sign(key) },
		"fingerprinted": func(b *Builder) *Builder { return b.Fingerprint() },
		"bare":          func(b *Builder) *Builder { return b },
	}
	for name, end := range ends {
		least := len(end(build()).Bytes())
		for _, total := range []int{0, 20, least - 1, least, least + 1, least + 4, least + 5, 1200, 1279, 1280, 1450, 1452, 9000} {
			got := end(build().PadTo(total)).Bytes()
			want := max(least, padded(total))
			if len(got) != want {
				t.Errorf("%s: PadTo(%d) made %d bytes, want %d", name, total, len(got), want)
			}
			if err := Check(got, AsPeer); err != nil {
				t.Errorf("%s: PadTo(%d): %v", name, total, err)
			}
		}
	}
	m := decoded(t, build().PadTo(1452).Sign(key).Bytes())
	if m.Verify(key) != nil || m.VerifyFingerprint() != nil {
		t.Error("a padded message does not verify")
	}
}

func TestBuilderMistakes(t *testing.T) {
	long := strings.Repeat("x", 800)
	tests := map[string]struct {
		b    *Builder
		want string
	}{
		"long USERNAME":        {NewRequest(MethodBinding).Username(long), "0x0006"},
		"long NONCE":           {NewRequest(MethodBinding).Nonce(long), "0x0015"},
		"no address":           {NewRequest(MethodBinding).XORMappedAddress(netip.AddrPort{}), "invalid address"},
		"error code 200":       {Error(Header{}, 200, ""), "200"},
		"long reason":          {Error(Header{}, 400, long), "0x0009"},
		"negative padding":     {NewRequest(MethodBinding).Padding(-1), "-1"},
		"padding beyond a u16": {NewRequest(MethodBinding).Padding(1 << 20), "1048576"},
		"padded beyond a u16":  {NewRequest(MethodBinding).PadTo(1 << 17).Sign(key), "padding"},
		"more than fits":       {NewRequest(MethodBinding).Data(zeros(40000)).Data(zeros(40000)), "do not fit"},
		"more after Sign":      {NewRequest(MethodBinding).Sign(key).Priority(1), "signed"},
		"the first is kept":    {NewRequest(MethodBinding).Padding(-7).Username(long), "-7"},
	}
	many := NewRequest(MethodBinding)
	for range MaxAttributes + 1 {
		many.Priority(1)
	}
	tests["too many attributes"] = struct {
		b    *Builder
		want string
	}{many, "33"}
	for name, tt := range tests {
		if b := tt.b.Bytes(); b != nil {
			t.Errorf("%s: made %d bytes", name, len(b))
		}
		if err := tt.b.Err(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v does not tell %q", name, err, tt.want)
		}
	}
}

func TestFingerprintAfterSign(t *testing.T) {
	b := NewRequest(MethodBinding).Sign(key)
	once := bytes.Clone(b.Bytes())
	if twice := b.Fingerprint().Bytes(); !bytes.Equal(once, twice) || b.Err() != nil {
		t.Errorf("Fingerprint after Sign: %x, %v", twice, b.Err())
	}
}

func TestUnknownRequired(t *testing.T) {
	m := decoded(t, rawMessage(ClassRequest, soft, tlv(0x7001), tlv(AttrPriority, zeros(4)...), tlv(0xF001)))
	got := m.UnknownRequired(func(t AttrType) bool { return t == AttrPriority })
	if len(got) != 1 || got[0] != 0x7001 {
		t.Errorf("unknown: %v", got)
	}
}

func TestDecodeKeepsACopy(t *testing.T) {
	b := NewRequest(MethodBinding).Username("before").Bytes()
	m := decoded(t, b)
	clear(b)
	if m.Username() != "before" {
		t.Errorf("USERNAME changed with the caller's buffer: %q", m.Username())
	}
}
