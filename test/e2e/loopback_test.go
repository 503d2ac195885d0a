package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long anything may take before a test says that it hangs.
const patience = time.Minute

// programs are the binaries under test, built once.
var programs builder

type builder struct {
	once sync.Once
	dir  string
	err  error
}

func (b *builder) path(t *testing.T, name string) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "p2pagent-bin-"); b.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-buildvcs=false", "-o", b.dir, "../../cmd/signal", "../../cmd/p2pagent").CombinedOutput()
		if err != nil {
			b.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, name)
}

func (b *builder) remove() {
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
}

// A spool keeps what a program writes, and lets a test wait for a part of it.
type spool struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func newSpool() *spool { return &spool{changed: make(chan struct{})} }

func (s *spool) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.b.Write(b)
}

func (s *spool) String() string {
	text, _ := s.look()
	return text
}

func (s *spool) look() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String(), s.changed
}

// A process is a program that runs.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr *spool
	ended          chan struct{}
}

// start runs a program until the test ends, or it does.
func start(t *testing.T, name string, env []string, stdin io.Reader, args ...string) *process {
	t.Helper()
	cmd := exec.Command(programs.path(t, name), args...)
	cmd.Env, cmd.Stdin = env, stdin
	return launch(t, name+" "+strings.Join(args, " "), cmd)
}

// launch starts a command whose output is kept, where it has none yet.
func launch(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, stdout: newSpool(), stderr: newSpool(), ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.stderr
	}
	p.cmd.WaitDelay = 3 * time.Second // for children that outlive it and hold its pipes
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait() // what it returned is in ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// await waits until the program has written something that matches pattern,
// and returns the match and its groups.
func (p *process) await(t *testing.T, s *spool, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		text, changed := s.look()
		if m := re.FindStringSubmatch(text); m != nil {
			return m
		}
		select {
		case <-changed:
		case <-p.ended:
			if m := re.FindStringSubmatch(s.String()); m != nil {
				return m
			}
			t.Fatalf("%s ended (%v) without writing %q:\n%s", p.name, p.cmd.ProcessState, pattern, p.stderr)
		case <-deadline:
			t.Fatalf("%s did not write %q within %v:\n%s", p.name, pattern, patience, p.stderr)
		}
	}
}

// wait returns the exit code. A program that is still there is a failure: it
// hangs.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s hangs:\n%s", p.name, p.stderr)
		return -1
	}
}

// interrupt ends a program as a user does, and returns its exit code.
func (p *process) interrupt(t *testing.T) int {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	return p.wait(t)
}

// unharmed reports a program that is gone, or that has complained of itself.
func (p *process) unharmed(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		t.Errorf("%s has ended: %v\n%s", p.name, p.cmd.ProcessState, p.stderr)
	default:
	}
	for _, word := range []string{"panic", "DATA RACE", "fatal error"} {
		if text := p.stderr.String(); strings.Contains(text, word) {
			t.Errorf("%s: %s:\n%s", p.name, word, text)
		}
	}
}

// A home is one user: a directory with a key, peers and a control socket.
type home struct {
	dir string
	url string // of the signal server
}

// newHome makes a home. Its name is short, for the path of a Unix socket is.
func newHome(t *testing.T, url string) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &home{dir: dir, url: url}
	for _, sub := range []string{"config/p2pagent", "run", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// file is a file among those of the agent.
func (h *home) file(name string) string { return filepath.Join(h.dir, "config/p2pagent", name) }

// env is all that a program of this user sees of the world; a later entry
// takes the place of an earlier one.
func (h *home) env(more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "XDG_CONFIG_HOME=" + filepath.Join(h.dir, "config"),
		"XDG_STATE_HOME=" + filepath.Join(h.dir, "state"), "XDG_RUNTIME_DIR=" + filepath.Join(h.dir, "run"),
		"P2PAGENT_SIGNAL=" + h.url,
	}, more...)
}

// linking are the commands that take the flags of a link.
var linking = map[string]bool{"listen": true, "connect": true, "pipe": true, "ping": true}

// start runs p2pagent, on loopback where it links.
func (h *home) start(t *testing.T, args ...string) *process {
	t.Helper()
	return h.startWith(t, nil, nil, args...)
}

func (h *home) startWith(t *testing.T, env []string, stdin io.Reader, args ...string) *process {
	t.Helper()
	if len(args) > 0 && linking[args[0]] {
		args = append([]string{args[0], "--loopback"}, args[1:]...)
	}
	return start(t, "p2pagent", h.env(env...), stdin, args...)
}

// A deployment is a signal server on loopback.
type deployment struct {
	*process
	more []string // flags
	home *home
	url  string
	turn netip.AddrPort // UDP and TCP
}

// deploy starts a signal server on free ports, with more flags than it needs.
func deploy(t *testing.T, more ...string) *deployment {
	t.Helper()
	d := &deployment{home: newHome(t, ""), more: more}
	turn := freePorts(t)
	d.run(t, fmt.Sprintf("127.0.0.1:%d", turn+2), fmt.Sprintf("127.0.0.1:%d", turn))
	return d
}

// ports are given to deployments four at a time, below those that the kernel picks
// for anybody: nobody else has them when a server comes back.
var ports struct {
	sync.Mutex
	next int
}

// freePorts returns the first of three ports that are free.
func freePorts(t *testing.T) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = 20000 + 4*(os.Getpid()%2500)
	}
	for range 100 {
		first := ports.next
		ports.next += 4
		if free(first) && free(first+1) && free(first+2) {
			return first
		}
	}
	t.Fatalf("no free ports below %d", ports.next)
	return 0
}

func free(port int) bool {
	address := fmt.Sprintf("127.0.0.1:%d", port)
	u, err := net.ListenPacket("udp4", address)
	if err != nil {
		return false
	}
	u.Close()
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// run starts the server at the given addresses and waits until it serves.
func (d *deployment) run(t *testing.T, listen, turn string) {
	t.Helper()
	d.process = start(t, "signal", d.home.env(), nil, append([]string{
		"--public-ip", "127.0.0.1", "--listen", listen, "--turn-listen", turn, "--allow-peer", "127.0.0.0/8", "--grace", "1s"}, d.more...)...)
	d.url = d.await(t, d.stdout, `export P2PAGENT_SIGNAL=(\S+)\n`)[1]
	d.turn = netip.MustParseAddrPort(d.await(t, d.stderr, `serving turn:(\S+)\?transport=tcp`)[1])
}

// again starts a server that was stopped, at its old addresses.
func (d *deployment) again(t *testing.T) {
	t.Helper()
	d.run(t, d.web(), d.turn.String())
}

// kill ends the server as a power cut does.
func (d *deployment) kill(t *testing.T) {
	t.Helper()
	d.cmd.Process.Kill()
	d.wait(t)
}

// web is the address of the WebSocket.
func (d *deployment) web() string {
	address, _, _ := strings.Cut(strings.TrimPrefix(d.url, "ws://"), "#")
	return address
}

// token is the access token.
func (d *deployment) token() string {
	_, token, _ := strings.Cut(d.url, "#")
	return token
}

// nobody is a target that bob allows and where nothing listens.
const nobody = "127.0.0.1:1"

// A world is a server and two machines that know each other, one of which
// listens.
type world struct {
	*deployment
	alice, bob *home
	listener   *process // bob's
	echo       string   // a target that bob allows
	allow      []string // bob's flags
}

// listen starts bob's listener.
func (w *world) listen(t *testing.T) {
	t.Helper()
	w.listener = w.bob.start(t, append([]string{"listen", "--name", "bob", "--trace", w.trace(w.bob)}, w.allow...)...)
}

// newWorld makes a world whose bob allows the given entries too.
func newWorld(t *testing.T, allow ...string) *world {
	t.Helper()
	w := &world{deployment: deploy(t), echo: echo(t)}
	w.alice, w.bob = newHome(t, w.url), newHome(t, w.url)
	for _, a := range append(allow, w.echo, nobody) {
		w.allow = append(w.allow, "--allow", a)
	}
	w.listen(t)
	pair(t, w.alice, w.listener, "alice", "bob")
	return w
}

func (w *world) trace(h *home) string { return filepath.Join(h.dir, "trace.jsonl") }

// code is the last pairing code that a listener has printed.
func code(t *testing.T, listener *process) string {
	t.Helper()
	return listener.await(t, listener.stdout, `(?m)(?s).*^(\d+(?:-[a-z]+){3})$`)[1]
}

// pair makes h, called name, and the machine that listens know each other.
func pair(t *testing.T, h *home, listener *process, name, as string) {
	t.Helper()
	c := h.startWith(t, []string{"P2PAGENT_CODE=" + code(t, listener)}, nil, "connect", "--name", name, "--as", as)
	c.await(t, c.stderr, "session up")
	if code := c.interrupt(t); code != 0 {
		t.Fatalf("connect ended with %d:\n%s", code, c.stderr)
	}
}

// goodLink carries a few bytes from alice to bob and back, over a link of its
// own, and requires that nobody was harmed by what came before.
func (w *world) goodLink(t *testing.T) {
	t.Helper()
	sendThrough(t, w.alice, "bob", w.echo)
	w.unharmed(t)
	w.listener.unharmed(t)
}

// sendThrough pipes random bytes to an echo at a peer.
func sendThrough(t *testing.T, h *home, peer, target string) {
	t.Helper()
	payload := randomText(1000)
	p := h.startWith(t, nil, strings.NewReader(payload), "pipe", peer, target)
	if code := p.wait(t); code != 0 || p.stdout.String() != payload {
		t.Errorf("a good link: exit code %d, %d of %d bytes came back:\n%s", code, len(p.stdout.String()), len(payload), p.stderr)
	}
}

func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// echo is a TCP server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	return serveTCP(t, func(c *net.TCPConn) {
		io.Copy(c, c)
		c.CloseWrite()
	})
}

// serveTCP answers each connection with f until the test ends.
func serveTCP(t *testing.T, f func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		ln.Close()
		running.Wait()
	})
	return ln.Addr().String()
}
