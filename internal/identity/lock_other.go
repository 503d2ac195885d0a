//go:build !windows && (!unix || solaris || aix)

package identity

import (
	"errors"
	"os"
)

// tryLockFile fails: there is no flock here, and nobody can tell whether another
// process has the lock. Files are still replaced whole, but of two changes made in the
// same moment one may be lost.
func tryLockFile(*os.File) (taken bool, err error) { return false, errors.ErrUnsupported }
