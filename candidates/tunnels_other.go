//go:build !linux

package candidates

import "net"

// tunnelIfaces tells which interfaces are tunnels.
func tunnelIfaces() func(net.Interface) bool { return tunnelByName }
