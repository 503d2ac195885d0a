package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leaves requires that a listener hears of the end of its second link, after that of
// the pairing, and not from its own timers.
func leaves(t *testing.T, listener *process, end func()) {
	t.Helper()
	listener.await(t, listener.stderr, "(?s)(session up.*){2}")
	began := time.Now()
	end()
	listener.await(t, listener.stderr, `(?s)(peer closed the session: "interrupted".*){2}`)
	if took := time.Since(began); took > patience/2 { // its own timers take minutes
		t.Errorf("the peer heard of it after %v", took)
	}
}

// A terminal that is closed, and a reader that has gone, have a link take leave as an
// interrupt does.
func TestLeaveIsTaken(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGHUP": syscall.SIGHUP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.alice.start(t, "connect", "bob")
			c.await(t, c.stderr, "session up")
			leaves(t, w.listener, func() { c.cmd.Process.Signal(sig) })
			if code := c.wait(t); code != 0 {
				t.Errorf("exit code %d:\n%s", code, c.stderr)
			}
		})
	}
	t.Run("nobody reads", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		r, stdout, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(programs.path(t, "p2pagent"), "connect", "--loopback", "--json", "-L", "0:"+w.echo, "bob")
		cmd.Env, cmd.Stdout = w.alice.env(), stdout
		c := launch(t, "p2pagent connect --json", cmd)
		stdout.Close()
		local := c.await(t, c.stderr, `listening on (\S+) `)[1]
		c.await(t, c.stderr, "session up")
		leaves(t, w.listener, func() {
			r.Close()
			sendTCP(local, "one more event")
		})
		if code := c.wait(t); code != 0 {
			t.Errorf("exit code %d:\n%s", code, c.stderr)
		}
	})
}

// sendTCP makes a connection, sends text and reads to the end, whatever that is.
func sendTCP(address, text string) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, text)
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
}

// nohup keeps a listener from ending with its terminal.
func TestIgnoredHangupStaysIgnored(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	h := newHome(t, d.url)
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec "$0" listen --loopback`, programs.path(t, "p2pagent"))
	cmd.Env = h.env()
	l := launch(t, "nohup p2pagent listen", cmd)
	code(t, l)
	l.cmd.Process.Signal(syscall.SIGHUP)
	time.Sleep(100 * time.Millisecond) // nothing is to happen
	l.unharmed(t)
	if code := l.interrupt(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, l.stderr)
	}
}

// What is interrupted before it has done what it was for says so.
func TestInterruptedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alone, friend := newHome(t, w.url), (*home)(nil)
	friend, _ = w.friends(t, "dave")
	for name, tc := range map[string]struct {
		home  *home
		args  []string
		stuck string // on stderr, when it waits
	}{
		"ping":                {friend, []string{"ping", "dave"}, "dave: absent"},
		"bench":               {friend, []string{"bench", "--loopback", "dave"}, "dave: absent"},
		"pipe":                {friend, []string{"pipe", "-v", "dave"}, "dave: absent"},
		"connect":             {friend, []string{"connect", "dave"}, "dave: absent"},
		"connect with a code": {alone, []string{"connect", "--signal", "ws://" + nobody, "4711-robot-nebula-anchor"}, "trying again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := tc.home.start(t, tc.args...)
			c.await(t, c.stderr, tc.stuck)
			if code := c.interrupt(t); code != 130 || lastLine(c.stderr.String()) != "p2pagent: interrupted" {
				t.Errorf("exit code %d:\n%s", code, c.stderr)
			}
		})
	}
}

// ssh hangs up its ProxyCommand when it is done: that is no news, and -q is quiet from
// the first line to the last.
func TestQuietPipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stdin, typing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer typing.Close()
	p := w.alice.startWith(t, nil, stdin, "pipe", "-q", "bob", w.echo)
	io.WriteString(typing, "there")
	p.await(t, p.stdout, "there")
	p.cmd.Process.Signal(syscall.SIGHUP)
	if code := p.wait(t); code != 130 || p.stderr.String() != "" {
		t.Errorf("exit code %d:\n%s", code, p.stderr)
	}
}

// What cannot be printed is an error, and no success.
func TestFullDiskBehindStdout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, args := range [][]string{
		{"listen", "--loopback", "--pair"}, {"listen", "--loopback", "--json"}, {"nat"}, {"nat", "--json"}, {"peers"}, {"peers", "--json"},
		{"status"}, {"explain"}, {"connect", "--loopback", "--json", "bob"}, {"ping", "--loopback", "bob"}, {"pipe", "--loopback", "bob", w.echo}, {"--version"}, {"--help"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Skip(err)
			}
			defer full.Close()
			cmd := exec.Command(programs.path(t, "p2pagent"), args...)
			h := w.alice
			if args[0] == "listen" {
				h = newHome(t, w.url)
			} else if args[0] == "status" || args[0] == "explain" {
				h = w.bob
			}
			cmd.Env, cmd.Stdout, cmd.Stdin = h.env(), full, strings.NewReader("some bytes")
			p := launch(t, "p2pagent "+args[0]+" > /dev/full", cmd)
			if code := p.wait(t); code != 1 || !strings.Contains(p.stderr.String(), "print: write /dev/stdout: no space left on device") {
				t.Errorf("exit code %d:\n%s", code, p.stderr)
			}
		})
	}
}
