package stunmsg

import "encoding/binary"

// MaxAttributes is how many attributes a message may have. The longest that
// TURN or ICE send have about a dozen.
const MaxAttributes = 32

// An Ingress says who reads, and so which classes can make sense to it.
type Ingress int

const (
	// AsPeer takes every class: ICE peers send each other all of them.
	AsPeer Ingress = iota
	// AsClient takes responses and indications: nobody may ask a client.
	AsClient
	// AsServer takes requests and indications: a server asks nobody.
	AsServer
)

var (
	errClass       = malformed("class not meant for this reader")
	errAttrHeader  = malformed("attribute header past the end")
	errAttrValue   = malformed("attribute value past the end")
	errAttrCount   = malformed("too many attributes")
	errAttrForm    = malformed("attribute value not of its type's form")
	errAfterMI     = malformed("attribute after MESSAGE-INTEGRITY")
	errAfterFinger = malformed("attribute after FINGERPRINT")
)

// Check tells whether b is one well-formed message that the reader may be
// sent; the package comment lists what it refuses. Every error is
// [ErrMalformed]. It neither keeps b nor allocates.
func Check(b []byte, in Ingress) error {
	h, err := Parse(b)
	if err != nil {
		return err
	}
	if !in.takes(h.Class) {
		return errClass
	}
	w := walk{rest: b[HeaderSize:]}
	for w.next() {
	}
	return w.err
}

func (in Ingress) takes(c Class) bool {
	switch in {
	case AsClient:
		return c != ClassRequest
	case AsServer:
		return !c.Response()
	}
	return true
}

// A walk goes over the attributes of a message, one per next, and stops at the
// first that is not well-formed.
type walk struct {
	rest []byte // what follows the current attribute
	err  error

	t AttrType // the current attribute
	v []byte

	seen   int
	closed AttrType // MESSAGE-INTEGRITY or later once seen
}

func (w *walk) next() bool {
	if len(w.rest) == 0 || w.err != nil {
		return false
	}
	if len(w.rest) < attrHeaderSize {
		return w.stop(errAttrHeader)
	}
	t := AttrType(binary.BigEndian.Uint16(w.rest))
	n := int(binary.BigEndian.Uint16(w.rest[2:]))
	if padded(n) > len(w.rest)-attrHeaderSize {
		return w.stop(errAttrValue)
	}
	v := w.rest[attrHeaderSize : attrHeaderSize+n]
	if w.seen++; w.seen > MaxAttributes {
		return w.stop(errAttrCount)
	}
	if !checkValue(t, v) {
		return w.stop(errAttrForm)
	}
	if err := w.order(t); err != nil {
		return w.stop(err)
	}
	w.t, w.v, w.rest = t, v, w.rest[attrHeaderSize+padded(n):]
	return true
}

func (w *walk) stop(err error) bool {
	w.err = err
	return false
}

// order holds the end of a message: MESSAGE-INTEGRITY, then
// MESSAGE-INTEGRITY-SHA256, then FINGERPRINT, each at most once.
func (w *walk) order(t AttrType) error {
	switch w.closed {
	case 0:
	case AttrMessageIntegrity:
		if t != AttrMessageIntegritySHA256 && t != AttrFingerprint {
			return errAfterMI
		}
	case AttrMessageIntegritySHA256:
		if t != AttrFingerprint {
			return errAfterMI
		}
	case AttrFingerprint:
		return errAfterFinger
	}
	switch t {
	case AttrMessageIntegrity, AttrMessageIntegritySHA256, AttrFingerprint:
		w.closed = t
	}
	return nil
}
