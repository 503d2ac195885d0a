//go:build !linux

package udpsock

import (
	"errors"
	"net"
	"syscall"
)

// setBuffers asks for what the system allows; what it does not is no error.
func setBuffers(udp *net.UDPConn, _ syscall.RawConn, size int) {
	udp.SetReadBuffer(size)
	udp.SetWriteBuffer(size)
}

func control(rc syscall.RawConn, f func(fd uintptr) error) error {
	var inner error
	err := rc.Control(func(fd uintptr) { inner = f(fd) })
	return errors.Join(err, inner)
}
