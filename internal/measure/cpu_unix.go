//go:build unix

package measure

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used so far, user and system.
func cpuTime() (time.Duration, bool) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
