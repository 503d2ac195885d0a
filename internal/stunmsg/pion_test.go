package stunmsg

import (
	"slices"
	"testing"

	"github.com/pion/stun/v2"
)

// Why nothing goes to pion unchecked: an empty address at the very end of a
// buffer. Should this test fail one day, pion has been repaired.
func TestPionPanicsUnchecked(t *testing.T) {
	for _, at := range []AttrType{AttrXORMappedAddress, AttrOldXORMappedAddress, AttrXORPeerAddress, AttrXORRelayedAddress} {
		b := slices.Clip(rawMessage(ClassIndication, tlv(at)))
		if _, err := ToPion(b, AsPeer); err == nil {
			t.Errorf("attribute %v: ToPion accepts what pion crashes on", at)
		}
		if !pionPanics(b, at) {
			t.Errorf("attribute %v: pion does not panic", at)
		}
	}
}

func pionPanics(b []byte, at AttrType) (panics bool) {
	defer func() { panics = recover() != nil }()
	m := &stun.Message{Raw: b}
	if err := m.Decode(); err != nil {
		return false
	}
	if at == AttrOldXORMappedAddress {
		at = AttrXORMappedAddress
	}
	var a stun.XORMappedAddress
	a.GetFromAs(m, stun.AttrType(at))
	return
}
