package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A forwarding is a port of one machine that leads to a target of the other.
type forwarding struct {
	connect            *process // alice's
	atClient, atTarget *process // the agents of the two machines; connect is one of them
}

// forwards has alice keep a link with bob that carries a -L, or a -R, from port to
// target. bob must allow target, and listening on port.
func (w *world) forwards(t *testing.T, flag, port, target string) forwarding {
	t.Helper()
	a := w.alice.start(t, "connect", "bob", flag, port+":"+target)
	a.await(t, a.stderr, "session up")
	if flag == "-L" {
		return forwarding{a, a, w.listener}
	}
	return forwarding{a, w.listener, a}
}

// dialUntil dials a port that is about to be opened.
func dialUntil(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(patience))
			return c.(*net.TCPConn)
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// When an agent is killed, no program takes what it has got so far for all there
// is: not the client that downloads nor the target that is uploaded to.
func TestKilledAgentIsNoEnd(t *testing.T) {
	const enough = 1 << 20 // bytes that have arrived when the agent is killed
	type end struct {
		n   int64
		err error
	}
	ended := make(chan end, 1)
	flowing := make(chan struct{}, 1)
	take := func(c *net.TCPConn) {
		n, err := io.CopyN(io.Discard, c, enough)
		if err == nil {
			flowing <- struct{}{}
			var more int64
			more, err = io.Copy(io.Discard, c)
			n += more
		}
		ended <- end{n, err}
	}
	give := func(c *net.TCPConn) {
		for err := error(nil); err == nil; _, err = c.Write(make([]byte, 64<<10)) {
		}
	}
	source := serveTCP(t, give)
	sink := serveTCP(t, take)
	port := fmt.Sprintf("127.0.0.1:%d", freePorts(t))
	w := newWorld(t, source, sink, "listen:"+port)
	whole := t
	for _, flag := range []string{"-L", "-R"} {
		for _, upload := range []bool{false, true} {
			name := flag + ", download"
			target, client := source, take
			if upload {
				name, target, client = flag+", upload", sink, give
			}
			t.Run(name, func(t *testing.T) {
				f := w.forwards(t, flag, port, target)
				go client(dialUntil(t, port))
				<-flowing
				killed := f.atClient
				if upload {
					killed = f.atTarget
				}
				if err := killed.cmd.Process.Signal(os.Kill); err != nil {
					t.Fatal(err)
				}
				if e := <-ended; !errors.Is(e.err, syscall.ECONNRESET) {
					t.Errorf("%d bytes and then %v, want a connection reset", e.n, e.err)
				}
				killed.wait(t)
				if killed == w.listener {
					w.listen(whole) // it is to outlive this subtest
				}
			})
		}
	}
}

// What a program sends before it resets arrives, and then the reset, as on
// loopback alone; and nobody calls that refused.
func TestResetComesAfterTheData(t *testing.T) {
	four := serveTCP(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1)) // the client's dial has returned
		c.Write([]byte("four"))
		c.SetLinger(0)
	})
	type end struct {
		text string
		err  error
	}
	taken := make(chan end, 1)
	sink := serveTCP(t, func(c *net.TCPConn) {
		b, err := io.ReadAll(c)
		taken <- end{string(b), err}
	})
	port := fmt.Sprintf("127.0.0.1:%d", freePorts(t))
	w := newWorld(t, four, sink, "listen:"+port)
	for _, flag := range []string{"-L", "-R"} {
		t.Run(flag, func(t *testing.T) {
			f := w.forwards(t, flag, port, four)
			for range 20 {
				c := dialUntil(t, port)
				c.Write([]byte("?"))
				if got, err := io.ReadAll(c); string(got) != "four" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %q, %v; want four bytes and a connection reset", got, err)
				}
			}
			for _, p := range []*process{f.atClient, f.atTarget} {
				if text := p.stderr.String(); strings.Contains(text, "refused") {
					t.Errorf("%s says:\n%s", p.name, text)
				}
			}
			if code := f.connect.interrupt(t); code != 0 {
				t.Errorf("connect ended with %d", code)
			}
		})
	}
	t.Run("of the client", func(t *testing.T) {
		f := w.forwards(t, "-L", port, sink)
		for range 20 {
			c := dialUntil(t, port)
			c.Write([]byte("four"))
			c.SetLinger(0)
			c.Close()
			if e := <-taken; e.text != "four" || !errors.Is(e.err, syscall.ECONNRESET) {
				t.Errorf("the target got %q, %v; want four bytes and a connection reset", e.text, e.err)
			}
		}
		f.connect.interrupt(t)
	})
	t.Run("pipe", func(t *testing.T) {
		p := w.alice.startWith(t, nil, strings.NewReader("?"), "pipe", "bob", four)
		if code := p.wait(t); code != 1 || p.stdout.String() != "four" || strings.Contains(p.stderr.String(), "refused") {
			t.Errorf("exit code %d, got %q, want 1 and four bytes:\n%s", code, p.stdout, p.stderr)
		}
	})
}
