package e2e

import (
	"regexp"
	"testing"
)

// TestDeniedTarget: both sides hear of a forward that the other one does not allow
// when the session comes up, with nobody connected to it; the process goes on, and
// so does what is allowed.
func TestDeniedTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.alice.start(t, "connect", "bob", "-L", "0:"+w.echo, "-L", "0:localhost:23", "-L", "0:169.254.169.254:80")
	link.await(t, link.stderr, `bob does not allow localhost:23; it needs --allow localhost:23 there`)
	link.await(t, link.stderr, `bob does not allow 169\.254\.169\.254:80, and nothing could make it`)
	w.listener.await(t, w.listener.stderr, `alice asks for localhost:23, which is not on the --allow list`)
	port := link.await(t, link.stderr, `listening on \S+:(\d+) .*for `+regexp.QuoteMeta(w.echo))[1]
	if got := echoes(t, port); len(got) == 0 {
		t.Errorf("the target that is allowed does not answer:\n%s", link.stderr)
	}
	if code := link.interrupt(t); code != 0 {
		t.Errorf("exit code %d at an interrupt:\n%s", code, link.stderr)
	}
}
