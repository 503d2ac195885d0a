//go:build unix

package identity

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A FIFO is refused at once: whoever opens one waits for a writer.
func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	if _, err := OpenStore(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}
