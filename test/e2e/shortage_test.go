package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOutOfDescriptors: a process at its limit says so once for each thing that it
// cannot do, takes no error for news of the network, and is whole again when
// descriptors are there again.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.alice.start(t, "connect", "bob", "-L", "0:"+w.echo, "--trace", w.trace(w.alice))
	address := link.await(t, link.stderr, `listening on (127\.0\.0\.1:\d+)`)[1]
	link.await(t, link.stderr, "bob: session up")

	restore := w.limitDescriptors(t, link, 4)
	var clients []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	accept, list, socket := "accept on "+address, "list the addresses of this machine", "control socket"
	link.await(t, link.stderr, accept+": too many open files; raise the limit")
	link.await(t, link.stderr, list+": too many open files")
	status := w.alice.run(t, "status")
	if says := "(pid " + strconv.Itoa(link.cmd.Process.Pid) + ") runs and does not answer"; status.code != 1 || !strings.Contains(status.stderr, says) {
		t.Errorf("status of a process without descriptors: exit code %d, want 1 with %q:\n%s", status.code, says, status.stderr)
	}
	link.await(t, link.stderr, socket+": too many open files")

	for _, c := range clients {
		c.Close()
	}
	restore()
	for _, where := range []string{accept, list, socket} {
		link.await(t, link.stderr, where+": works again")
		if n := strings.Count(link.stderr.String(), where+": too many open files"); n != 1 {
			t.Errorf("%s: its trouble was told %d times", where, n)
		}
	}
	if status := w.alice.run(t, "status"); status.code != 0 {
		t.Errorf("status afterwards: exit code %d:\n%s", status.code, status.stderr)
	}
	if text := link.stderr.String(); strings.Contains(text, "no connection") {
		t.Errorf("the connection to the signal server was given up for nothing:\n%s", text)
	}
	link.unharmed(t)
	w.goodLink(t)
}

// limitDescriptors leaves a process so many descriptors beside those that it has.
// The function it returns gives it back what it had.
func (w *world) limitDescriptors(t *testing.T, p *process, more int) (restore func()) {
	t.Helper()
	pid := p.cmd.Process.Pid
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	taken := make(map[string]bool)
	for _, e := range open {
		taken[e.Name()] = true
	}
	limit := 0 // new descriptors are numbered below it
	for free := 0; free < more; limit++ {
		if !taken[strconv.Itoa(limit)] {
			free++
		}
	}
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	set := func(limit unix.Rlimit) {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Error(err)
		}
	}
	set(unix.Rlimit{Cur: uint64(limit), Max: old.Max})
	return func() { set(old) }
}
