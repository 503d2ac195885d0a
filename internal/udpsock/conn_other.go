//go:build !linux

package udpsock

import (
	"net"
	"syscall"
)

func newPlatformConn(udp *net.UDPConn, network string, rc syscall.RawConn) conn {
	return newPortableConn(udp, network, rc)
}

// kernelDrops: only Linux tells.
type kernelDrops struct{ rc syscall.RawConn }

func (*kernelDrops) drops() uint64 { return 0 }
