//go:build !windows

package path

import "syscall"

// errTooLong is what a socket says of a datagram that is longer than its own
// network takes.
const errTooLong = syscall.EMSGSIZE
