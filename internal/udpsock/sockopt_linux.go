package udpsock

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func setFragmentation(rc syscall.RawConn, network string, dontFragment bool) error {
	level, opt := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	mode := unix.IP_PMTUDISC_DONT
	if dontFragment {
		mode = unix.IP_PMTUDISC_PROBE
	}
	if network == "udp6" { // the modes have the same values
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	err := control(rc, func(fd int) error { return unix.SetsockoptInt(fd, level, opt, mode) })
	if err != nil {
		return fmt.Errorf("set path MTU discovery to %d: %w", mode, err)
	}
	return nil
}

// setBuffers asks for buffers beyond what the system allows to everybody,
// which root gets, and else for what it allows.
func setBuffers(_ *net.UDPConn, rc syscall.RawConn, size int) {
	set := func(fd, force, usual int) {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, usual, size)
		}
	}
	control(rc, func(fd int) error {
		set(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
		set(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
		return nil
	})
}

// setOffload turns on what the kernel has. None of it is needed to work.
func setOffload(fd int) (gso, gro bool) {
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	return err == nil, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
}

func control(rc syscall.RawConn, f func(fd int) error) error {
	var inner error
	err := rc.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// kernelDrops asks the kernel how many datagrams it dropped on a socket.
type kernelDrops struct {
	rc   syscall.RawConn
	last atomic.Uint64
}

// drops is the last answer when there is none any more: after Close, or with
// a kernel before 4.12.
func (k *kernelDrops) drops() uint64 {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	err := control(k.rc, func(fd int) error {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err == nil {
		k.last.Store(uint64(info[unix.SK_MEMINFO_DROPS]))
	}
	return k.last.Load()
}
