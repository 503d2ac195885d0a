package e2e

import (
	"strings"
	"testing"
)

// TestPairAgainWhileLinked: two machines that pair again, in second terminals, have
// forgotten nobody. The live link follows with the new secret by itself.
func TestPairAgainWhileLinked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.alice.start(t, "connect", "bob")
	link.await(t, link.stderr, "bob: session up")
	second := w.bob.start(t, append([]string{"listen", "--name", "bob", "--pair"}, w.allow...)...)
	pair(t, w.alice, second, "alice", "bob")
	link.await(t, link.stderr, `(?s)bob: session up.*bob: link ended.*paired anew.*bob: session up`)
	if code := w.listener.wait(t); code != 8 {
		t.Errorf("the first listener ended with %d, want 8:\n%s", code, w.listener.stderr)
	}
	sendThrough(t, w.alice, "bob", w.echo)
	if code := link.interrupt(t); code != 0 || strings.Contains(link.stderr.String(), "forgot") {
		t.Errorf("the link's program ended with %d:\n%s", code, link.stderr)
	}
}
