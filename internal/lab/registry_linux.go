package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// registry is the directory with one folder for each lab of this user. A folder's
// lock is held by the lab's supervisor until it dies, however it dies: a folder
// whose lock is free belongs to nobody.
type registry struct{ dir string }

const (
	lockFile  = "lock"
	stateFile = "state.json"
	logFile   = "supervisor.log"
)

func openRegistry() (registry, error) {
	base := os.Getenv("XDG_RUNTIME_DIR")
	name := "p2pagent-lab"
	if base == "" {
		base, name = os.TempDir(), name+"-"+strconv.Itoa(os.Getuid())
	}
	r := registry{filepath.Join(base, name)}
	if err := os.Mkdir(r.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return r, fmt.Errorf("make the directory for labs: %w", err)
	}
	info, err := os.Lstat(r.dir)
	if err != nil {
		return r, err
	}
	// In /tmp anybody could have made it first.
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || info.Mode().Perm()&0o077 != 0 || int(owner) != os.Geteuid() {
		return r, fmt.Errorf("%s has to be a directory of yours with mode 0700; remove it or set XDG_RUNTIME_DIR", r.dir)
	}
	return r, nil
}

// create makes the folder for a new lab and takes its lock. It removes those of
// dead labs on the way.
func (r registry) create(name string) (dir string, lock *os.File, err error) {
	all, err := r.lock()
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	if err := r.sweepLocked(); err != nil {
		return "", nil, err
	}
	dir = r.path(name)
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return "", nil, fmt.Errorf("a lab named %q is up already; end it with: p2pagent lab down --name %[1]s", name)
	} else if err != nil {
		return "", nil, err
	}
	lock, err = lockPath(filepath.Join(dir, lockFile), false)
	return dir, lock, err
}

// lock is held while somebody looks whether a folder's lock is free, as looking
// takes it.
func (r registry) lock() (*os.File, error) { return lockPath(filepath.Join(r.dir, lockFile), true) }

// sweep removes the folders that nobody holds.
func (r registry) sweep() error {
	all, err := r.lock()
	if err != nil {
		return err
	}
	defer all.Close()
	return r.sweepLocked()
}

func (r registry) sweepLocked() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(r.dir, e.Name())
		lock, err := lockPath(filepath.Join(dir, lockFile), false)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) { // of somebody, or just gone
			continue
		}
		if err != nil {
			return err
		}
		err = os.RemoveAll(dir)
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove what a dead lab left: %w", err)
		}
	}
	return nil
}

func (r registry) path(name string) string { return filepath.Join(r.dir, name) }

// state is what another command has to know of a lab that was left running.
type state struct {
	PID     int                  `json:"pid"`     // supervisor
	Started string               `json:"started"` // its start time, so that a reused number is noticed
	Signal  string               `json:"signal"`  // P2PAGENT_SIGNAL
	PATH    string               `json:"path"`
	Nodes   map[string]nodeState `json:"nodes"`
	Addrs   map[string]string    `json:"addrs"`
}

// nodeState is how to enter a node.
type nodeState struct {
	NS   int    `json:"ns"` // number of the supervisor's file that is its network namespace
	Home string `json:"home"`
}

func (r registry) write(name string, s state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.path(name), stateFile), b, 0o600)
}

// Names are those of the labs that were left running.
func Names() ([]string, error) {
	reg, err := openRegistry()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(reg.dir, "*", stateFile))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		if _, err := reg.read(name); err == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// read returns the state of a lab that is up.
func (r registry) read(name string) (state, error) {
	var s state
	b, err := os.ReadFile(filepath.Join(r.path(name), stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, r.notUp(name)
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("state of lab %q: %w", name, err)
	}
	all, err := r.lock()
	if err != nil {
		return s, err
	}
	defer all.Close()
	if lock, err := lockPath(filepath.Join(r.path(name), lockFile), false); err == nil {
		lock.Close()
		return s, r.notUp(name)
	}
	started, err := startTime(s.PID)
	if err != nil || started != s.Started {
		return s, fmt.Errorf("lab %q is up, but its supervisor is not process %d here: it runs in another container", name, s.PID)
	}
	return s, nil
}

func (r registry) notUp(name string) error {
	return fmt.Errorf("no lab %q is up; start one with: p2pagent lab up --a NAT --b NAT%s", name, nameFlag(name))
}

func nameFlag(name string) string {
	if name == DefaultName {
		return ""
	}
	return " --name " + name
}

func checkName(name string) error {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`).MatchString(name) || strings.HasPrefix(name, "run-") {
		return fmt.Errorf("lab name %q: small letters, digits and hyphens, at most 31, not beginning with run-", name)
	}
	return nil
}

// lockPath opens the file and takes its lock, which goes when every copy of the
// open file is closed.
func lockPath(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// startTime is when a process started, in clock ticks since the machine did.
func startTime(pid int) (string, error) {
	stat, err := statOf(pid)
	if err != nil {
		return "", err
	}
	return stat[statStarted], nil
}
