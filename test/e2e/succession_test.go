package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// What a process that was killed leaves behind ends as soon as the next process of the
// same machine is there, and what runs beside it is left alone.

// An ending is how a connection ended at a target, by the line it began with.
type ending struct {
	line string
	err  error // nil: a clean end
}

// lines is a target that sends back what it gets, and tells of each connection's end.
func lines(t *testing.T) (address string, ends <-chan ending) {
	t.Helper()
	told := make(chan ending, 16)
	address = serveTCP(t, func(c *net.TCPConn) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		c.Write(b)
		_, err := io.Copy(c, c)
		told <- ending{string(b), err}
	})
	return address, told
}

// hold opens a connection to such a target and leaves it open.
func hold(t *testing.T, address, line string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	exchange(t, c, line)
	return c
}

// exchange sends a line and requires that it comes back.
func exchange(t *testing.T, c net.Conn, line string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	_, err := io.WriteString(c, line)
	got := make([]byte, len(line))
	if _, e := io.ReadFull(c, got); errors.Join(err, e) != nil || string(got) != line {
		t.Fatalf("sent %q, got %q back: %v, %v", line, got, err, e)
	}
}

// links is how many links a machine's programs have.
func (h *home) links(t *testing.T) (n int) {
	t.Helper()
	p := h.start(t, "status", "--json")
	if code := p.wait(t); code != 0 {
		t.Fatalf("status: exit code %d\n%s", code, p.stderr)
	}
	var all []struct{ Links []struct{} }
	if err := json.Unmarshal([]byte(p.stdout.String()), &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		n += len(s.Links)
	}
	return n
}

// TestKilledConnector: a connector dies without a word and is started again. The
// listener ends the old link at once, so that its target does not hold a connection
// that nobody uses; a second connector of the same machine notices nothing.
func TestKilledConnector(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	alice, bob := newHome(t, d.url), newHome(t, d.url)
	target, ends := lines(t)
	listener := bob.start(t, "listen", "--name", "bob", "--allow", target)
	pair(t, alice, listener, "alice", "bob")
	connect := func() (*process, string) {
		t.Helper()
		p := alice.start(t, "connect", "-L", "0:"+target, "bob")
		p.await(t, p.stderr, "session up")
		return p, p.await(t, p.stderr, `listening on (127\.0\.0\.1:\d+)`)[1]
	}
	killed, address := connect()
	_, addressBeside := connect()
	hold(t, address, "k")
	beside := hold(t, addressBeside, "b")

	killed.cmd.Process.Kill()
	killed.wait(t)
	_, addressNext := connect()
	again := time.Now()
	select {
	case e := <-ends:
		t.Logf("reset at the target %v after the new session was up", time.Since(again).Round(time.Millisecond))
		if e.line != "k" || e.err == nil {
			t.Errorf("connection %q ended with %v, want that of the killed program and a reset", e.line, e.err)
		}
	case <-time.After(patience / 2): // without the new one's word it takes minutes
		t.Errorf("the connection of the killed program is still open:\n%s", listener.stderr)
	}
	hold(t, addressNext, "n")
	exchange(t, beside, "still here")
	for until := time.Now().Add(patience); bob.links(t) != 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d links at the listener, want that of the new program and the one beside it", bob.links(t))
		}
	}
}
