package e2e

import (
	"io"
	"syscall"
	"testing"
	"time"
)

// TestSleep: a machine that sleeps for longer than three minutes keeps its link, and
// connections through it go on. Whether it sleeps or its programs are stopped is the
// same for the other side: silence everywhere, and no goodbye.
func TestSleep(t *testing.T) {
	needFull(t, "takes 4 minutes")
	t.Parallel()
	const lasts = 200 * time.Second
	for _, name := range []string{"connector", "listener"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			link := w.alice.start(t, "connect", "-v", "-L", "0:"+w.echo, "bob")
			link.await(t, link.stderr, "bob: direct path")
			c := hold(t, link.await(t, link.stderr, `listening on (127\.0\.0\.1:\d+)`)[1], "before")
			sleeper, other := link, w.listener
			if name == "listener" {
				sleeper, other = w.listener, link
			}
			if err := sleeper.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lasts) // that is what a sleep is
			const early = "said to a sleeper"
			c.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(c, early); err != nil {
				t.Fatal(err)
			}
			if err := sleeper.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			awake := time.Now()
			if _, err := io.ReadFull(c, make([]byte, len(early))); err != nil {
				t.Fatalf("what was said to a sleeper did not come back: %v\n%s\n%s", err, link.stderr, w.listener.stderr)
			}
			exchange(t, c, "after")
			t.Logf("data passes %v after the end of the sleep", time.Since(awake).Round(time.Millisecond))
			other.unharmed(t)
			sleeper.unharmed(t)
			w.goodLink(t)
		})
	}
}
