//go:build !windows

package cli

import "syscall"

// What a bind that fails says.
const (
	errInUse     = syscall.EADDRINUSE
	errNoAddress = syscall.EADDRNOTAVAIL
	errNoFamily  = syscall.EAFNOSUPPORT
	errDenied    = syscall.EACCES
)
