package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A smallDisk is a machine whose key and peers are on a file system of their own.
type smallDisk struct {
	*home
	filler string
}

// newSmallDisk makes one with room for a key and a few peers.
func newSmallDisk(t *testing.T, url string) *smallDisk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("this test fills a disk of its own, and mounts that as root")
	}
	h := newHome(t, url)
	dir := filepath.Join(h.dir, "config")
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return &smallDisk{h, filepath.Join(dir, "filler")}
}

// fill leaves no room, once there is a key.
func (d *smallDisk) fill(t *testing.T) {
	t.Helper()
	if got := d.run(t, "ping", "nobody"); got.code != 2 { // which makes one
		t.Fatalf("ping nobody: %+v", got)
	}
	f, err := os.Create(d.filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func (d *smallDisk) empty(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.filler); err != nil {
		t.Fatal(err)
	}
}

// TestPairingOnAFullDisk: when one side has no room for the other, both say so, end as
// something that failed, and keep nothing. With room there they pair.
func TestPairingOnAFullDisk(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	const here = "could not be stored, so neither machine keeps it: .*no space left on device"
	const there = "the other machine could not store the pairing: no space left on device; nothing of it is kept here"
	unpaired := func(t *testing.T, h *home, stderr string) {
		t.Helper()
		if strings.Contains(stderr, "paired with") {
			t.Errorf("says that it is paired:\n%s", stderr)
		}
		p := h.start(t, "peers", "--json")
		if code := p.wait(t); code != 0 || strings.TrimSpace(p.stdout.String()) != "[]" {
			t.Errorf("peers: exit code %d, %s", code, p.stdout)
		}
	}
	t.Run("listener", func(t *testing.T) {
		bob, alice := newSmallDisk(t, d.url), newHome(t, d.url)
		bob.fill(t)
		l := bob.start(t, "listen", "--name", "bob")
		got := alice.run(t, "connect", code(t, l))
		if got.code != 1 || !strings.Contains(got.stderr, there) {
			t.Errorf("connect: exit code %d\n%s", got.code, got.stderr)
		}
		if code := l.wait(t); code != 1 {
			t.Errorf("listen: exit code %d\n%s", code, l.stderr)
		}
		l.await(t, l.stderr, here)
		unpaired(t, alice, got.stderr)
		unpaired(t, bob.home, l.stderr.String())
		bob.empty(t)
		pair(t, alice, bob.start(t, "listen", "--name", "bob"), "alice", "bob")
	})
	t.Run("connector", func(t *testing.T) {
		bob, alice := newHome(t, d.url), newSmallDisk(t, d.url)
		alice.fill(t)
		l := bob.start(t, "listen", "--name", "bob")
		p := alice.start(t, "connect", code(t, l))
		if code := p.wait(t); code != 1 {
			t.Errorf("connect: exit code %d\n%s", code, p.stderr)
		}
		p.await(t, p.stderr, here)
		l.await(t, l.stderr, there+"; the new code is")
		unpaired(t, alice.home, p.stderr.String())
		unpaired(t, bob, l.stderr.String())
		alice.empty(t)
		l.await(t, l.stdout, `(?m)^\d+(?:-[a-z]+){3}\n\d+(?:-[a-z]+){3}$`)
		pair(t, alice.home, l, "alice", "bob")
	})
}
