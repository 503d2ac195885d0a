package path

import (
	"encoding/binary"
	"time"
)

const (
	fragmentMark   = 0x30 // high four bits of a fragment's first byte
	fragmentHeader = 8
	maxFragments   = 4

	joinSlots   = 64              // datagrams that may be incomplete at a time
	joinTimeout = 5 * time.Second // after which an incomplete one is forgotten
)

// isFragment tells by the first byte, which STUN (0 to 3) and QUIC (0x40 and
// above) never have.
func isFragment(first byte) bool { return first&0xF0 == fragmentMark }

// fragmentsFor returns into how many pieces a datagram has to be cut for each
// fragment to be at most size bytes, and the length of a piece. It returns 0
// when four pieces do not suffice.
func fragmentsFor(length, size int) (count, piece int) {
	for count = 2; count <= maxFragments; count++ {
		piece = (length + count - 1) / count
		if piece+fragmentHeader <= size && (count-1)*piece < length {
			return count, piece
		}
	}
	return 0, 0
}

// appendFragments appends the fragments of a datagram to dst. All have the
// same length, so that they can be sent as one batch; the last piece is padded
// where the datagram does not divide.
func appendFragments(dst, datagram []byte, count, piece int, number uint32) []byte {
	for i := range count {
		dst = append(dst, fragmentMark|byte(count-1)<<2|byte(i), 0)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(datagram)))
		dst = binary.BigEndian.AppendUint32(dst, number)
		part := datagram[i*piece : min((i+1)*piece, len(datagram))]
		dst = append(dst, part...)
		for range piece - len(part) {
			dst = append(dst, 0)
		}
	}
	return dst
}

// A joiner puts fragments together again. It is a fixed table: the slot of a
// datagram is its number modulo the table's size, and a newer datagram takes
// the slot of an older one that never became complete.
type joiner struct {
	max   int // longest datagram
	slots [joinSlots]joinSlot

	joined     counter // datagrams made whole
	incomplete counter // datagrams given up: replaced or timed out
	malformed  counter // fragments refused
}

type joinSlot struct {
	busy   bool
	path   int
	number uint32
	length int
	count  int
	have   byte // bit set of pieces
	at     time.Duration
	buf    []byte
}

// add takes one fragment that came over a path and returns the datagram it
// completes, or nil. The datagram is valid until the next call.
func (j *joiner) add(now time.Duration, path int, b []byte) []byte {
	if len(b) <= fragmentHeader || !isFragment(b[0]) {
		j.malformed.Add(1)
		return nil
	}
	count, index := int(b[0]>>2&3)+1, int(b[0]&3)
	length := int(binary.BigEndian.Uint16(b[2:]))
	number := binary.BigEndian.Uint32(b[4:])
	piece := (length + count - 1) / count
	if count < 2 || index >= count || length > j.max || (count-1)*piece >= length || len(b) != fragmentHeader+piece {
		j.malformed.Add(1)
		return nil
	}

	s := &j.slots[number%joinSlots]
	same := s.busy && s.path == path && s.number == number && s.length == length && s.count == count
	switch {
	case same && now-s.at > joinTimeout:
		j.incomplete.Add(1)
		same = false
	case s.busy && !same && s.path == path && now-s.at <= joinTimeout && int32(number-s.number) < 0:
		return nil // a straggler of a datagram given up already
	case s.busy && !same:
		j.incomplete.Add(1)
	}
	if !same {
		if s.buf == nil {
			s.buf = make([]byte, j.max)
		}
		*s = joinSlot{busy: true, path: path, number: number, length: length, count: count, at: now, buf: s.buf}
	}

	copy(s.buf[index*piece:length], b[fragmentHeader:])
	s.have |= 1 << index
	if s.have != 1<<count-1 {
		return nil
	}
	s.busy = false
	j.joined.Add(1)
	return s.buf[:length]
}
