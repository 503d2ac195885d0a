package udpsock

import (
	"net/netip"
	"syscall"
	"time"
)

// A conn is what a platform offers; read, write and writeTTL are one system
// call that moves datagrams.
type conn interface {
	// read takes what the kernel hands over at once: datagrams of seg bytes
	// each, the last maybe shorter, from one source. For a lone datagram seg
	// is n. One goroutine reads at a time.
	read(b []byte) (n, seg int, src netip.AddrPort, err error)

	// write sends b: as one datagram if seg is 0, else cut into datagrams of
	// seg bytes, which only a conn with gso can.
	write(b []byte, seg int, dst netip.AddrPort) error

	// writeTTL sends one datagram with a time-to-live (or hop limit) that no
	// other datagram gets.
	writeTTL(b []byte, dst netip.AddrPort, ttl int) error

	// offload says whether write may cut, and whether read may coalesce.
	offload() (gso, gro bool)

	// drops is how many datagrams the kernel dropped for want of buffer, 0
	// where it does not tell.
	drops() uint64

	// As of *net.UDPConn, which does them.
	SetReadDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
	Close() error
}
