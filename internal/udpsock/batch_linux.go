package udpsock

import (
	"encoding/binary"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxBatch is how many datagrams (or what UDP_GRO made of several) one
	// call takes at most, minBatch when little comes.
	minBatch = 16
	maxBatch = 64

	// batchBytes is how much one call should take: more than that does not
	// stay in the cache until it is sent.
	batchBytes = 256 << 10
)

// A batch is what one recvmmsg fills. The Packets are taken from the pool when
// something is to be read; those that nobody has taken stay for the next read.
type batch struct {
	packets [maxBatch]*Packet
	headers [maxBatch]messageHeader
	iovs    [maxBatch]unix.Iovec
	sources [maxBatch]unix.RawSockaddrInet4
	control [maxBatch][controlSize]byte

	size   int  // how many messages to ask for, by what came last
	held   int  // no Packets from here on
	single bool // the kernel has no recvmmsg
}

// controlSize holds UDP_GRO's message.
const controlSize = 24

// A messageHeader is the kernel's struct mmsghdr.
type messageHeader struct {
	unix.Msghdr
	n uint32
}

// read takes datagrams without waiting. What it returns is valid until the
// next read; who keeps a Packet puts nil in its place.
func (b *batch) read(c *rawConn) ([]*Packet, error) {
	if b.size == 0 {
		b.size = minBatch
	}
	b.prepare()
	n, err := b.receive(c)
	if err != nil {
		return nil, err
	}
	total := 0
	for i := range n {
		h := &b.headers[i]
		seg := segment(b.control[i][:h.Controllen], int(h.n))
		b.packets[i].set(int(h.n), seg, source(&b.sources[i]))
		total += int(h.n)
	}
	b.size = nextSize(b.size, n, total)
	return b.packets[:n], nil
}

// nextSize is how many messages to ask for after a read of size gave n with so
// many bytes: twice as many while all are filled, fewer when few are.
func nextSize(size, n, bytes int) int {
	switch {
	case n == size:
		size *= 2
	case n < size/4:
		size /= 2
	}
	size = min(max(minBatch, size), maxBatch)
	return min(size, max(4, batchBytes*n/max(1, bytes)))
}

// prepare has Packets for a read, and gives back those that a larger one left,
// so that a loop holds few when little comes.
func (b *batch) prepare() {
	b.release(b.size)
	for i := range b.size {
		if b.packets[i] == nil {
			b.packets[i] = getPacket()
			b.iovs[i].Base = &b.packets[i].buf[0]
			b.iovs[i].SetLen(bufferSize)
		}
		h := &b.headers[i]
		h.Iov = &b.iovs[i]
		h.SetIovlen(1)
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.sources[i])), unix.SizeofSockaddrInet4
		h.Control = &b.control[i][0]
		h.SetControllen(controlSize)
	}
}

// receive makes the system call. Some sandboxes have no recvmmsg, or forbid it.
func (b *batch) receive(c *rawConn) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return 0, net.ErrClosed
	}
	if !b.single {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&b.headers)), uintptr(b.size), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.ENOSYS && errno != unix.EPERM {
			return int(n), asError(errno)
		}
		b.single = true
	}
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&b.headers)), unix.MSG_DONTWAIT)
	b.headers[0].n = uint32(n)
	return 1, asError(errno)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// release gives back all Packets but the first so many.
func (b *batch) release(keep int) {
	for i := keep; i < b.held; i++ {
		if p := b.packets[i]; p != nil {
			packets.Put(p)
			b.packets[i] = nil
		}
	}
	b.held = keep
}

func source(sa *unix.RawSockaddrInet4) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port)
}

// segment is the size of the datagrams that n bytes are, by the control
// message UDP_GRO, the only one there can be.
func segment(control []byte, n int) int {
	if len(control) < unix.SizeofCmsghdr+4 {
		return n
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
		return n
	}
	if seg := int(int32(binary.NativeEndian.Uint32(control[unix.SizeofCmsghdr:]))); 0 < seg && seg < n {
		return seg
	}
	return n
}
