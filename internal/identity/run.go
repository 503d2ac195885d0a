package identity

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A RunID names one run of a program: random, made at its start, and never used
// again. The zero value is a peer that does not tell.
type RunID [16]byte

// NewRunID returns a fresh one.
func NewRunID() (id RunID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// IsZero reports whether id is the zero value, which names no run.
func (id RunID) IsZero() bool { return id == RunID{} }

// String returns 32 hexadecimal digits.
func (id RunID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes 32 hexadecimal digits.
func (id RunID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (id *RunID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(id) {
		return fmt.Errorf("run: want %d hexadecimal digits, got %d", 2*len(id), len(text))
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// MaxEndedRuns is how many runs [Run.Ended] names at most.
const MaxEndedRuns = 16

// A Run is the mark that a process leaves on its machine for as long as it runs: a
// file that it holds locked. The kernel lets go of the lock when the process ends,
// however it ends, also in a reboot; so a later process of the same machine and key
// knows for sure which earlier ones are over, and which still run beside it. It can
// tell that to a peer, which cannot know it.
//
// The file is not removed when the process ends, since a goodbye may be lost. It
// goes when [Run.Told] says that the peer knows.
type Run struct {
	dir   string
	scope string // prefix of the names of all runs of this key with this peer
	file  *os.File
}

// RecordRun leaves the mark of this process, which links with a peer, in a directory,
// and creates that. On a system without file locks it fails: there nobody could tell
// an ended run from a live one.
func RecordRun(dir string, id RunID, self, peer Fingerprint) (*Run, error) {
	sum := sha256.Sum256(lv([]byte("p2pagent-run/1"), self[:], peer[:]))
	r := &Run{dir: dir, scope: hex.EncodeToString(sum[:8]) + "-"}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("record this run: %w", err)
	}
	// Under the directory's lock, so that nobody sees the file before it is locked.
	err := withLock(r.dir, func() (err error) {
		if r.file, err = os.OpenFile(r.path(id), os.O_CREATE|os.O_EXCL|os.O_RDWR, fileMode); err != nil {
			return err
		}
		locked, err := tryLockFile(r.file)
		if err == nil && !locked {
			err = errors.New("somebody else holds its lock")
		}
		if err != nil {
			_ = r.file.Close()
			_ = os.Remove(r.file.Name())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record this run: %w", err)
	}
	return r, nil
}

// Close gives the lock up, as the end of the process would.
func (r *Run) Close() error { return r.file.Close() }

func (r *Run) path(id RunID) string { return filepath.Join(r.dir, r.scope+id.String()) }

// Ended returns earlier runs of this key with this peer that are over, the last ones
// first, at most [MaxEndedRuns]. Older ones are dropped: their links are gone by
// themselves.
func (r *Run) Ended() (ids []RunID, err error) {
	err = withLock(r.dir, func() error {
		ids, err = r.ended()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for earlier runs: %w", err)
	}
	return ids, nil
}

func (r *Run) ended() ([]RunID, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	type run struct {
		id   RunID
		when time.Time // it began
	}
	var over []run
	for _, e := range entries {
		text, ours := strings.CutPrefix(e.Name(), r.scope)
		var id RunID
		if !ours || id.UnmarshalText([]byte(text)) != nil {
			continue
		}
		if ended, err := unlocked(r.path(id)); err != nil || !ended {
			continue // not known to be over
		}
		if info, err := e.Info(); err == nil {
			over = append(over, run{id, info.ModTime()})
		}
	}
	slices.SortFunc(over, func(a, b run) int {
		return cmp.Or(b.when.Compare(a.when), slices.Compare(a.id[:], b.id[:]))
	})
	var ids []RunID
	for i, o := range over {
		if i >= MaxEndedRuns {
			_ = os.Remove(r.path(o.id))
			continue
		}
		ids = append(ids, o.id)
	}
	return ids, nil
}

// unlocked reports whether nobody holds a file's lock.
func unlocked(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return tryLockFile(f)
}

// Told removes what is left of runs that the peer knows to be over.
func (r *Run) Told(ids []RunID) error {
	var errs []error
	for _, id := range ids {
		if err := os.Remove(r.path(id)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
