package path

import (
	"io"
	"net"
	"net/netip"
	"syscall"
)

// An optionSocket answers QUIC's questions about its socket.
type optionSocket interface {
	syscall.Conn
	io.Closer
}

// The virtual addresses lie in the discard prefix 100::/64 (RFC 6666), which
// is never routed: should one leak, nothing is reached.
var (
	virtualInitiator = netip.MustParseAddrPort("[100::1]:1")
	virtualResponder = netip.MustParseAddrPort("[100::2]:1")
)

func virtualAddr(initiator bool) *net.UDPAddr {
	if initiator {
		return net.UDPAddrFromAddrPort(virtualInitiator)
	}
	return net.UDPAddrFromAddrPort(virtualResponder)
}

// LocalAddr is our virtual address, constant for the Conn's life.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// PeerAddr is the peer's: what QUIC dials, and the source of every packet.
func (c *Conn) PeerAddr() net.Addr { return c.remote }

// SyscallConn gives access to a socket that carries nothing. QUIC asks its
// socket whether the kernel can segment, and sets options on it; this one
// answers for the carriers, which have set theirs themselves.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.options.SyscallConn() }

// SetReadBuffer does nothing: the carriers' sockets have theirs set.
func (c *Conn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing.
func (c *Conn) SetWriteBuffer(int) error { return nil }
