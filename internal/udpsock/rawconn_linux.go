package udpsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A rawConn is an IPv4 socket that a loop watches, not the Go runtime: no
// packet wakes the scheduler, and no goroutine waits for one.
//
// Its system calls never block, so they are made without telling the scheduler
// (RawSyscall), which would cost more than some of them do.
type rawConn struct {
	kernelDrops
	loop     *loop
	gso, gro bool

	mu sync.RWMutex // held shared while fd is in use
	fd int          // -1 once closed
}

var _ conn = (*rawConn)(nil)

// listenRaw binds a socket. With shared others are bound to its address, and
// say so as well: SO_REUSEPORT, which spreads the sources over them.
func listenRaw(l *loop, addr netip.AddrPort, shared bool) (*rawConn, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, addr, os.NewSyscallError("socket", err)
	}
	c := &rawConn{loop: l, fd: fd}
	c.kernelDrops.rc = c
	if shared {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: bytes4(addr.Addr())}))
	}
	if err == nil {
		addr, err = boundTo(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, addr, err
	}
	c.gso, c.gro = setOffload(fd)
	return c, addr, nil
}

// bytes4 is the unspecified address where a is none.
func bytes4(a netip.Addr) (b [4]byte) {
	if a = a.Unmap(); a.Is4() {
		b = a.As4()
	}
	return b
}

func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	sa4, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("bound to %T", sa)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), uint16(sa4.Port)), nil
}

// share lets sockets that are opened from now on be bound to the same address.
func (c *rawConn) share() error {
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
}

func (c *rawConn) write(b []byte, seg int, dst netip.AddrPort) error {
	if seg == 0 {
		return c.send(b, dst, nil)
	}
	var m controlMessage
	binary.NativeEndian.PutUint16(m.data[:], uint16(seg))
	return c.send(b, dst, m.bytes(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2))
}

func (c *rawConn) writeTTL(b []byte, dst netip.AddrPort, ttl int) error {
	var m controlMessage
	binary.NativeEndian.PutUint32(m.data[:], uint32(ttl))
	return c.send(b, dst, m.bytes(unix.IPPROTO_IP, unix.IP_TTL, 4))
}

// send does not wait for room in the kernel's buffer: a datagram more than the
// line takes is a loss, here as in any router.
func (c *rawConn) send(b []byte, dst netip.AddrPort, control []byte) error {
	if !dst.Addr().Is4() {
		return os.NewSyscallError("sendmsg", unix.EAFNOSUPPORT)
	}
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: dst.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], dst.Port())
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	m := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&sa)), Namelen: unix.SizeofSockaddrInet4, Iov: &iov}
	m.SetIovlen(1)
	if len(control) > 0 {
		m.Control = &control[0]
		m.SetControllen(len(control))
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&m)), unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("sendmsg", errno)
		}
	}
}

func (c *rawConn) offload() (gso, gro bool) { return c.gso, c.gro }

// errPolled: what a loop reads has no other reader.
var errPolled = fmt.Errorf("udpsock: the socket is read by a loop: %w", errors.ErrUnsupported)

func (c *rawConn) read([]byte) (n, seg int, src netip.AddrPort, err error) {
	return 0, 0, src, errPolled
}

func (c *rawConn) SetReadDeadline(time.Time) error { return errPolled }

// Close takes the socket from its loop, which may yet be in its Handler.
func (c *rawConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	fd := c.fd
	c.fd = -1
	c.loop.forget(fd, c) // before another socket gets the number
	return os.NewSyscallError("close", unix.Close(fd))
}

// A rawConn is its own syscall.RawConn, for options only.

func (c *rawConn) SyscallConn() (syscall.RawConn, error) { return c, nil }

func (c *rawConn) Control(f func(fd uintptr)) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(c.fd))
	return nil
}

func (c *rawConn) Read(func(uintptr) bool) error  { return errPolled }
func (c *rawConn) Write(func(uintptr) bool) error { return errPolled }
