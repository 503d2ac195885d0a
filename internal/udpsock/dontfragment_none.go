//go:build !linux && !darwin && !windows

package udpsock

import "syscall"

// setFragmentation does nothing where we know no option: datagrams may be
// fragmented there even on direct paths.
func setFragmentation(syscall.RawConn, string, bool) error { return nil }
