package udpsock

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/windows"
)

// From ws2ipdef.h; package windows lacks them.
const (
	ipDontFragment = 14
	ipv6DontFrag   = 14
)

func setFragmentation(rc syscall.RawConn, network string, dontFragment bool) error {
	level, opt, on := windows.IPPROTO_IP, ipDontFragment, 0
	if network == "udp6" {
		level, opt = windows.IPPROTO_IPV6, ipv6DontFrag
	}
	if dontFragment {
		on = 1
	}
	err := control(rc, func(fd uintptr) error {
		return windows.SetsockoptInt(windows.Handle(fd), level, opt, on)
	})
	if err != nil {
		return fmt.Errorf("set don't fragment to %d: %w", on, err)
	}
	return nil
}
