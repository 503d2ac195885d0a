package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Somebody who keeps a lock does not keep a command.
func TestHeldLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if locked, err := tryLockFile(lock); !locked {
		t.Skipf("no file locks here: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		err := withLock(path, func() error { t.Error("it has the lock as well"); return nil })
		if err == nil || !strings.Contains(err.Error(), "somebody else holds the lock of "+path+".lock") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != lockWithin {
			t.Errorf("it took %v, want %v", took, lockWithin)
		}
		time.AfterFunc(lockWithin/2, func() { lock.Close() })
		if err := withLock(path, func() error { return nil }); err != nil {
			t.Errorf("a lock that is given up in time: %v", err)
		}
	})
}

// What a killed process was writing goes with the next change, and nothing else does.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "peers.json")
	stays := []string{".peers.json-", ".peers.json-12x", ".peers.json.swp", "peers.json-12", ".other.json-12"}
	for _, name := range append([]string{".peers.json-12", ".peers.json-3456789"}, stays...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(Peer{Name: "b", Fingerprint: Fingerprint{1}, Secret: Secret{1}}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(stays)+2 { // the list and its lock
		t.Errorf("left: %v", entries)
	}
	for _, name := range stays {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
