package udpsock

import (
	"iter"
	"net/netip"
	"sync"
)

// bufferSize holds the longest read: the kernel coalesces no more than an IP
// packet can hold. Most reads of a connection that is not busy are one datagram,
// and many of them may wait for QUIC: those are kept in little.
const (
	bufferSize = 1 << 16
	littleSize = 2 << 10
)

// A Packet is what one read returned: datagrams of equal size from one source,
// end to end in one pooled buffer, or one empty datagram. Whoever has it may
// change it, and calls Release when done.
type Packet struct {
	Data []byte
	Seg  int            // size of each datagram but the last, which may be shorter
	Src  netip.AddrPort // IPv4 is never mapped into IPv6; a zone only with link-local

	flow  uint32 // of all datagrams, unless mixed; only merge knows and needs them
	mixed bool

	buf []byte // bufferSize or littleSize bytes
}

// packets and little need no owner: a pool is shared by nature, and holds no state.
var packets, little = packetPool(bufferSize), packetPool(littleSize)

func packetPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &Packet{buf: make([]byte, size)} }}
}

// getPacket returns one that holds any read.
func getPacket() *Packet { return packets.Get().(*Packet) }

// NewPacket returns a pooled copy of b, at most 64 KiB, for carriers that do
// not read from a Socket. A seg of 0 means that b is one datagram.
func NewPacket(b []byte, seg int, src netip.AddrPort) *Packet {
	pool := packets
	if len(b) <= littleSize {
		pool = little
	}
	p := pool.Get().(*Packet)
	p.set(copy(p.buf, b), seg, src)
	return p
}

func (p *Packet) set(n, seg int, src netip.AddrPort) {
	if seg <= 0 || seg > n {
		seg = n
	}
	p.Data, p.Seg, p.Src = p.buf[:n], seg, src
}

// Release gives the buffer back. The Packet and its Data must not be touched
// afterwards.
func (p *Packet) Release() {
	if p.Data == nil {
		panic("udpsock: Packet released twice")
	}
	p.Data = nil
	if len(p.buf) == littleSize {
		little.Put(p)
		return
	}
	packets.Put(p)
}

// Count is the number of datagrams that are not empty.
func (p *Packet) Count() int { return count(len(p.Data), p.Seg) }

// Datagrams yields each datagram that is not empty, a part of Data.
func (p *Packet) Datagrams() iter.Seq[[]byte] { return Cut(p.Data, p.Seg) }

// Cut yields b in pieces of seg bytes, the last maybe shorter; all of b when
// seg is 0.
func Cut(b []byte, seg int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := len(b)
			if seg > 0 {
				n = min(seg, n)
			}
			if !yield(b[:n:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// count is into how many datagrams of seg bytes n bytes are cut.
func count(n, seg int) int {
	if n == 0 {
		return 0
	}
	if seg <= 0 {
		return 1
	}
	return (n + seg - 1) / seg
}
