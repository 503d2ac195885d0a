package stunmsg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// An AttrType is the type of an attribute. Types below 0x8000 must be
// understood by who reads them.
type AttrType uint16

// The attributes of RFC 8489, RFC 8445 (ICE), RFC 8656 (TURN) and RFC 5780
// (NAT behaviour).
const (
	AttrMappedAddress          AttrType = 0x0001
	AttrChangeRequest          AttrType = 0x0003 // RFC 5780
	AttrSourceAddress          AttrType = 0x0004 // RFC 3489, obsolete
	AttrChangedAddress         AttrType = 0x0005 // RFC 3489, obsolete
	AttrUsername               AttrType = 0x0006
	AttrMessageIntegrity       AttrType = 0x0008
	AttrErrorCode              AttrType = 0x0009
	AttrUnknownAttributes      AttrType = 0x000A
	AttrChannelNumber          AttrType = 0x000C // RFC 8656
	AttrLifetime               AttrType = 0x000D // RFC 8656
	AttrXORPeerAddress         AttrType = 0x0012 // RFC 8656
	AttrData                   AttrType = 0x0013 // RFC 8656
	AttrRealm                  AttrType = 0x0014
	AttrNonce                  AttrType = 0x0015
	AttrXORRelayedAddress      AttrType = 0x0016 // RFC 8656
	AttrRequestedAddressFamily AttrType = 0x0017 // RFC 8656
	AttrEvenPort               AttrType = 0x0018 // RFC 8656
	AttrRequestedTransport     AttrType = 0x0019 // RFC 8656
	AttrDontFragment           AttrType = 0x001A // RFC 8656
	AttrMessageIntegritySHA256 AttrType = 0x001C
	AttrXORMappedAddress       AttrType = 0x0020
	AttrReservationToken       AttrType = 0x0022 // RFC 8656
	AttrPriority               AttrType = 0x0024 // RFC 8445
	AttrUseCandidate           AttrType = 0x0025 // RFC 8445
	AttrPadding                AttrType = 0x0026 // RFC 5780
	AttrResponsePort           AttrType = 0x0027 // RFC 5780
	AttrOldXORMappedAddress    AttrType = 0x8020 // a draft of RFC 5389
	AttrSoftware               AttrType = 0x8022
	AttrAlternateServer        AttrType = 0x8023
	AttrFingerprint            AttrType = 0x8028
	AttrICEControlled          AttrType = 0x8029 // RFC 8445
	AttrICEControlling         AttrType = 0x802A // RFC 8445
	AttrResponseOrigin         AttrType = 0x802B // RFC 5780
	AttrOtherAddress           AttrType = 0x802C // RFC 5780
)

func (t AttrType) String() string { return fmt.Sprintf("0x%04x", uint16(t)) }

// Required reports whether t lies in the comprehension-required range.
func (t AttrType) Required() bool { return t < 0x8000 }

// Limits that the RFCs set for text.
const (
	maxUsername = 513 // fewer than 513 bytes says RFC 5389, fewer than 509 RFC 8489
	maxText     = 763 // REALM, NONCE, SOFTWARE, the reason of ERROR-CODE: 127 characters
)

// Families of an address attribute.
const (
	familyIPv4 = 1
	familyIPv6 = 2
)

// checkValue tells whether v may be the value of an attribute of type t.
func checkValue(t AttrType, v []byte) bool {
	switch t {
	case AttrMappedAddress, AttrSourceAddress, AttrChangedAddress,
		AttrXORPeerAddress, AttrXORRelayedAddress, AttrXORMappedAddress,
		AttrOldXORMappedAddress, // we never read it, but pion takes it for XOR-MAPPED-ADDRESS
		AttrAlternateServer, AttrResponseOrigin, AttrOtherAddress:
		// The first byte is reserved: to be sent as 0 and ignored. We ignore no
		// other value, since pion takes both bytes for the family.
		return len(v) == 8 && v[0] == 0 && v[1] == familyIPv4 ||
			len(v) == 20 && v[0] == 0 && v[1] == familyIPv6
	case AttrChangeRequest, AttrChannelNumber, AttrLifetime, AttrRequestedTransport,
		AttrRequestedAddressFamily, AttrPriority, AttrFingerprint, AttrResponsePort:
		return len(v) == 4
	case AttrICEControlled, AttrICEControlling, AttrReservationToken:
		return len(v) == 8
	case AttrUseCandidate, AttrDontFragment:
		return len(v) == 0
	case AttrEvenPort:
		return len(v) == 1
	case AttrMessageIntegrity:
		return len(v) == integritySize
	case AttrMessageIntegritySHA256:
		return len(v) >= 16 && len(v) <= 32 && len(v)%4 == 0
	case AttrUsername:
		return len(v) <= maxUsername
	case AttrRealm, AttrNonce, AttrSoftware:
		return len(v) <= maxText
	case AttrErrorCode:
		return len(v) >= 4 && len(v) <= 4+maxText && v[2]&7 >= 3 && v[2]&7 <= 6 && v[3] < 100
	case AttrUnknownAttributes:
		return len(v)%2 == 0
	}
	return true
}

// padded is the room that a value of n bytes takes.
func padded(n int) int { return (n + 3) &^ 3 }

// putAddress appends the value of an address attribute, without XOR.
func putAddress(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		b = append(b, 0, familyIPv4)
	} else {
		b = append(b, 0, familyIPv6)
	}
	b = binary.BigEndian.AppendUint16(b, a.Port())
	return append(b, ip.AsSlice()...)
}

// address reads the value of an address attribute that checkValue accepted.
func address(v []byte) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(v[4:])
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(v[2:]))
}

// xorAddress applies the XOR of RFC 8489 section 14.2 to an address value; it
// is its own inverse. The mask is the cookie followed by the transaction id,
// as it stands in the header.
func xorAddress(v []byte, header []byte) {
	mask := header[4:HeaderSize]
	v[2] ^= mask[0]
	v[3] ^= mask[1]
	for i := range v[4:] {
		v[4+i] ^= mask[i]
	}
}
