package stunmsg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

// rawMessage builds a message without any of the checks that Builder makes.
func rawMessage(class Class, attrs ...[]byte) []byte {
	b := make([]byte, HeaderSize)
	binary.BigEndian.PutUint16(b, joinType(class, MethodBinding))
	binary.BigEndian.PutUint32(b[4:], Cookie)
	copy(b[8:], "abcdefghijkl")
	b = append(b, bytes.Join(attrs, nil)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-HeaderSize))
	return slices.Clip(b)
}

// tlv is one attribute with its padding.
func tlv(t AttrType, v ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(t))
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	b = append(b, v...)
	return append(b, make([]byte, padded(len(v))-len(v))...)
}

func zeros(n int) []byte { return make([]byte, n) }

func address4() []byte { return []byte{0, familyIPv4, 0x12, 0x34, 192, 0, 2, 1} }
func address6() []byte { return append([]byte{0, familyIPv6, 0x12, 0x34}, zeros(16)...) }

// changed is b with one byte set.
func changed(b []byte, at int, to byte) []byte {
	b = bytes.Clone(b)
	b[at] = to
	return b
}

var (
	mi     = tlv(AttrMessageIntegrity, zeros(20)...)
	mi256  = tlv(AttrMessageIntegritySHA256, zeros(32)...)
	finger = tlv(AttrFingerprint, zeros(4)...)
	soft   = tlv(AttrSoftware, 'x')
)

func TestCheck(t *testing.T) {
	req := func(attrs ...[]byte) []byte { return rawMessage(ClassRequest, attrs...) }
	many := func(n int) []byte { return req(slices.Repeat([][]byte{soft}, n)...) }

	tests := []struct {
		name string
		b    []byte
		want error // nil: accepted
	}{
		{"header alone", req(), nil},
		{"empty", nil, errShort},
		{"19 bytes", req()[:19], errShort},
		{"first byte of QUIC, with the cookie", changed(req(), 0, 0x40), errFirstByte},
		{"first byte of a fragment", changed(req(), 0, 0x04), errFirstByte},
		{"ChannelData that looks like STUN behind", append([]byte{0x40, 0, 0, 20}, req()...), errFirstByte},
		{"RFC 3489, without cookie", changed(req(), 7, 0x43), errCookie},
		{"length short of what came", append(req(), zeros(4)...), errLength},
		{"length past what came", changed(req(), 3, 4), errLength},
		{"length wraps around", changed(changed(req(), 2, 0xFF), 3, 0xEC), errLength},
		{"length not a multiple of 4", append(changed(req(), 3, 2), 0, 0), errLength},

		{"attribute", req(soft), nil},
		{"unknown attributes of any form", req(tlv(0x7FFF, 1), tlv(0xFFFF, zeros(99)...)), nil},
		{"value one past the end", req([]byte{0x80, 0x22, 0, 5}, zeros(4)), errAttrValue},
		{"value far past the end", req([]byte{0x80, 0x22, 0xFF, 0xFF}), errAttrValue},
		{"as many attributes as may be", many(MaxAttributes), nil},
		{"one attribute more", many(MaxAttributes + 1), errAttrCount},

		{"XOR-MAPPED-ADDRESS of nothing at the end", req(tlv(AttrXORMappedAddress)), errAttrForm},
		{"XOR-PEER-ADDRESS of nothing at the end", req(soft, tlv(AttrXORPeerAddress)), errAttrForm},
		{"XOR-RELAYED-ADDRESS of nothing at the end", req(tlv(AttrXORRelayedAddress)), errAttrForm},
		{"the draft's XOR-MAPPED-ADDRESS of nothing", req(tlv(AttrOldXORMappedAddress)), errAttrForm},
		{"MAPPED-ADDRESS of nothing", req(tlv(AttrMappedAddress)), errAttrForm},
		{"OTHER-ADDRESS of nothing", req(tlv(AttrOtherAddress)), errAttrForm},
		{"RESPONSE-ORIGIN of nothing", req(tlv(AttrResponseOrigin)), errAttrForm},
		{"ALTERNATE-SERVER of nothing", req(tlv(AttrAlternateServer)), errAttrForm},
		{"address of one byte", req(tlv(AttrXORMappedAddress, 0)), errAttrForm},
		{"address of 4 bytes", req(tlv(AttrXORMappedAddress, 0, 1, 2, 3)), errAttrForm},
		{"IPv4 address", req(tlv(AttrXORMappedAddress, address4()...)), nil},
		{"IPv6 address", req(tlv(AttrXORMappedAddress, address6()...)), nil},
		{"IPv4 family, IPv6 length", req(tlv(AttrXORMappedAddress, changed(address6(), 1, familyIPv4)...)), errAttrForm},
		{"IPv6 family, IPv4 length", req(tlv(AttrXORMappedAddress, changed(address4(), 1, familyIPv6)...)), errAttrForm},
		{"no known family", req(tlv(AttrXORMappedAddress, changed(address4(), 1, 3)...)), errAttrForm},
		{"reserved byte of an address", req(tlv(AttrXORMappedAddress, changed(address4(), 0, 0x30)...)), errAttrForm},
		{"IPv4 address and one byte", req(tlv(AttrXORMappedAddress, append(address4(), 0)...)), errAttrForm},

		{"ERROR-CODE", req(tlv(AttrErrorCode, 0, 0, 4, 1, 'n', 'o')), nil},
		{"ERROR-CODE of nothing", req(tlv(AttrErrorCode)), errAttrForm},
		{"ERROR-CODE of 7xx", req(tlv(AttrErrorCode, 0, 0, 7, 0)), errAttrForm},
		{"ERROR-CODE number 100", req(tlv(AttrErrorCode, 0, 0, 4, 100)), errAttrForm},
		{"USERNAME as long as may be", req(tlv(AttrUsername, zeros(513)...)), nil},
		{"USERNAME too long", req(tlv(AttrUsername, zeros(514)...)), errAttrForm},
		{"NONCE too long", req(tlv(AttrNonce, zeros(764)...)), errAttrForm},
		{"LIFETIME of 3 bytes", req(tlv(AttrLifetime, 0, 0, 0)), errAttrForm},
		{"CHANNEL-NUMBER of 2 bytes", req(tlv(AttrChannelNumber, 0x40, 0)), errAttrForm},
		{"REQUESTED-TRANSPORT of nothing", req(tlv(AttrRequestedTransport)), errAttrForm},
		{"EVEN-PORT of nothing", req(tlv(AttrEvenPort)), errAttrForm},
		{"CHANGE-REQUEST of nothing", req(tlv(AttrChangeRequest)), errAttrForm},
		{"USE-CANDIDATE with a value", req(tlv(AttrUseCandidate, 1)), errAttrForm},
		{"ICE-CONTROLLING of 4 bytes", req(tlv(AttrICEControlling, zeros(4)...)), errAttrForm},
		{"UNKNOWN-ATTRIBUTES and a half", req(tlv(AttrUnknownAttributes, 0, 1, 2)), errAttrForm},
		{"DATA of nothing", req(tlv(AttrData)), nil},
		{"PADDING of 1400 bytes", req(tlv(AttrPadding, zeros(1400)...)), nil},

		{"signed", req(soft, mi, finger), nil},
		{"signed both ways", req(soft, mi, mi256, finger), nil},
		{"signed with SHA-256 alone", req(soft, mi256, finger), nil},
		{"MESSAGE-INTEGRITY of 19 bytes", req(tlv(AttrMessageIntegrity, zeros(19)...)), errAttrForm},
		{"MESSAGE-INTEGRITY of nothing", req(tlv(AttrMessageIntegrity)), errAttrForm},
		{"MESSAGE-INTEGRITY-SHA256 of 18 bytes", req(tlv(AttrMessageIntegritySHA256, zeros(18)...)), errAttrForm},
		{"FINGERPRINT of nothing", req(tlv(AttrFingerprint)), errAttrForm},
		{"attribute after MESSAGE-INTEGRITY", req(mi, soft), errAfterMI},
		{"address after MESSAGE-INTEGRITY", req(mi, tlv(AttrXORPeerAddress, address4()...), finger), errAfterMI},
		{"attribute after MESSAGE-INTEGRITY-SHA256", req(mi, mi256, soft), errAfterMI},
		{"MESSAGE-INTEGRITY twice", req(mi, mi), errAfterMI},
		{"MESSAGE-INTEGRITY after the SHA-256 one", req(mi256, mi), errAfterMI},
		{"attribute after FINGERPRINT", req(finger, soft), errAfterFinger},
		{"MESSAGE-INTEGRITY after FINGERPRINT", req(finger, mi), errAfterFinger},
		{"FINGERPRINT twice", req(finger, finger), errAfterFinger},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := slices.Clip(tt.b) // cap == len, where reading past the end panics
			err := Check(b, AsPeer)
			if err != tt.want {
				t.Errorf("Check = %v, want %v", err, tt.want)
			}
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("Check = %v, is not ErrMalformed", err)
			}
			if _, decodeErr := Decode(b); decodeErr != err {
				t.Errorf("Decode = %v, but Check = %v", decodeErr, err)
			}
			if _, pionErr := ToPion(b, AsPeer); (pionErr == nil) != (err == nil) {
				t.Errorf("ToPion = %v, but Check = %v", pionErr, err)
			}
		})
	}
}

func TestCheckIngress(t *testing.T) {
	tests := []struct {
		in    Ingress
		takes map[Class]bool
	}{
		{AsPeer, map[Class]bool{ClassRequest: true, ClassIndication: true, ClassSuccess: true, ClassError: true}},
		{AsClient, map[Class]bool{ClassIndication: true, ClassSuccess: true, ClassError: true}},
		{AsServer, map[Class]bool{ClassRequest: true, ClassIndication: true}},
	}
	for _, tt := range tests {
		for _, c := range []Class{ClassRequest, ClassIndication, ClassSuccess, ClassError} {
			err := Check(rawMessage(c), tt.in)
			if (err == nil) != tt.takes[c] {
				t.Errorf("ingress %d, %v: Check = %v", tt.in, c, err)
			}
		}
	}
}

func TestIs(t *testing.T) {
	ok := rawMessage(ClassRequest)
	tests := []struct {
		name string
		b    []byte
		want bool
	}{
		{"message", ok, true},
		{"without cookie", changed(ok, 4, 0), true}, // to be refused by Check, not taken for data
		{"short", ok[:19], false},
		{"empty", nil, false},
		{"first byte 3", changed(ok, 0, 3), true},
		{"first byte 4", changed(ok, 0, 4), false},
		{"QUIC with the cookie", changed(ok, 0, 0x43), false},
	}
	for _, tt := range tests {
		if got := Is(tt.b); got != tt.want {
			t.Errorf("%s: Is = %v", tt.name, got)
		}
	}
}

func TestTypeBits(t *testing.T) {
	// RFC 8489 section 5: the class bits lie inside the method's.
	known := map[uint16]Header{
		0x0001: {Class: ClassRequest, Method: MethodBinding},
		0x0011: {Class: ClassIndication, Method: MethodBinding},
		0x0101: {Class: ClassSuccess, Method: MethodBinding},
		0x0111: {Class: ClassError, Method: MethodBinding},
		0x0003: {Class: ClassRequest, Method: MethodAllocate},
		0x0017: {Class: ClassIndication, Method: MethodData},
		0x0118: {Class: ClassError, Method: MethodCreatePermission},
		0x3FFF: {Class: ClassError, Method: 0xFFF},
	}
	for typ, want := range known {
		if c, m := splitType(typ); c != want.Class || m != want.Method {
			t.Errorf("splitType(%#04x) = %v %v", typ, c, m)
		}
	}
	for typ := range uint16(0x4000) {
		if got := joinType(splitType(typ)); got != typ {
			t.Fatalf("joinType(splitType(%#04x)) = %#04x", typ, got)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	good := NewRequest(MethodBinding).Username("a:b").Priority(1).Sign([]byte("k")).Bytes()
	bad := rawMessage(ClassRequest, soft, tlv(AttrXORPeerAddress))
	channel := AppendChannelData(nil, 0x4000, zeros(1200), false)
	for name, f := range map[string]func(){
		"Check accepts": func() { Check(good, AsPeer) },
		"Check refuses": func() { Check(bad, AsPeer) },
		"Parse":         func() { Parse(good) },
		"ChannelData":   func() { ChannelData(channel) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestStrings(t *testing.T) {
	for c := range Class(4) {
		if strings.Contains(c.String(), "class") {
			t.Errorf("class %d has no name", c)
		}
	}
	for _, m := range []Method{1, 3, 4, 6, 7, 8, 9} {
		if strings.Contains(m.String(), "method") {
			t.Errorf("method %d has no name", m)
		}
	}
	if got := Method(0x123).String(); got != "method 0x123" {
		t.Errorf("unknown method: %q", got)
	}
}

func BenchmarkCheck(b *testing.B) {
	m := NewRequest(MethodBinding).Username("abcdefgh:ijklmnop").Priority(1).IceControlling(2).UseCandidate().Sign([]byte("k")).Bytes()
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(m, AsPeer); err != nil {
			b.Fatal(err)
		}
	}
}
