package cli

import "golang.org/x/sys/windows"

// What a bind that fails says; the numbers that package syscall has for them on
// Windows are its own, and never seen.
const (
	errInUse     = windows.WSAEADDRINUSE
	errNoAddress = windows.WSAEADDRNOTAVAIL
	errNoFamily  = windows.WSAEAFNOSUPPORT
	errDenied    = windows.WSAEACCES
)
