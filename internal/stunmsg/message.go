package stunmsg

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"
)

// A Message is a decoded message. It does not change, so it may be read by
// several goroutines.
type Message struct {
	Header

	raw   []byte
	attrs []attr
}

// attr is where an attribute stands in raw.
type attr struct {
	t  AttrType
	at int // offset of the attribute's header
	n  int // length of the value
}

// Decode checks b as [Check] does for a peer and reads it. The message keeps a
// copy, not b.
func Decode(b []byte) (*Message, error) {
	h, err := Parse(b)
	if err != nil {
		return nil, err
	}
	m := &Message{Header: h, raw: bytes.Clone(b)}
	w := walk{rest: m.raw[HeaderSize:]}
	for w.next() {
		end := len(m.raw) - len(w.rest)
		at := end - padded(len(w.v)) - attrHeaderSize
		m.attrs = append(m.attrs, attr{w.t, at, len(w.v)})
	}
	if w.err != nil {
		return nil, w.err
	}
	return m, nil
}

// Raw is the message as it was received; not to be written to.
func (m *Message) Raw() []byte { return m.raw }

// Attr returns the value of the first attribute of type t; not to be written to.
func (m *Message) Attr(t AttrType) ([]byte, bool) {
	a, ok := m.find(t)
	if !ok {
		return nil, false
	}
	return m.value(a), true
}

func (m *Message) find(t AttrType) (attr, bool) {
	for _, a := range m.attrs {
		if a.t == t {
			return a, true
		}
	}
	return attr{}, false
}

func (m *Message) value(a attr) []byte {
	v := a.at + attrHeaderSize
	return m.raw[v : v+a.n : v+a.n]
}

// Has reports whether an attribute of type t is there.
func (m *Message) Has(t AttrType) bool {
	_, ok := m.find(t)
	return ok
}

// UnknownRequired returns the comprehension-required attributes that known
// does not hold, for the 420 answer of RFC 8489 section 6.3.1.
func (m *Message) UnknownRequired(known func(AttrType) bool) (unknown []AttrType) {
	for _, a := range m.attrs {
		if a.t.Required() && !known(a.t) {
			unknown = append(unknown, a.t)
		}
	}
	return unknown
}

func (m *Message) text(t AttrType) string {
	v, _ := m.Attr(t)
	return string(v)
}

// Username is USERNAME, empty when absent.
func (m *Message) Username() string { return m.text(AttrUsername) }

// Realm is REALM, empty when absent.
func (m *Message) Realm() string { return m.text(AttrRealm) }

// Nonce is NONCE, empty when absent.
func (m *Message) Nonce() string { return m.text(AttrNonce) }

// Software is SOFTWARE, empty when absent.
func (m *Message) Software() string { return m.text(AttrSoftware) }

func (m *Message) uint32(t AttrType) (uint32, bool) {
	v, ok := m.Attr(t)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint32(v), true
}

func (m *Message) uint64(t AttrType) (uint64, bool) {
	v, ok := m.Attr(t)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

// Priority is PRIORITY.
func (m *Message) Priority() (uint32, bool) { return m.uint32(AttrPriority) }

// IceControlling is the tie-breaker of ICE-CONTROLLING.
func (m *Message) IceControlling() (tiebreaker uint64, ok bool) {
	return m.uint64(AttrICEControlling)
}

// IceControlled is the tie-breaker of ICE-CONTROLLED.
func (m *Message) IceControlled() (tiebreaker uint64, ok bool) {
	return m.uint64(AttrICEControlled)
}

// UseCandidate reports whether USE-CANDIDATE is there.
func (m *Message) UseCandidate() bool { return m.Has(AttrUseCandidate) }

// Bits of CHANGE-REQUEST.
const (
	changeIP   = 4
	changePort = 2
)

// ChangeRequest is CHANGE-REQUEST; ok is false when it is absent.
func (m *Message) ChangeRequest() (ip, port, ok bool) {
	v, ok := m.uint32(AttrChangeRequest)
	return v&changeIP != 0, v&changePort != 0, ok
}

// ErrorCode is ERROR-CODE.
func (m *Message) ErrorCode() (code int, reason string, ok bool) {
	v, ok := m.Attr(AttrErrorCode)
	if !ok {
		return 0, "", false
	}
	return int(v[2]&7)*100 + int(v[3]), string(v[4:]), true
}

// ChannelNumber is CHANNEL-NUMBER.
func (m *Message) ChannelNumber() (uint16, bool) {
	v, ok := m.uint32(AttrChannelNumber)
	return uint16(v >> 16), ok
}

// Lifetime is LIFETIME.
func (m *Message) Lifetime() (time.Duration, bool) {
	v, ok := m.uint32(AttrLifetime)
	return time.Duration(v) * time.Second, ok
}

// RequestedTransport is the IP protocol of REQUESTED-TRANSPORT; 17 is UDP.
func (m *Message) RequestedTransport() (protocol uint8, ok bool) {
	v, ok := m.uint32(AttrRequestedTransport)
	return uint8(v >> 24), ok
}

// Data is the payload of a Send or Data indication; not to be written to.
func (m *Message) Data() ([]byte, bool) { return m.Attr(AttrData) }

// PaddingSize is the length of PADDING's value.
func (m *Message) PaddingSize() (n int, ok bool) {
	v, ok := m.Attr(AttrPadding)
	return len(v), ok
}

// XORMapped is XOR-MAPPED-ADDRESS: where the request came from.
func (m *Message) XORMapped() (netip.AddrPort, bool) { return m.xored(AttrXORMappedAddress) }

// XORPeer is the first XOR-PEER-ADDRESS; see [Message.XORPeers].
func (m *Message) XORPeer() (netip.AddrPort, bool) { return m.xored(AttrXORPeerAddress) }

// XORRelayed is XOR-RELAYED-ADDRESS.
func (m *Message) XORRelayed() (netip.AddrPort, bool) { return m.xored(AttrXORRelayedAddress) }

// XORPeers are all XOR-PEER-ADDRESS attributes: a CreatePermission may have
// several.
func (m *Message) XORPeers() (peers []netip.AddrPort) {
	for _, a := range m.attrs {
		if a.t == AttrXORPeerAddress {
			peers = append(peers, m.unxor(a))
		}
	}
	return peers
}

// Mapped is MAPPED-ADDRESS, which some old servers send alone.
func (m *Message) Mapped() (netip.AddrPort, bool) { return m.plain(AttrMappedAddress) }

// ResponseOrigin is RESPONSE-ORIGIN: which of its addresses the server
// answered from.
func (m *Message) ResponseOrigin() (netip.AddrPort, bool) { return m.plain(AttrResponseOrigin) }

// OtherAddress is OTHER-ADDRESS: what the server would answer from if asked to
// change address and port.
func (m *Message) OtherAddress() (netip.AddrPort, bool) { return m.plain(AttrOtherAddress) }

// AlternateServer is ALTERNATE-SERVER, which goes with error 300.
func (m *Message) AlternateServer() (netip.AddrPort, bool) { return m.plain(AttrAlternateServer) }

func (m *Message) plain(t AttrType) (netip.AddrPort, bool) {
	v, ok := m.Attr(t)
	if !ok {
		return netip.AddrPort{}, false
	}
	return address(v), true
}

func (m *Message) xored(t AttrType) (netip.AddrPort, bool) {
	a, ok := m.find(t)
	if !ok {
		return netip.AddrPort{}, false
	}
	return m.unxor(a), true
}

func (m *Message) unxor(a attr) netip.AddrPort {
	var buf [20]byte
	v := buf[:copy(buf[:], m.value(a))]
	xorAddress(v, m.raw)
	return address(v)
}
