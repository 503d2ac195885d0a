package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A standing is a lab that stands until the test ends.
type standing struct {
	t    *testing.T
	name string
	dir  string // for the test's files, which all nodes see
}

// Addresses of the lab.
const (
	publicA  = "198.51.100.2" // router A outside
	publicB  = "203.0.113.2"  // router B outside
	ourRelay = "192.0.2.2"    // the signal server that every lab has
)

// stand makes a lab with nothing but its signal server running.
func stand(t *testing.T, natA, natB string) *standing {
	t.Helper()
	needLab(t)
	s := &standing{t: t, name: fmt.Sprintf("e2e-%d", time.Now().UnixNano()), dir: t.TempDir()}
	up := start(t, "p2pagent", os.Environ(), nil, "lab", "up", "--a", natA, "--b", natB, "--name", s.name)
	t.Cleanup(func() { start(t, "p2pagent", os.Environ(), nil, "lab", "down", "--name", s.name).wait(t) })
	if code := up.waitFor(t, 2*time.Minute); code != 0 {
		t.Fatalf("lab up: exit code %d\n%s", code, up.stderr)
	}
	return s
}

// in is the same lab for a test within the test that made it.
func (s *standing) in(t *testing.T) *standing {
	c := *s
	c.t = t
	return &c
}

// needLinux skips a test of `lab run` and `lab matrix`, which need no root where
// the kernel lets users make namespaces; measured skips it where it does not.
func needLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the lab needs Linux")
	}
}

// needLab skips a test that stands in a lab and reaches into it from outside.
func needLab(t *testing.T) {
	t.Helper()
	needLinux(t)
	if os.Getuid() != 0 {
		t.Skip("this test reaches into a standing lab, and runs as root")
	}
}

// needFull skips a test that is too long for every day.
func needFull(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("P2PAGENT_FULL") == "" {
		t.Skip(why + "; set P2PAGENT_FULL=1 (make test-full)")
	}
}

// needProgram skips a test that drives a program which is not installed.
func needProgram(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%v: apt-get install %s (scripts/setup.sh test)", err, pkg)
	}
}

// exec starts a program in a node, one of ours from where it was built.
func (s *standing) exec(node string, argv ...string) *process {
	s.t.Helper()
	return s.execWith(nil, node, argv...)
}

func (s *standing) execWith(stdin io.Reader, node string, argv ...string) *process {
	s.t.Helper()
	if argv[0] == "signal" || argv[0] == "p2pagent" {
		argv[0] = programs.path(s.t, argv[0])
	}
	p := start(s.t, "p2pagent", os.Environ(), stdin, append([]string{"lab", "exec", "--name", s.name, node, "--"}, argv...)...)
	s.t.Cleanup(func() { p.signalInside(os.Kill) })
	return p
}

// must runs a program in a node to its end, and returns what it printed.
func (s *standing) must(node string, argv ...string) string {
	s.t.Helper()
	p := s.exec(node, argv...)
	if code := p.wait(s.t); code != 0 {
		s.t.Fatalf("%s: exit code %d\n%s", p.name, code, p.stderr)
	}
	return p.stdout.String()
}

func (s *standing) file(name string) string { return filepath.Join(s.dir, name) }

func (s *standing) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.file(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *standing) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// agents makes the two peers known to each other and links them: a port of peer-a
// leads to the same port of peer-b, both on loopback. They are called a and b.
func (s *standing) agents(ports []int, flags ...string) (a, b *process) {
	s.t.Helper()
	listen := []string{"p2pagent", "listen", "--name", "b", "--pair", "--json", "--trace", s.file("b.jsonl")}
	connect := []string{"p2pagent", "connect", "--code-file", s.file("code"), "--name", "a", "--as", "b", "--json", "--trace", s.file("a.jsonl")}
	for _, port := range ports {
		target := loopbackPort(port)
		listen = append(listen, "--allow", target)
		connect = append(connect, "-L", target+":"+target)
	}
	b = s.exec("peer-b", append(listen, flags...)...)
	code := b.await(s.t, b.stdout, `"code":"([^"]+)"`)[1]
	s.write("code", code+"\n")
	a = s.exec("peer-a", append(connect, flags...)...)
	return a, b
}

func loopbackPort(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// awaitEvent waits until a program that runs with --json has printed an event that
// matches, and returns it.
func awaitEvent(t *testing.T, p *process, what string, match func(trace.Event) bool) trace.Record {
	t.Helper()
	return awaitEvents(t, p, what, 1, match)
}

// awaitEvents waits for n events that match, and returns the last of them.
func awaitEvents(t *testing.T, p *process, what string, n int, match func(trace.Event) bool) trace.Record {
	t.Helper()
	deadline := time.After(patience)
	for {
		text, changed := p.stdout.look()
		left := n
		for r, err := range trace.Read(strings.NewReader(text)) {
			if err != nil || !match(r.Event) { // the last line may be half written
				continue
			}
			if left--; left == 0 {
				return r
			}
		}
		select {
		case <-changed:
		case <-p.ended:
			t.Fatalf("%s ended (%v) without %s:\n%s", p.name, p.cmd.ProcessState, what, p.stderr)
		case <-deadline:
			t.Fatalf("%s: no %s within %v:\n%s", p.name, what, patience, p.stderr)
			return trace.Record{}
		}
	}
}

// onPath waits until an agent has moved its session to a kind of path.
func onPath(t *testing.T, p *process, kind string) {
	t.Helper()
	awaitEvent(t, p, kind+" path", func(e trace.Event) bool {
		c, ok := e.(trace.PathChanged)
		return ok && c.To != nil && c.To.Kind == kind
	})
	awaitEvent(t, p, "session", func(e trace.Event) bool {
		c, ok := e.(trace.SessionState)
		return ok && c.State == "up"
	})
}

// signalInside sends a signal to a program in a node. What the test itself started
// is only the program that entered the node, which waits for the other one.
func (p *process) signalInside(sig os.Signal) error {
	select {
	case <-p.ended:
		return os.ErrProcessDone
	default:
	}
	for _, pid := range children(p.cmd.Process.Pid) {
		if err := signalTo(pid, sig); err != nil {
			return err
		}
	}
	return nil
}

// children are the processes that some processes have started.
func children(parents ...int) (pids []int) {
	for _, parent := range parents {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
		for _, name := range lists {
			list, _ := os.ReadFile(name) // a thread may have ended meanwhile
			for _, child := range strings.Fields(string(list)) {
				if pid, err := strconv.Atoi(child); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

func signalTo(pid int, sig os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer p.Release()
	return p.Signal(sig)
}

// interruptInside ends a program in a node as a user does, and returns its exit
// code.
func (p *process) interruptInside(t *testing.T) int {
	t.Helper()
	if err := p.signalInside(os.Interrupt); err != nil {
		t.Fatalf("interrupt %s: %v\n%s", p.name, err, p.stderr)
	}
	return p.wait(t)
}

// A labResult is what `lab run --json` prints, and an element of what `lab matrix
// --json` prints.
type labResult struct {
	A, B        string
	SameNAT     bool `json:"same_nat"`
	Connected   bool
	Path        string
	FirstByteMS *int64 `json:"first_byte_ms"`
	DirectMS    *int64 `json:"direct_ms"`
	Proof       *struct {
		PayloadBytes int64 `json:"payload_bytes"`
		RelayBytes   int64 `json:"relay_bytes"`
		NATABytes    int64 `json:"nat_a_bytes"`
		NATBBytes    int64 `json:"nat_b_bytes"`
	}
	Verdict trace.Verdict
	Error   string
}

// measured runs `lab run` to its end and returns the results.
func measured(t *testing.T, limit time.Duration, args ...string) (results []labResult) {
	t.Helper()
	p := start(t, "p2pagent", os.Environ(), nil, append([]string{"lab", "run", "--json"}, args...)...)
	code := p.waitFor(t, limit)
	d := json.NewDecoder(strings.NewReader(p.stdout.String()))
	for d.More() {
		var r labResult
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%s printed %q: %v", p.name, p.stdout, err)
		}
		results = append(results, r)
	}
	if strings.Contains(p.stderr.String(), "make namespaces for the lab") {
		t.Skip(p.stderr)
	}
	if code != 0 || len(results) == 0 {
		t.Fatalf("%s: exit code %d, %d results\n%s\n%s", p.name, code, len(results), p.stdout, p.stderr)
	}
	return results
}

// waitFor is wait for a program that may take its time.
func (p *process) waitFor(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		t.Errorf("%s has not ended within %v", p.name, limit)
		p.cmd.Process.Kill()
	}
	return p.wait(t)
}
