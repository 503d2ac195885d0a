package stunmsg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// A Builder puts a message together. Its methods append attributes in the
// order of the calls and return the Builder; the last calls are [Builder.Sign]
// or [Builder.Fingerprint], if any, and [Builder.Bytes].
//
// A value that does not fit its attribute makes the message invalid: Bytes is
// nil then and Err says why.
type Builder struct {
	raw    []byte
	padTo  int // 0: no PADDING asked for
	attrs  int
	closed bool // signed or fingerprinted
	err    error
}

// NewRequest begins a request with a random transaction id.
func NewRequest(m Method) *Builder {
	return newBuilder(Header{ClassRequest, m, NewTransactionID()})
}

// NewIndication begins an indication with a random transaction id.
func NewIndication(m Method) *Builder {
	return newBuilder(Header{ClassIndication, m, NewTransactionID()})
}

// Success begins the success response to a request.
func Success(to Header) *Builder {
	return newBuilder(Header{ClassSuccess, to.Method, to.TransactionID})
}

// Error begins the error response to a request, with its ERROR-CODE. An empty
// reason keeps the answer small.
func Error(to Header, code int, reason string) *Builder {
	b := newBuilder(Header{ClassError, to.Method, to.TransactionID})
	return b.ErrorCode(code, reason)
}

func newBuilder(h Header) *Builder {
	b := &Builder{raw: make([]byte, HeaderSize, 128)}
	binary.BigEndian.PutUint16(b.raw, joinType(h.Class, h.Method))
	binary.BigEndian.PutUint32(b.raw[4:], Cookie)
	copy(b.raw[8:], h.TransactionID[:])
	return b
}

// TransactionID is the message's.
func (b *Builder) TransactionID() TransactionID { return TransactionID(b.raw[8:HeaderSize]) }

// Err is the first mistake, nil when there is none.
func (b *Builder) Err() error { return b.err }

// Attr appends any attribute.
func (b *Builder) Attr(t AttrType, v []byte) *Builder {
	switch {
	case b.err != nil:
		return b
	case b.closed:
		return b.fail(fmt.Errorf("attribute %v: the message is signed already", t))
	case !checkValue(t, v):
		return b.fail(fmt.Errorf("attribute %v: %d bytes that are not a value of its form", t, len(v)))
	case b.attrs == MaxAttributes:
		return b.fail(fmt.Errorf("attribute %v: would be number %d", t, MaxAttributes+1))
	case len(b.raw)+attrHeaderSize+padded(len(v)) > maxMessage:
		return b.fail(fmt.Errorf("attribute %v: %d bytes do not fit the message", t, len(v)))
	}
	b.append(t, v)
	return b
}

func (b *Builder) fail(err error) *Builder {
	if b.err == nil {
		b.err = err
	}
	return b
}

func (b *Builder) append(t AttrType, v []byte) {
	b.raw = binary.BigEndian.AppendUint16(b.raw, uint16(t))
	b.raw = binary.BigEndian.AppendUint16(b.raw, uint16(len(v)))
	b.raw = append(b.raw, v...)
	b.raw = append(b.raw, make([]byte, padded(len(v))-len(v))...)
	b.setLength(len(b.raw))
	b.attrs++
}

func (b *Builder) setLength(total int) {
	binary.BigEndian.PutUint16(b.raw[2:], uint16(total-HeaderSize))
}

func (b *Builder) uint32(t AttrType, v uint32) *Builder {
	return b.Attr(t, binary.BigEndian.AppendUint32(nil, v))
}

func (b *Builder) uint64(t AttrType, v uint64) *Builder {
	return b.Attr(t, binary.BigEndian.AppendUint64(nil, v))
}

func (b *Builder) address(t AttrType, a netip.AddrPort, xor bool) *Builder {
	if !a.IsValid() {
		return b.fail(fmt.Errorf("attribute %v: invalid address", t))
	}
	v := putAddress(nil, a)
	if xor {
		xorAddress(v, b.raw)
	}
	return b.Attr(t, v)
}

// Username appends USERNAME.
func (b *Builder) Username(s string) *Builder { return b.Attr(AttrUsername, []byte(s)) }

// Realm appends REALM.
func (b *Builder) Realm(s string) *Builder { return b.Attr(AttrRealm, []byte(s)) }

// Nonce appends NONCE.
func (b *Builder) Nonce(s string) *Builder { return b.Attr(AttrNonce, []byte(s)) }

// Software appends SOFTWARE.
func (b *Builder) Software(s string) *Builder { return b.Attr(AttrSoftware, []byte(s)) }

// Priority appends PRIORITY.
func (b *Builder) Priority(p uint32) *Builder { return b.uint32(AttrPriority, p) }

// IceControlling appends ICE-CONTROLLING.
func (b *Builder) IceControlling(tiebreaker uint64) *Builder {
	return b.uint64(AttrICEControlling, tiebreaker)
}

// IceControlled appends ICE-CONTROLLED.
func (b *Builder) IceControlled(tiebreaker uint64) *Builder {
	return b.uint64(AttrICEControlled, tiebreaker)
}

// UseCandidate appends USE-CANDIDATE.
func (b *Builder) UseCandidate() *Builder { return b.Attr(AttrUseCandidate, nil) }

// ChangeRequest appends CHANGE-REQUEST.
func (b *Builder) ChangeRequest(ip, port bool) *Builder {
	var v uint32
	if ip {
		v |= changeIP
	}
	if port {
		v |= changePort
	}
	return b.uint32(AttrChangeRequest, v)
}

// ErrorCode appends ERROR-CODE; [Error] does so by itself.
func (b *Builder) ErrorCode(code int, reason string) *Builder {
	if code < 300 || code > 699 {
		return b.fail(fmt.Errorf("error code %d is not in 300 to 699", code))
	}
	return b.Attr(AttrErrorCode, append([]byte{0, 0, byte(code / 100), byte(code % 100)}, reason...))
}

// UnknownAttributes appends UNKNOWN-ATTRIBUTES, which goes with error 420.
func (b *Builder) UnknownAttributes(types []AttrType) *Builder {
	var v []byte
	for _, t := range types {
		v = binary.BigEndian.AppendUint16(v, uint16(t))
	}
	return b.Attr(AttrUnknownAttributes, v)
}

// XORMappedAddress appends XOR-MAPPED-ADDRESS.
func (b *Builder) XORMappedAddress(a netip.AddrPort) *Builder {
	return b.address(AttrXORMappedAddress, a, true)
}

// XORPeerAddress appends XOR-PEER-ADDRESS.
func (b *Builder) XORPeerAddress(a netip.AddrPort) *Builder {
	return b.address(AttrXORPeerAddress, a, true)
}

// XORRelayedAddress appends XOR-RELAYED-ADDRESS.
func (b *Builder) XORRelayedAddress(a netip.AddrPort) *Builder {
	return b.address(AttrXORRelayedAddress, a, true)
}

// ResponseOrigin appends RESPONSE-ORIGIN.
func (b *Builder) ResponseOrigin(a netip.AddrPort) *Builder {
	return b.address(AttrResponseOrigin, a, false)
}

// OtherAddress appends OTHER-ADDRESS.
func (b *Builder) OtherAddress(a netip.AddrPort) *Builder {
	return b.address(AttrOtherAddress, a, false)
}

// ChannelNumber appends CHANNEL-NUMBER.
func (b *Builder) ChannelNumber(n uint16) *Builder {
	return b.uint32(AttrChannelNumber, uint32(n)<<16)
}

// Lifetime appends LIFETIME, in whole seconds.
func (b *Builder) Lifetime(d time.Duration) *Builder {
	return b.uint32(AttrLifetime, uint32(d/time.Second))
}

// RequestedTransport appends REQUESTED-TRANSPORT; 17 is UDP.
func (b *Builder) RequestedTransport(protocol uint8) *Builder {
	return b.uint32(AttrRequestedTransport, uint32(protocol)<<24)
}

// Data appends DATA, the payload of a Send or Data indication.
func (b *Builder) Data(p []byte) *Builder { return b.Attr(AttrData, p) }

// Padding appends PADDING with n zero bytes.
func (b *Builder) Padding(n int) *Builder {
	if n < 0 || n > maxMessage {
		return b.fail(fmt.Errorf("padding of %d bytes", n))
	}
	return b.Attr(AttrPadding, make([]byte, n))
}

// PadTo asks for PADDING such that the finished message, signature and
// fingerprint included, has total bytes, rounded up to a multiple of four. A
// message that is as long already gets none.
func (b *Builder) PadTo(total int) *Builder {
	b.padTo = total
	return b
}

// pad appends the PADDING that PadTo asked for, now that it is known that
// exactly tail bytes follow.
func (b *Builder) pad(tail int) {
	missing := padded(b.padTo) - tail - len(b.raw)
	b.padTo = 0
	if missing >= attrHeaderSize {
		b.Padding(missing - attrHeaderSize)
	}
}

// Sign appends MESSAGE-INTEGRITY under key and FINGERPRINT, and so ends the
// message. The key is the password (short-term, as in ICE) or a [LongTermKey].
func (b *Builder) Sign(key []byte) *Builder {
	b.pad(attrHeaderSize + integritySize + attrHeaderSize + fingerprintSize)
	return b.integrity(key).Fingerprint()
}

func (b *Builder) integrity(key []byte) *Builder {
	return b.Attr(AttrMessageIntegrity, messageIntegrity(b.raw, len(b.raw), key))
}

// Fingerprint appends FINGERPRINT, and so ends the message. After Sign it does
// nothing.
func (b *Builder) Fingerprint() *Builder {
	if b.closed {
		return b
	}
	b.pad(attrHeaderSize + fingerprintSize)
	at := len(b.raw)
	b.setLength(at + attrHeaderSize + fingerprintSize)
	b.uint32(AttrFingerprint, fingerprint(b.raw, at))
	b.closed = true
	return b
}

// Bytes is the finished message, nil if there was a mistake.
func (b *Builder) Bytes() []byte {
	b.pad(0)
	if b.err != nil {
		return nil
	}
	return b.raw
}
