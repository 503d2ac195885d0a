package e2e

import (
	"strings"
	"testing"
)

// TestServerComesLate: who starts before the server waits for it, and links.
func TestServerComesLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kill(t)
	if code := w.listener.interrupt(t); code != 0 {
		t.Errorf("a listener without a server ended with %d at an interrupt", code)
	}
	w.listener = w.bob.start(t, "listen", "--allow", w.echo)
	w.listener.await(t, w.listener.stderr, "signaling: no connection.*refused; trying again")
	link := w.alice.start(t, "connect", "bob")
	link.await(t, link.stderr, "signaling: no connection.*refused; trying again")
	if got := w.alice.run(t, "ping", "--timeout", "1s", "bob"); got.code != 6 {
		t.Errorf("ping without a server: exit code %d, want 6:\n%s", got.code, got.stderr)
	}
	w.again(t)
	link.await(t, link.stderr, "bob: session up")
	w.goodLink(t)
}

// TestServerInTheMiddle: a link does not notice that the server dies, for it
// is direct, and new ones are possible as soon as it is back.
func TestServerInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.alice.start(t, "connect", "-L", "0:"+w.echo, "bob")
	link.await(t, link.stderr, "bob: direct path")
	stop := flow(t, link.await(t, link.stderr, `listening on (127\.0\.0\.1:\d+)`)[1])
	for range 2 {
		w.kill(t)
		if got := w.alice.run(t, "pipe", "--timeout", "1s", "bob", w.echo); got.code != 6 {
			t.Errorf("a new link without a server: exit code %d, want 6:\n%s", got.code, got.stderr)
		}
		w.again(t)
		w.goodLink(t)
	}
	if n := stop(); n == 0 {
		t.Error("nothing was transferred")
	}
	if code := link.interrupt(t); code != 0 {
		t.Errorf("exit code %d at an interrupt", code)
	}
}

// TestServerLeaves: one that is told to end says so, and agents come back.
func TestServerLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if code := w.interrupt(t); code != 0 {
		t.Errorf("the server ended with %d:\n%s", code, w.stderr)
	}
	w.listener.await(t, w.listener.stderr, "signaling: no connection.*the signal server restarts; trying again")
	w.again(t)
	w.goodLink(t)
}

// TestServerComesVeryLate: a connect without a bound does not give up, and with a code
// it has one.
func TestServerComesVeryLate(t *testing.T) {
	needFull(t, "takes 40 seconds")
	t.Parallel()
	w := newWorld(t)
	fresh := newHome(t, w.url).start(t, "listen")
	guest := code(t, fresh)
	w.kill(t)
	link := w.alice.start(t, "connect", "bob")
	if got := newHome(t, w.url).run(t, "connect", "--timeout", "35s", guest); got.code != 6 || !strings.Contains(got.stderr, "signaling unreachable within 35 s") {
		t.Errorf("connect with a code, without a server: exit code %d, want 6:\n%s", got.code, got.stderr)
	}
	w.again(t)
	link.await(t, link.stderr, "bob: session up")
}
