package forward

import (
	"net"

	"golang.org/x/sys/unix"
)

// untaken is how many bytes written to a TCP connection its other end has not
// acknowledged; 0 when it has ended, and for what is not TCP.
func untaken(c Near) (n int) {
	control(c, func(fd int) {
		if closed(fd) {
			return
		}
		if queued, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil {
			n = queued
		}
	})
	return n
}

// isReset tells whether a TCP connection on which neither side has sent an end
// has ended, also when its error was reported already, which happens once.
func isReset(c Near) (reset bool) {
	control(c, func(fd int) { reset = closed(fd) })
	return reset
}

func closed(fd int) bool {
	const tcpClose = 7 // TCP_CLOSE of the kernel's tcp_states.h
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpClose
}

// control calls f with the descriptor of a TCP connection that is open.
func control(c Near, f func(fd int)) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
