package udpsock

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

func setFragmentation(rc syscall.RawConn, network string, dontFragment bool) error {
	level, opt, on := unix.IPPROTO_IP, unix.IP_DONTFRAG, 0
	if network == "udp6" {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG
	}
	if dontFragment {
		on = 1
	}
	err := control(rc, func(fd uintptr) error { return unix.SetsockoptInt(int(fd), level, opt, on) })
	if err != nil {
		return fmt.Errorf("set don't fragment to %d: %w", on, err)
	}
	return nil
}
