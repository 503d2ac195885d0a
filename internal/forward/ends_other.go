//go:build !linux

package forward

import "net"

// untaken is notKnown for TCP.
func untaken(c Near) int {
	if _, ok := c.(*net.TCPConn); ok {
		return notKnown
	}
	return 0
}

// isReset would tell a reset from an end. Where it is not known, an end is one.
func isReset(Near) bool { return false }
