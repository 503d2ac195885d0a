package stunmsg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxFrame is the longest frame that a [Framer] takes: a full Ethernet
	// packet in a Data indication, with some room, and no more than the
	// buffers that pion's TURN server reads into.
	MaxFrame = 1580

	// ChannelDataHeaderSize is what ChannelData puts before its payload.
	ChannelDataHeaderSize = 4

	maxEmptyReads = 100 // what bufio allows a Reader
)

var (
	// ErrFraming is a stream that is not STUN and ChannelData. It cannot be
	// resumed after it.
	ErrFraming = errors.New("bad TURN stream framing")

	// ErrTooLong is a frame longer than [MaxFrame], up to 64 KiB and a header.
	// It is skipped by the next [Framer.Next].
	ErrTooLong = errors.New("TURN stream frame too long")
)

// A Framer cuts the stream of TURN over TCP or TLS into STUN messages and
// ChannelData (RFC 8656 section 12.5: over a stream ChannelData is padded to a
// multiple of four, and its length field does not count the padding). It looks
// at framing only; what Next returns is still to be checked.
//
// It holds at most its fixed buffer, and each turn of its loop either returns
// or has read something: an announced length never moves it, only bytes do.
// What is skipped goes through the same buffer.
type Framer struct {
	r          io.Reader
	buf        []byte
	start, end int // unread bytes in buf
	skip       int // bytes left of a frame that is too long
	err        error
}

// NewFramer returns a Framer on r.
func NewFramer(r io.Reader) *Framer {
	return &Framer{r: r, buf: make([]byte, 8*MaxFrame)}
}

// Next returns the next frame as it was on the wire, padding included. It is
// valid until the next call. At the end of the stream the error is io.EOF, or
// io.ErrUnexpectedEOF inside a frame. After an error of the Reader that passes
// (a deadline) Next may be called again and loses nothing, and after
// [ErrTooLong] it may be called for what follows; after [ErrFraming] it may not.
func (f *Framer) Next() ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	for {
		f.discard()
		n, err := frameSize(f.buf[f.start:f.end])
		switch {
		case err != nil:
			f.err = err
			return nil, err
		case n > MaxFrame:
			f.skip = n
			return nil, ErrTooLong
		case n > 0 && n <= f.end-f.start:
			frame := f.buf[f.start : f.start+n : f.start+n]
			f.start += n
			return frame, nil
		}
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
}

// discard drops what has come of a frame to be skipped: all that there is, if
// it has not ended.
func (f *Framer) discard() {
	n := min(f.skip, f.end-f.start)
	f.start += n
	f.skip -= n
}

// fill reads at least one byte more.
func (f *Framer) fill() error {
	if f.start > 0 {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	for range maxEmptyReads {
		n, err := f.r.Read(f.buf[f.end:])
		f.end += n
		switch {
		case n > 0:
			return nil // an error comes again with the next Read
		case err == io.EOF && f.end+f.skip > 0:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// frameSize is the length on the wire of the frame that b begins with, 0 when
// b is too short to tell.
func frameSize(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	stun := b[0] <= 3
	if !stun && !channelByte(b[0]) {
		return 0, fmt.Errorf("%w: first byte 0x%02x", ErrFraming, b[0])
	}
	if len(b) < 4 {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	size := ChannelDataHeaderSize + padded(n)
	if stun {
		size = HeaderSize + n
		if n%4 != 0 {
			return 0, fmt.Errorf("%w: STUN length %d", ErrFraming, n)
		}
		if len(b) < 8 {
			return 0, nil
		}
		if binary.BigEndian.Uint32(b[4:]) != Cookie {
			return 0, fmt.Errorf("%w: wrong magic cookie", ErrFraming)
		}
	}
	return size, nil
}

func channelByte(b byte) bool { return b >= 0x40 && b <= 0x7F }

// IsChannelData reports whether b is to be treated as ChannelData, by its
// first byte and by having room for a header.
func IsChannelData(b []byte) bool {
	return len(b) >= ChannelDataHeaderSize && channelByte(b[0])
}

// ChannelData reads a ChannelData message, from a datagram or a [Framer]. The
// payload is part of b; what follows it is padding. It does not allocate.
func ChannelData(b []byte) (channel uint16, payload []byte, err error) {
	if !IsChannelData(b) {
		return 0, nil, errNotChannelData
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b)-ChannelDataHeaderSize {
		return 0, nil, errChannelDataLength
	}
	return binary.BigEndian.Uint16(b), b[ChannelDataHeaderSize : ChannelDataHeaderSize+n], nil
}

var (
	errNotChannelData    = errors.New("not ChannelData")
	errChannelDataLength = errors.New("ChannelData longer than what came")
)

// AppendChannelData appends a ChannelData message to dst, padded as a stream
// asks for when stream is set.
func AppendChannelData(dst []byte, channel uint16, payload []byte, stream bool) []byte {
	dst = binary.BigEndian.AppendUint16(dst, channel)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	dst = append(dst, payload...)
	if stream {
		var zero [3]byte
		dst = append(dst, zero[:padded(len(payload))-len(payload)]...)
	}
	return dst
}
