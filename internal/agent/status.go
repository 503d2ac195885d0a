package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/trouble"
)

// Status is what one process of the agent tells of itself.
type Status struct {
	PID     int          `json:"pid"`
	Command string       `json:"command"`
	Version string       `json:"version"`
	Signal  SignalStatus `json:"signal"`
	Links   []LinkStatus `json:"links"`
	Waiting []PeerStatus `json:"waiting"` // known peers without a link
}

// SignalStatus is the connection to the signaling server.
type SignalStatus struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Err       string    `json:"error,omitempty"`
	RTT       float64   `json:"rtt_ms"`
}

// LinkStatus is one link with a peer.
type LinkStatus struct {
	Peer    string        `json:"peer"`
	Role    string        `json:"role"`
	Session bool          `json:"session"`
	Path    *path.Status  `json:"path"` // in use; null: none
	Paths   []path.Status `json:"paths"`
	Losses  path.Losses   `json:"losses"`
	Verdict trace.Verdict `json:"verdict"`
	Why     Why           `json:"why"`
}

func (e *environment) status(command string) Status {
	connected, since, last := e.client.State()
	st := Status{
		PID: os.Getpid(), Command: command, Version: e.cfg.Version, Links: []LinkStatus{},
		Signal: SignalStatus{Connected: connected, Since: since, RTT: milliseconds(e.client.RTT())},
	}
	if !connected && last != nil {
		st.Signal.Err = last.Error()
	}
	for _, l := range e.live() {
		st.Links = append(st.Links, l.status())
	}
	st.Waiting = e.waiting()
	return st
}

func (l *link) status() LinkStatus {
	ls := LinkStatus{Peer: l.peer.Name, Role: l.role.String(), Session: l.session.Load() != nil, Paths: []path.Status{}}
	j := l.judged()
	ls.Verdict, ls.Why = j.at(time.Now()), j.facts.tell()
	ls.Paths, ls.Losses = l.conn.Status(), l.conn.Losses()
	if p, ok := l.conn.Active(); ok {
		ls.Path = &p
	}
	return ls
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const (
	socketSuffix  = ".sock"
	statusTimeout = 2 * time.Second
	maxStatus     = 16 << 20 // hundreds of links with all their paths
)

// RuntimeDir is where control sockets are: $XDG_RUNTIME_DIR/p2pagent, or a
// directory of this user's under the system's temporary one.
func RuntimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "p2pagent")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("p2pagent-%d", os.Getuid()))
}

// serveStatus answers every connection to this process's control socket with
// its status. The socket is for this user alone (0700 directory, 0600 socket).
// A process without one works all the same.
func (e *environment) serveStatus(ctx context.Context, command string) error {
	ln, err := listenControl()
	if err != nil {
		e.cfg.Trace.Emit(trace.Failure{Where: "control socket", Err: err.Error()})
		return nil
	}
	ln = trouble.Listener(ln, e.tellTrouble("control socket"))
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil { // it is closed: all others are waited out
			return nil
		}
		conn.SetDeadline(time.Now().Add(statusTimeout))
		if err := json.NewEncoder(conn).Encode(e.status(command)); err != nil {
			e.cfg.Trace.Emit(trace.Failure{Where: "control socket", Err: err.Error()})
		}
		conn.Close()
	}
}

func listenControl() (net.Listener, error) {
	dir := RuntimeDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := ownAlone(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, strconv.Itoa(os.Getpid())+socketSuffix)
	os.Remove(name) // of an earlier process with this number
	ln, err := net.Listen("unix", name)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// ownAlone refuses a directory that others could have put things into.
// Windows keeps its temporary directories per user, and has no such modes.
func ownAlone(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case runtime.GOOS == "windows":
		return nil
	case !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ownedByUs(info):
		return fmt.Errorf("%s is not a directory of this user alone (mode 0700)", dir)
	}
	return nil
}

// ReadStatuses asks every process of this user. Sockets whose process is gone are
// removed. A process that does not answer is named in the error, beside the
// statuses of the others.
func ReadStatuses() ([]Status, error) {
	if err := ownAlone(RuntimeDir()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return []Status{}, err
	}
	names, err := filepath.Glob(filepath.Join(RuntimeDir(), "*"+socketSuffix))
	if err != nil {
		return nil, err
	}
	out := []Status{}
	var silent []error
	for _, name := range names {
		st, err := readStatus(name)
		switch {
		case err == nil:
			out = append(out, st)
		case strings.Contains(err.Error(), "refused"): // as every system says it
			os.Remove(name)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, io.EOF), strings.Contains(err.Error(), "reset"): // it has just ended
		default:
			pid := strings.TrimSuffix(filepath.Base(name), socketSuffix)
			silent = append(silent, fmt.Errorf("p2pagent (pid %s) runs and does not answer: %w; it may be out of file descriptors", pid, err))
		}
	}
	return out, errors.Join(silent...)
}

func readStatus(socket string) (st Status, err error) {
	conn, err := net.DialTimeout("unix", socket, statusTimeout)
	if err != nil {
		return st, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(statusTimeout))
	return st, json.NewDecoder(io.LimitReader(conn, maxStatus)).Decode(&st)
}
