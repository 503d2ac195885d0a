package e2e

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// A connection to a -L while the peer is away waits, which is said, and is carried
// when the peer comes; or is reset when it does not.
func TestConnectionToAnAbsentPeer(t *testing.T) {
	port := fmt.Sprintf("127.0.0.1:%d", freePorts(t))
	w := newWorld(t)
	w.listener.interrupt(t)
	a := w.alice.start(t, "connect", "bob", "-L", port+":"+w.echo)
	a.await(t, a.stderr, "bob: absent: not at the signaling server")
	says := regexp.QuoteMeta("bob: a connection for " + w.echo + " waits, 30 s at most: absent: not at the signaling server")

	t.Run("that does not come", func(t *testing.T) {
		needFull(t, "a connection waits for half a minute")
		c := dialUntil(t, port)
		begin := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a connection reset", err)
		}
		if took := time.Since(begin).Round(time.Second); took < 30*time.Second || took > 40*time.Second {
			t.Errorf("reset after %v, want 30 s", took)
		}
		a.await(t, a.stderr, ": no answer within 30 s: bob: absent: not at the signaling server")
	})

	c := dialUntil(t, port)
	c.Write([]byte("x"))
	a.await(t, a.stderr, says)
	w.listen(t)
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("after the peer has come: %v\n%s", err, a.stderr)
	}
	if code := a.interrupt(t); code != 0 {
		t.Errorf("connect ended with %d", code)
	}
}
