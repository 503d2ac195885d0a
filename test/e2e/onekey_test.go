package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestOneKeyOnTwoMachines: whoever has to do with two listeners of one key is told,
// and a loop that starts one again has to wait. Who is started again alone does not.
func TestOneKeyOnTwoMachines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	copied := newHome(t, w.url)
	for _, name := range []string{"key.pem", "peers.json"} {
		b, err := os.ReadFile(w.bob.file(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied.file(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := w.alice.start(t, "connect", "bob")
	link.await(t, link.stderr, "bob: session up")

	const took, lost = "took the place of another `p2pagent listen` with this machine's key", "took this one's place"
	second := copied.start(t, "listen", "--name", "twin", "--allow", w.echo)
	second.await(t, second.stderr, took)
	w.listener.await(t, w.listener.stderr, lost)
	link.await(t, link.stderr, `bob: twin took over from bob: two machines have its key; the link with the first goes on\n`)
	sendThrough(t, w.alice, "bob", w.echo) // with the twin, while the first has a link
	if text := link.stderr.String(); strings.Contains(text, "link ended") {
		t.Errorf("the link with the first did not go on:\n%s", text)
	}
	link.interrupt(t)
	if code := w.listener.wait(t); code != 8 || !strings.Contains(w.listener.stderr.String(), "run only one") {
		t.Errorf("the older listener ended with %d, want 8:\n%s", code, w.listener.stderr)
	}

	link = w.alice.start(t, "connect", "bob")
	link.await(t, link.stderr, "bob: session up")
	again := w.bob.start(t, "listen", "--name", "bob", "--allow", w.echo)
	again.await(t, again.stderr, "the server makes us wait: another agent with the same key has just taken this place")
	sendThrough(t, w.alice, "bob", w.echo) // the twin serves meanwhile
	again.await(t, again.stderr, took)
	link.await(t, link.stderr, `bob: bob took over from twin: two machines have its key; the link with the first goes on`)
	link.interrupt(t)
	if code := second.wait(t); code != 8 {
		t.Errorf("the twin ended with %d, want 8:\n%s", code, second.stderr)
	}
	sendThrough(t, w.alice, "bob", w.echo)

	again.cmd.Process.Kill()
	again.wait(t)
	w.listener = w.bob.start(t, "listen", "--allow", w.echo)
	w.goodLink(t)
	if text := w.listener.stderr.String(); strings.Contains(text, took) || strings.Contains(text, "makes us wait") {
		t.Errorf("a listener that was started again is taken for a rival of the one that was killed:\n%s", text)
	}
}
