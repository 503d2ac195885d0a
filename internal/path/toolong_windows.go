package path

import "golang.org/x/sys/windows"

// errTooLong is what a socket says of a datagram that is longer than its own
// network takes.
const errTooLong = windows.WSAEMSGSIZE
