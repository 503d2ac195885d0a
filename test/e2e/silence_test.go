package e2e

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// asker runs p2pagent with these arguments, as the user whose link is asked about.
type asker func(t *testing.T, args ...string) *process

// givingUp is in three minutes, or in fifteen when the peer may be asleep.
var givingUp = regexp.MustCompile(`; giving up in (2\.\d|1[45](\.\d)?) min`)

// saysSilence checks what a user reads while nothing passes.
func saysSilence(t *testing.T, ask asker, why string) {
	t.Helper()
	for _, command := range []string{"status", "explain"} {
		p := ask(t, command)
		want := map[string]int{"status": 0, "explain": 7}[command]
		if code, text := p.wait(t), p.stdout.String(); code != want || !strings.Contains(text, "no path: silent for ") ||
			!strings.Contains(text, why) || !givingUp.MatchString(text) || strings.Contains(text, "peer to peer") {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", command, code, want, why, text)
		}
	}
	p := ask(t, "explain", "--json")
	var all []struct {
		Links []struct{ Verdict trace.Verdict }
	}
	if code, err := p.wait(t), json.Unmarshal([]byte(p.stdout.String()), &all); code != 7 || err != nil || len(all) != 1 || len(all[0].Links) != 1 {
		t.Fatalf("explain --json: exit code %d, %v: %s", code, err, p.stdout)
	}
	if v := all[0].Links[0].Verdict; v.Path != "none" || !strings.Contains(v.Text, why) || v.Remedy == "" {
		t.Errorf("explain --json: %+v", v)
	}
}

// saysDirect waits until a user reads that the link works, and is direct.
func saysDirect(t *testing.T, ask asker) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		p := ask(t, "explain")
		code, text := p.wait(t), p.stdout.String()
		if code == 0 && strings.Contains(text, "packets go from peer to peer") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("explain: exit code %d:\n%s", code, text)
		}
	}
}

// awaitTrace waits for an event that matches in a trace that is being written, not
// among the first records of it, and returns how many there are up to that one.
func awaitTrace(t *testing.T, name string, from int, what string, match func(trace.Event) bool) int {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		f, err := os.Open(name)
		if err != nil {
			continue // not yet
		}
		n := 0
		for r, err := range trace.Read(f) {
			if err != nil {
				break // half written
			}
			if n++; n > from && match(r.Event) {
				f.Close()
				return n
			}
		}
		f.Close()
	}
	t.Fatalf("%s: no %s within %v", name, what, patience)
	return 0
}

func outage(over bool) func(trace.Event) bool {
	return func(e trace.Event) bool {
		o, ok := e.(trace.Outage)
		return ok && o.Over == over
	}
}

// TestSilentPeer: a peer that is stopped, and one that is killed, is told as what it
// is by status, by explain and on the terminal; and one that goes on, too.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.alice.start(t, "connect", "--trace", w.trace(w.alice), "-L", "0:"+w.echo, "bob")
	link.await(t, link.stderr, "bob: direct path")
	link.await(t, link.stderr, "session up")
	local := link.await(t, link.stderr, `listening on (127\.0\.0\.1:\d+)`)[1]
	alice := func(t *testing.T, args ...string) *process { return w.alice.start(t, args...) }
	bob := func(t *testing.T, args ...string) *process { return w.bob.start(t, args...) }
	saysDirect(t, alice)

	if err := w.listener.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	at := awaitTrace(t, w.trace(w.alice), 0, "outage", outage(false))
	saysSilence(t, alice, "; it is at the signaling server")
	link.await(t, link.stderr, `bob: no path: silent for .*; it is at the signaling server; giving up in 2\.\d min; try: see whether`)

	if err := w.listener.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	at = awaitTrace(t, w.trace(w.alice), at, "end of the outage", outage(true))
	link.await(t, link.stderr, `bob: packets pass again, after \d+(\.\d)? s\n`)
	saysDirect(t, alice)
	saysDirect(t, bob)
	roundTrip(t, local)

	w.listener.cmd.Process.Kill()
	w.listener.wait(t)
	awaitTrace(t, w.trace(w.alice), at, "outage", outage(false))
	saysSilence(t, alice, "; it left the signaling server")
	link.await(t, link.stderr, `bob: no path: silent for .*; it left the signaling server; giving up in 1[45](\.\d)? min; try: see whether`)
	if p := bob(t, "explain"); p.wait(t) != 1 || !strings.Contains(p.stderr.String(), "no p2pagent is running") {
		t.Errorf("explain of nobody: %s%s", p.stdout, p.stderr)
	}
	link.interrupt(t)
}

// roundTrip sends some bytes to an echo and wants them back.
func roundTrip(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	sent := randomText(1000)
	got := make([]byte, len(sent))
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != sent {
		t.Errorf("%v, or other bytes", err)
	}
}

// TestNoRoute: a machine that has lost its network and its peer both say so, and
// that it is over.
func TestNoRoute(t *testing.T) {
	t.Parallel()
	s := stand(t, "port-restricted", "port-restricted")
	a, b := s.agents(nil)
	onPath(t, a, "direct")
	onPath(t, b, "direct")
	in := func(node string) asker {
		return func(t *testing.T, args ...string) *process {
			return s.exec(node, append([]string{"p2pagent"}, args...)...)
		}
	}
	saysDirect(t, in("peer-a"))
	gateway := strings.Fields(s.must("peer-a", "ip", "route", "show", "default"))
	s.must("peer-a", "ip", "route", "del", "default")
	awaitEvent(t, a, "outage", outage(false))
	awaitEvent(t, b, "outage", outage(false))
	saysSilence(t, in("peer-a"), "; no connection to the signaling server either")
	saysSilence(t, in("peer-b"), "signaling server; giving up") // which has not noticed anything yet
	a.await(t, a.stderr, `b: no path: silent for \d(\.\d)? s; .*giving up in (2\.9|15) min; try: check this machine's own network`)
	b.await(t, b.stderr, `a: no path: silent for \d(\.\d)? s; .*giving up in (2\.9|15) min; try: `)

	s.must("peer-a", append([]string{"ip", "route", "add"}, gateway...)...)
	awaitEvent(t, a, "end of the outage", outage(true))
	awaitEvent(t, b, "end of the outage", outage(true))
	saysDirect(t, in("peer-a"))
	saysDirect(t, in("peer-b"))
	a.await(t, a.stderr, `b: packets pass again, after `)
	b.await(t, b.stderr, `a: packets pass again, after `)
}

// TestExplainWithoutLink: who waits says for what, and the exit code says it too.
func TestExplainWithoutLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.listener.interrupt(t)
	link := w.alice.start(t, "connect", "bob")
	link.await(t, link.stderr, "bob: absent: not at the signaling server; waiting")
	expect := func(h *home, code int, text string) {
		t.Helper()
		for _, command := range []string{"status", "explain"} {
			p := h.start(t, command)
			want := code
			if command == "status" {
				want = 0
			}
			if got := p.wait(t); got != want || !strings.Contains(p.stdout.String(), text) {
				t.Errorf("%s: exit code %d, want %d and %q:\n%s%s", command, got, want, text, p.stdout, p.stderr)
			}
		}
	}
	expect(w.alice, 4, "bob: absent: not at the signaling server; waiting")
	w.kill(t)
	link.await(t, link.stderr, "signaling: no connection")
	link.await(t, link.stderr, "refused; trying again")
	expect(w.alice, 6, "bob: the signaling server is not reached: ")
	link.interrupt(t)
	w.again(t)

	listener := w.bob.start(t, "listen")
	listener.await(t, listener.stderr, "signaling: connected")
	const waits = "alice: absent: not at the signaling server; waiting"
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		p := w.bob.start(t, "explain")
		code := p.wait(t)
		if code == 0 && strings.Contains(p.stdout.String(), waits) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("explain of a listener: exit code %d, want 0 and %q:\n%s%s", code, waits, p.stdout, p.stderr)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(w.alice.dir, "run/p2pagent/*.sock")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}
