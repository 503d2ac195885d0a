package stunmsg

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	// HeaderSize is the length of a message without attributes.
	HeaderSize = 20

	// Cookie is the magic cookie at offset 4.
	Cookie = 0x2112A442

	attrHeaderSize = 4
	maxMessage     = HeaderSize + 0xFFFC
)

// ErrMalformed is what every refusal by [Parse], [Check] and [Decode] is.
var ErrMalformed = errors.New("malformed STUN message")

// Each reason is a value made once: refusing a flood must not cost garbage.
var (
	errShort     = malformed("shorter than a header")
	errFirstByte = malformed("first byte is not STUN's")
	errCookie    = malformed("wrong magic cookie")
	errLength    = malformed("length field does not match")
)

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

// A Class tells requests, indications and the two kinds of response apart.
type Class uint8

// The classes of RFC 8489 section 5.
const (
	ClassRequest    Class = 0
	ClassIndication Class = 1
	ClassSuccess    Class = 2
	ClassError      Class = 3
)

func (c Class) String() string {
	switch c {
	case ClassRequest:
		return "request"
	case ClassIndication:
		return "indication"
	case ClassSuccess:
		return "success response"
	case ClassError:
		return "error response"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Response reports whether c answers a request.
func (c Class) Response() bool { return c == ClassSuccess || c == ClassError }

// A Method is what a message is about; 12 bits.
type Method uint16

// Binding is STUN's (RFC 8489), the others are TURN's (RFC 8656).
const (
	MethodBinding          Method = 0x001
	MethodAllocate         Method = 0x003
	MethodRefresh          Method = 0x004
	MethodSend             Method = 0x006
	MethodData             Method = 0x007
	MethodCreatePermission Method = 0x008
	MethodChannelBind      Method = 0x009
)

func (m Method) String() string {
	switch m {
	case MethodBinding:
		return "Binding"
	case MethodAllocate:
		return "Allocate"
	case MethodRefresh:
		return "Refresh"
	case MethodSend:
		return "Send"
	case MethodData:
		return "Data"
	case MethodCreatePermission:
		return "CreatePermission"
	case MethodChannelBind:
		return "ChannelBind"
	}
	return fmt.Sprintf("method 0x%03x", uint16(m))
}

// A TransactionID joins a response to its request.
type TransactionID [12]byte

// NewTransactionID returns a random one.
func NewTransactionID() (id TransactionID) {
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	return id
}

func (id TransactionID) String() string { return hex.EncodeToString(id[:]) }

// A Header is a message without its attributes.
type Header struct {
	Class         Class
	Method        Method
	TransactionID TransactionID
}

// Is reports whether b is to be treated as STUN, by its first byte and by
// having room for a header. It says nothing of what follows; [Check] does.
func Is(b []byte) bool { return len(b) >= HeaderSize && b[0] <= 3 }

// Parse reads the header and checks it against len(b), not the attributes. It
// does not allocate.
func Parse(b []byte) (Header, error) {
	var h Header
	switch {
	case len(b) < HeaderSize:
		return h, errShort
	case b[0] > 3:
		return h, errFirstByte
	case binary.BigEndian.Uint32(b[4:]) != Cookie:
		return h, errCookie
	}
	if n := int(binary.BigEndian.Uint16(b[2:])); n != len(b)-HeaderSize || n%4 != 0 {
		return h, errLength
	}
	h.Class, h.Method = splitType(binary.BigEndian.Uint16(b))
	copy(h.TransactionID[:], b[8:])
	return h, nil
}

// splitType takes the two class bits (8 and 4) out of the method.
func splitType(t uint16) (Class, Method) {
	c := t>>7&2 | t>>4&1
	m := t>>2&0xF80 | t>>1&0x70 | t&0xF
	return Class(c), Method(m)
}

func joinType(c Class, m Method) uint16 {
	t := uint16(m)&0xF80<<2 | uint16(m)&0x70<<1 | uint16(m)&0xF
	return t | uint16(c)&2<<7 | uint16(c)&1<<4
}
