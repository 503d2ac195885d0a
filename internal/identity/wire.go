package identity

import (
	"encoding/binary"
	"errors"
)

// lv encodes fields as length and value, one after the other, with the length
// in LEB128: the lv_cat of the CPace draft.
func lv(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// maxField is the longest field of a message: its length is one LEB128 byte.
const maxField = 127

var (
	errTruncated = errors.New("ends too early")
	errTrailing  = errors.New("bytes after the last field")
	errLength    = errors.New("a field has the wrong length")
)

// A reader takes the fields of a message apart. The first error sticks, so a
// parser asks for everything and looks at err once.
type reader struct {
	b   []byte
	err error
}

// field returns the next field. It is at most maxField bytes and aliases the
// message.
func (r *reader) field() []byte {
	if r.err != nil {
		return nil
	}
	if len(r.b) == 0 {
		r.err = errTruncated
		return nil
	}
	n := int(r.b[0])
	switch {
	case n > maxField:
		r.err = errLength
		return nil
	case len(r.b) < 1+n:
		r.err = errTruncated
		return nil
	}
	f := r.b[1 : 1+n]
	r.b = r.b[1+n:]
	return f
}

// fixed returns the next field, which must have n bytes.
func (r *reader) fixed(n int) []byte {
	f := r.field()
	if r.err == nil && len(f) != n {
		r.err = errLength
	}
	if r.err != nil {
		return nil
	}
	return f
}

// end returns the first error there was, or an error when something is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = errTrailing
	}
	return r.err
}
