package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Files that hold secrets: how they are read, written and locked. Writers take
// the lock, readers do not need it, since a file is only ever replaced whole.

const (
	fileMode = 0o600
	dirMode  = 0o700
)

// readPrivate returns the content of path, which must be a regular file of at
// most limit bytes that nobody but its owner can read or write.
func readPrivate(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkPrivate(path, info.Mode()); err != nil { // the open of a FIFO would wait for its writer
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err = f.Stat() // of the open file: no race with a rename
	if err != nil {
		return nil, err
	}
	if err := checkPrivate(path, info.Mode()); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", path, limit)
	}
	return b, nil
}

// checkPrivate judges a file's mode. Windows has no such mode bits; there the
// access list of the user's profile has to do.
func checkPrivate(path string, mode fs.FileMode) error {
	if !mode.IsRegular() {
		return fmt.Errorf("read %s: not a regular file", path)
	}
	if runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 {
		return fmt.Errorf("%s holds a secret and others can use it (mode %04o): run chmod 600 %s", path, mode.Perm(), path)
	}
	return nil
}

// writeAtomic replaces path with data, mode 0600. Whoever reads path, also after
// a crash, finds the old content or the new. A kill leaves a temporary file behind,
// which [sweep] removes.
func writeAtomic(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	syncDir(dir)
	return nil
}

// syncDir makes a rename durable where directories can be synced. Not being able
// to is no error: the rename is done, and only a power cut could undo it.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// withLock runs f while this process, and this call within it, alone holds the
// lock that goes with path. It creates the directory. The lock is a file of its
// own beside path, because path is replaced, and it is never removed.
func withLock(path string, f func() error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return err
	}
	// Closing releases the lock, also when the process dies.
	defer func() { err = errors.Join(err, lock.Close()) }()
	locked, err := lockFile(lock)
	if err != nil {
		return err
	}
	if locked {
		sweep(path)
	}
	return f()
}

// lockWithin is how long a lock is waited for: whoever works under one does so for
// milliseconds, and a command is not to hang for somebody who keeps it.
const (
	lockWithin = 5 * time.Second
	lockAgain  = 10 * time.Millisecond // between two tries
)

// lockFile waits for the lock of f, at most for lockWithin. It returns false where
// the system has no locks.
func lockFile(f *os.File) (locked bool, err error) {
	for begin := time.Now(); ; time.Sleep(lockAgain) {
		locked, err := tryLockFile(f)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("lock %s: %w", f.Name(), err)
		case locked:
			return true, nil
		case time.Since(begin) >= lockWithin:
			return false, fmt.Errorf("somebody else holds the lock of %s, for %s and more; end that program, or try again", f.Name(), lockWithin)
		}
	}
}

// sweep removes what killed processes have left of [writeAtomic]: it may hold a
// secret. The caller has the lock of path, so nobody is writing.
func sweep(path string) {
	dir := filepath.Dir(path)
	entries, _ := os.ReadDir(dir) // what cannot be listed is left
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), "."+filepath.Base(path)+"-")
		if ours && number != "" && strings.Trim(number, "0123456789") == "" && e.Type().IsRegular() {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
