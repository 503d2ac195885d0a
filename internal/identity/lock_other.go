//go:build !windows && (!unix || solaris || aix)

package identity

import (
	"errors"
	"os"
)

// lockFile does nothing: there is no flock here. Files are still replaced whole,
// but of two changes made in the same moment one may be lost.
func lockFile(*os.File) error { return nil }

// tryLockFile fails: here nobody can tell whether another process has the lock.
func tryLockFile(*os.File) (taken bool, err error) { return false, errors.ErrUnsupported }
