//go:build unix && !solaris && !aix

package identity

import (
	"errors"
	"os"
	"syscall"
)

// tryLockFile takes an exclusive flock on f, when nobody has it. Locks belong to the
// open file, so two calls in one process exclude each other as well.
func tryLockFile(f *os.File) (taken bool, err error) {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, err
		}
	}
}
