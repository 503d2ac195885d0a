package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
	"github.com/spf13/cobra"
)

const (
	patience = 2 * time.Minute
	token    = "an-access-token"
	secret   = "a-turn-secret"
)

// deploy starts a signaling server and a relay on loopback, and points the
// environment at them.
func deploy(t *testing.T) {
	t.Helper()
	rs, err := relay.NewServer(relay.ServerConfig{
		PublicIP: netip.MustParseAddr("127.0.0.1"), Secrets: [][]byte{[]byte(secret)},
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { rs.Serve(ctx) })
	var stun []string
	for _, a := range rs.STUNAddrs() {
		stun = append(stun, "stun:"+a.String())
	}
	ss, err := signaling.NewServer(signaling.ServerConfig{
		Token: token, STUN: stun, TURN: []string{"turn:" + rs.UDPAddr().String() + "?transport=udp"},
		Mint: func(user string, now time.Time) signaling.Credentials {
			name, pass := relay.Mint([]byte(secret), user, time.Hour, now)
			return signaling.Credentials{Username: name, Password: pass, TTL: time.Hour}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(ss)
	t.Cleanup(func() {
		ended, done := context.WithCancel(context.Background())
		done()
		ss.Drain(ended)
		web.Close()
		cancel()
		rs.Close()
		running.Wait()
	})
	t.Setenv(envSignal, "ws"+strings.TrimPrefix(web.URL, "http")+"#"+token)
}

// at makes a directory the home of whatever runs from now on.
func at(t *testing.T, home string) {
	t.Helper()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// shortDir is a directory whose path leaves room for that of a Unix socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// output keeps what a command writes, and lets a test wait for a line.
type output struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return o.b.Write(b)
}

// look returns what there is, and a channel that is closed at the next write.
func (o *output) look() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return o.b.String(), o.changed
}

func (o *output) String() string { s, _ := o.look(); return s }

// await waits for a line that ok accepts.
func (o *output) await(t *testing.T, what string, ok func(line string) bool) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		text, changed := o.look()
		for line := range strings.Lines(text) {
			if strings.HasSuffix(line, "\n") && ok(line) {
				return strings.TrimSuffix(line, "\n")
			}
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %s within %v:\n%s", what, patience, text)
		}
	}
}

// command is a run of the program in this process.
type command struct {
	stdout, stderr output
	interrupt      context.CancelFunc
	ended          chan int
}

func begin(t *testing.T, stdin string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &command{interrupt: cancel, ended: make(chan int, 1)}
	go func() { c.ended <- run(ctx, args, strings.NewReader(stdin), &c.stdout, &c.stderr) }()
	t.Cleanup(func() {
		cancel()
		c.wait(t)
	})
	return c
}

// wait returns the exit code.
func (c *command) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-c.ended:
		c.ended <- code // for who asks again
		return code
	case <-time.After(patience):
		t.Fatalf("it hangs:\n%s", &c.stderr)
		return -1
	}
}

// stop interrupts it, which is a clean end.
func (c *command) stop(t *testing.T) {
	t.Helper()
	c.interrupt()
	if code := c.wait(t); code != exitOK {
		t.Errorf("exit code %d at an interrupt:\n%s", code, &c.stderr)
	}
}

// cutShort interrupts it before it has done what it was for.
func (c *command) cutShort(t *testing.T) {
	t.Helper()
	c.interrupt()
	if code := c.wait(t); code != exitInterrupted || !strings.HasSuffix(c.stderr.String(), "p2pagent: interrupted\n") {
		t.Errorf("exit code %d at an interrupt:\n%s", code, &c.stderr)
	}
}

// do runs to the end, requires success and returns what was on stdout.
func do(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	c := begin(t, stdin, args...)
	if code := c.wait(t); code != exitOK {
		t.Fatalf("p2pagent %s: exit code %d:\n%s", strings.Join(args, " "), code, &c.stderr)
	}
	return c.stdout.String()
}

// event decodes a line of --json.
func event(t *testing.T, line string) (name string, data map[string]any) {
	t.Helper()
	var e struct {
		Time  time.Time
		Since *int64 `json:"since_ns"`
		Node  string
		Event string
		Data  map[string]any
	}
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Time.IsZero() || e.Since == nil || e.Node == "" || e.Event == "" {
		t.Fatalf("%q is no event: %v", line, err)
	}
	return e.Event, e.Data
}

func named(name string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, `"event":"`+name+`"`) }
}

// keys are the members of a JSON object, which are a contract.
func hasKeys(t *testing.T, what string, object any, keys ...string) {
	t.Helper()
	m, ok := object.(map[string]any)
	for _, k := range keys {
		if _, has := m[k]; !ok || !has {
			t.Errorf("%s has no %q: %v", what, k, object)
		}
	}
	if len(m) != len(keys) {
		t.Errorf("%s has %d members, want %v: %v", what, len(m), keys, object)
	}
}

func parse(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// The whole of the command line on one machine: what the commands print with
// --json, that an interrupt is a clean end, and that no secret is anywhere.
func TestCommands(t *testing.T) {
	deploy(t)
	alice, bob, target := shortDir(t), shortDir(t), echo(t)

	at(t, bob)
	if out := do(t, "", "peers", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("nobody known: %q", out)
	}
	listen := begin(t, "", "listen", "--loopback", "--json", "--name", "bob", "--allow", target, "--trace", filepath.Join(bob, "trace"))
	_, data := event(t, listen.stdout.await(t, "pairing code", named("pairing.code")))
	code, _ := data["code"].(string)

	at(t, alice)
	t.Setenv(envCode, code)
	connect := begin(t, "", "connect", "--loopback", "--json", "--name", "alice", "--as", "bobby", "--trace", filepath.Join(alice, "trace"))
	_, data = event(t, connect.stdout.await(t, "path", func(line string) bool {
		return named("path.changed")(line) && strings.Contains(line, `"kind":"direct"`)
	}))
	hasKeys(t, "path.changed", data, "from", "to", "why", "rtt_ms")
	connect.stdout.await(t, "session", func(line string) bool { return named("session.state")(line) && strings.Contains(line, `"up"`) })
	connect.stdout.await(t, "relay", named("relay.allocated")) // which a fast direct path may overtake
	connect.stdout.await(t, "verdict", func(line string) bool { return named("verdict")(line) && strings.Contains(line, `"path":"direct"`) })
	t.Run("status", func(t *testing.T) {
		list, _ := parse(t, do(t, "", "status", "--json")).([]any)
		if len(list) != 1 {
			t.Fatalf("%d processes, want 1", len(list))
		}
		hasKeys(t, "status", list[0], "pid", "command", "version", "signal", "links", "waiting")
		status := list[0].(map[string]any)
		links, _ := status["links"].([]any)
		if len(links) != 1 {
			t.Fatalf("links: %v", status["links"])
		}
		hasKeys(t, "link", links[0], "peer", "role", "session", "path", "paths", "losses", "verdict", "why")
		hasKeys(t, "verdict", links[0].(map[string]any)["verdict"], "path", "text", "remedy")
		if out := do(t, "", "status"); !strings.Contains(out, "bobby: direct") {
			t.Errorf("status for people: %q", out)
		}
		if out := do(t, "", "explain"); !strings.Contains(out, "bobby: direct: packets go from peer to peer") {
			t.Errorf("explain: %q", out)
		}
	})
	connect.stop(t)
	t.Setenv(envCode, "")

	t.Run("peers", func(t *testing.T) {
		list, _ := parse(t, do(t, "", "peers", "--json")).([]any)
		if len(list) != 1 {
			t.Fatalf("%v", list)
		}
		hasKeys(t, "peer", list[0], "name", "fingerprint", "added")
		if list[0].(map[string]any)["name"] != "bobby" {
			t.Errorf("known as %v", list[0])
		}
		do(t, "", "peers", "rename", "bobby", "bob")
		if out := do(t, "", "peers"); !strings.Contains(out, "bob ") || strings.Contains(out, "bobby") {
			t.Errorf("after a new name: %q", out)
		}
	})
	t.Run("ping", func(t *testing.T) {
		lines := strings.Split(strings.TrimSpace(do(t, "", "ping", "--loopback", "--json", "bob")), "\n")
		for _, line := range lines {
			hasKeys(t, "pong", parse(t, line), "path", "local", "remote", "rtt_ms", "after_ms")
		}
		if last := lines[len(lines)-1]; !strings.Contains(last, `"path":"direct"`) {
			t.Errorf("it ended with %s", last)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		if out := do(t, "to and fro", "pipe", "--loopback", "bob", target); out != "to and fro" {
			t.Errorf("came back: %q", out)
		}
	})
	t.Run("nat", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "trace")
		nat := parse(t, do(t, "", "nat", "--json", "--trace", file))
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"nat.measured"`) {
			t.Errorf("traced %q, %v", text, err)
		}
		if out := do(t, "", "nat"); !strings.Contains(out, "allocation   ") {
			t.Errorf("for people: %q", out)
		}
		if out := do(t, "", "nat", "--version"); !strings.Contains(out, version()) {
			t.Errorf("version: %q", out)
		}
		hasKeys(t, "nat", nat, "udp", "mapping", "filtering", "hairpin", "allocation", "mapped", "lifetime_s", "port_mapping")
		hasKeys(t, "port_mapping", nat.(map[string]any)["port_mapping"], "pcp", "nat_pmp", "upnp")
		if m := nat.(map[string]any); m["udp"] != true || m["lifetime_s"] != nil {
			t.Errorf("measured %v", m)
		}
	})
	t.Run("bench", testBench)
	t.Run("relay only", func(t *testing.T) {
		c := begin(t, "", "ping", "--loopback", "--relay-only", "bob")
		c.stdout.await(t, "relayed path", func(line string) bool { return strings.Contains(line, "bob is relayed: ") })
		c.cutShort(t)
	})
	listen.stop(t)

	t.Run("events", func(t *testing.T) {
		for line := range strings.Lines(listen.stdout.String() + connect.stdout.String()) {
			event(t, line)
		}
		for _, home := range []string{alice, bob} {
			checkTrace(t, filepath.Join(home, "trace"))
		}
	})
	t.Run("secrets", func(t *testing.T) {
		_, words, _ := strings.Cut(code, "-")
		shown := connect.stdout.String() + connect.stderr.String() + listen.stderr.String()
		for _, home := range []string{alice, bob} {
			b, err := os.ReadFile(filepath.Join(home, "trace"))
			if err != nil {
				t.Fatal(err)
			}
			shown += string(b)
		}
		for _, s := range []string{words, token, secret} {
			if strings.Contains(shown, s) {
				t.Errorf("%q is in a trace or on a terminal", s)
			}
		}
	})
}

// checkTrace requires that a trace reads back, event by event, and that it has
// what a link is made of.
func checkTrace(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		var r trace.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("%s: %q: %v", name, line, err)
			continue
		}
		if _, unknown := r.Event.(trace.Unknown); unknown {
			t.Errorf("%s: unknown event %s", name, r.Event.EventName())
		}
		seen[r.Event.EventName()] = true
	}
	for _, want := range []string{"process.started", "socket.opened", "nat.measured", "candidate", "signal.state", "signal.message", "peer.state",
		"paired", "relay.allocated", "attempt.started", "attempt.ended", "path.added", "path.changed", "path.closed", "session.state"} {
		if !seen[want] {
			t.Errorf("%s has no %s", name, want)
		}
	}
}

// echo is a target that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// An interrupt is a clean end for a listener, whatever it waits for. A connector that
// has not linked yet says that it was interrupted.
func TestInterrupted(t *testing.T) {
	deploy(t)
	at(t, shortDir(t))
	waiting := func(text string) func(string) bool {
		return func(line string) bool { return strings.Contains(line, text) }
	}
	t.Run("listen", func(t *testing.T) {
		c := begin(t, "", "listen")
		c.stdout.await(t, "code", func(string) bool { return true })
		c.stop(t)
	})
	t.Run("listen without a server", func(t *testing.T) {
		c := begin(t, "", "listen", "--signal", "ws://127.0.0.1:1")
		c.stderr.await(t, "complaint", waiting("trying again"))
		c.stop(t)
	})
	t.Run("connect with a code without a server", func(t *testing.T) {
		c := begin(t, "", "connect", "--signal", "ws://127.0.0.1:1", "4711-robot-nebula-anchor")
		c.stderr.await(t, "complaint", waiting("trying again"))
		c.cutShort(t)
	})
	t.Run("server that says nothing", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		started := time.Now()
		c := begin(t, "", "connect", "--trace", os.DevNull, "--signal", "ws://"+ln.Addr().String(), "4711-robot-nebula-anchor")
		c.cutShort(t)
		if took := time.Since(started); took > 9*time.Second { // a handshake has 10 s
			t.Errorf("it took %v", took)
		}
	})
}

// What is wrong on the command line is told before anything is done: without
// a server, and without a key being made.
func TestUsage(t *testing.T) {
	home := shortDir(t)
	at(t, home)
	t.Setenv(envSignal, "")
	t.Setenv(envCode, "")
	const server = "--signal=ws://127.0.0.1:1"
	for _, tt := range []struct{ args, says string }{
		{"conect", `unknown command "conect"`},
		{"connect --no-such-flag", "unknown flag: --no-such-flag"},
		{"ping", "which peer? (`p2pagent peers` lists them)"},
		{"ping a b", "one peer at most, and these are 2 arguments; a name with a space stands in quotes"},
		{"ping 1234 robot nebula anchor", "that is a pairing code"},
		{"bench", "which peer?"},
		{"pipe", "which peer?"},
		{"pipe my office h:22", "one peer and a target at most"},
		{"connect my office", "one code or peer, and these are 2 arguments; write a code with hyphens, 1234-word-word-word, and a name with a space in quotes"},
		{"connect 1234 robot nebula ancor " + server, "did you mean anchor?"},
		{"connect 0000-zoom-zoom-zoom " + server, "not a pairing code: its number 0000 is none: 4 to 7 digits, of which the first is not 0"},
		{"connect 12345678-zoom-zoom-zoom " + server, "its number 12345678 is none"},
		{"listen here", `"here"`},
		{"peers forget", "which peer?"},
		{"peers rename", "which peer?"},
		{"peers rename a", "what is it to be called?"},
		{"peers rename my office office", "two names, and these are 3 arguments"},
		{"ping bob", "no signaling server; start one with `signal`"},
		{"nat", "no STUN server; give --stun stun:HOST, or --signal URL"},
		{"nat --timeout -1s " + server, "is negative"},
		{"nat --udp-port 70000 " + server, "a port is 0 to 65535"},
		{"nat --require x " + server, `only "direct" can be required`},
		{"nat --color pink " + server, `--color "pink"`},
		{"ping bob --signal http://h", "write that instead of http://"},
		{"ping bob --signal h:8080", "want ws:// or wss:// in front of it"},
		{"ping bob --require relay " + server, `only "direct" can be required`},
		{"ping bob --require direct --relay-only " + server, "exclude each other"},
		{"ping bob --timeout -1s " + server, "is negative"},
		{"ping bob --timeout soon " + server, `invalid argument "soon"`},
		{"ping bob --udp-port 70000 " + server, "a port is 0 to 65535"},
		{"ping bob --stun turn:h " + server, "is not a stun server"},
		{"ping bob --turn h " + server, "--turn: "},
		{"ping bob --color pink " + server, `--color "pink"`},
		{"pipe bob nonsense " + server, `target "nonsense": want HOST:PORT`},
		{"pipe bob :22 " + server, "want HOST:PORT"},
		{"pipe bob h:ssh " + server, "a port is 1 to 65535"},
		{"pipe bob --json " + server, "there is no --json"},
		{"connect bob -L 80 " + server, "-L: forward \"80\": it has no target; write"},
		{"connect bob -L 2223:::1:22 " + server, "an IPv6 address stands in brackets"},
		{"connect bob -R 1:2 " + server, "-R: "},
		{"connect --code-file a --code-stdin " + server, "exclude each other"},
		{"connect 1234-robot-nebula-ancor " + server, "did you mean anchor?"},
		{"connect bob " + server, `"bob" is neither a known peer nor a pairing code`},
		{"connect " + server, "whom to connect to?"},
		{"listen --allow *:22 " + server, "every host would be reachable"},
		{"listen --allow h:0 " + server, "is not a port"},
		{"listen --name -x " + server, "--name: "},
		{"peers forget bob", `"bob" is not a known peer`},
		{"peers list bob", "unknown command"},
		{"lab bogus", `unknown command "bogus"`},
		{"lab upp", "did you mean up?"},
		{"completion bsh", "did you mean bash"},
		{"help bogus", `unknown command "bogus"`},
		{"help lab upp", "did you mean up?"},
		{"listen --timeout 2s " + server, "--timeout: listen waits for its peers until it is interrupted"},
	} {
		c := begin(t, "", strings.Fields(tt.args)...)
		code := c.wait(t)
		if code != exitUsage || !strings.Contains(c.stderr.String(), tt.says) || c.stdout.String() != "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q, want %d and %q", tt.args, code, &c.stdout, &c.stderr, exitUsage, tt.says)
		}
		if !strings.Contains(c.stderr.String(), "  try: ") {
			t.Errorf("%s: no advice: %q", tt.args, &c.stderr)
		}
	}
}

func TestShellWord(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"office", "office"}, {"büro-2", "büro-2"}, {"my office", "'my office'"}, {"bob's", `'bob'\''s'`},
		{"$HOME", "'$HOME'"}, {"~", "'~'"}, {"", "''"}, {"a;b", "'a;b'"},
	} {
		if got := shellWord(tt.in); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.in, got, tt.want)
		}
	}
}

// Words that are subcommands, and help for them, are none of that.
func TestHelp(t *testing.T) {
	for _, args := range []string{"help", "lab", "help lab up", "help completion bash", "completion", "lab --help"} {
		if out := do(t, "", strings.Fields(args)...); !strings.Contains(out, "Usage:") {
			t.Errorf("%s: %q", args, out)
		}
	}
}

// Why the signaling server does not answer is told at once, and not at the end of
// --timeout.
func TestNATTellsWhyItWaits(t *testing.T) {
	at(t, shortDir(t))
	c := begin(t, "", "nat", "--timeout", "1h", "--signal", "ws://127.0.0.1:1")
	c.stderr.await(t, "reason", func(line string) bool {
		return strings.Contains(line, "signaling: no connection to ws://127.0.0.1:1: dial tcp 127.0.0.1:1") && strings.Contains(line, "; trying again")
	})
	c.cutShort(t)
}

func TestReadCode(t *testing.T) {
	const file, stdin, env = "1111-robot-nebula-anchor", "2222-robot-nebula-anchor", "3333-robot-nebula-anchor"
	name := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(name, []byte("\n  "+file+"\r\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		c     common
		stdin string
		env   string
		want  string // empty: none
		fails string
	}{
		{"nowhere", common{}, stdin, "", "", ""},
		{"environment", common{}, stdin, env, env, ""},
		{"file before environment", common{codeFile: name}, stdin, env, file, ""},
		{"stdin before environment", common{codeStdin: true}, stdin + "\nmore\n", env, stdin, ""},
		{"stdin without a newline", common{codeStdin: true}, stdin, "", stdin, ""},
		{"spoken", common{}, "", " 3333 ROBOT nebu anchor\t", env, ""},
		{"two flags", common{codeFile: name, codeStdin: true}, stdin, env, "", "exclude each other"},
		{"no file", common{codeFile: name + "?"}, stdin, env, "", "--code-file: "},
		{"bad stdin does not fall back", common{codeStdin: true}, "what?", env, "", "--code-stdin: "},
		{"empty stdin does not fall back", common{codeStdin: true}, "", env, "", "--code-stdin: "},
		{"bad environment", common{}, "", "what?", "", "$" + envCode + ": "},
	} {
		t.Setenv(envCode, tt.env)
		cmd := new(cobra.Command)
		cmd.SetIn(strings.NewReader(tt.stdin))
		code, found, err := tt.c.readCode(t.Context(), cmd)
		if (err != nil) != (tt.fails != "") || tt.fails != "" && !strings.Contains(fmt.Sprint(err), tt.fails) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.fails)
			continue
		}
		if found != (tt.want != "") || found && code.String() != tt.want {
			t.Errorf("%s: %v, %v, want %q", tt.name, code, found, tt.want)
		}
	}
}

// Who is asked for a code may also interrupt.
func TestInterruptWhileACodeIsTyped(t *testing.T) {
	stdin, typing := io.Pipe()
	defer typing.Close()
	cmd := new(cobra.Command)
	cmd.SetIn(stdin)
	ctx, interrupt := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { interrupt(cli.ErrInterrupted) })
	c := common{codeStdin: true}
	if _, found, err := c.readCode(ctx, cmd); found || !errors.Is(err, cli.ErrInterrupted) {
		t.Errorf("%v, %v", found, err)
	}
}

// A name on the command line counts, whatever stands in the environment.
func TestArgumentBeforeEnvironment(t *testing.T) {
	at(t, shortDir(t))
	for _, env := range []string{"3333-robot-nebula-anchor", "what?"} {
		t.Setenv(envCode, env)
		c := begin(t, "", "connect", "bob", "--signal", "ws://127.0.0.1:1")
		if code := c.wait(t); code != exitUsage || !strings.Contains(c.stderr.String(), `"bob" is neither`) {
			t.Errorf("with %q: exit code %d, %q", env, code, &c.stderr)
		}
	}
	c := begin(t, "", "connect", "bob", "--code-stdin", "--signal", "ws://127.0.0.1:1")
	if code := c.wait(t); code != exitUsage || !strings.Contains(c.stderr.String(), "not both") {
		t.Errorf("a name and a code: exit code %d, %q", code, &c.stderr)
	}
}

func TestTURNAuth(t *testing.T) {
	for _, tt := range []struct{ content, user, pass string }{
		{"user:password\n", "user", "password"},
		{"1767225600:bob:c2VjcmV0\r\n", "1767225600:bob", "c2VjcmV0"}, // the REST form
		{"user:", "user", ""},
		{"", "", ""}, {"user\n", "", ""}, {":password\n", "", ""}, {"a:b\nc:d\n", "", ""},
	} {
		name := filepath.Join(t.TempDir(), "auth")
		if err := os.WriteFile(name, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		user, pass, err := readTURNAuth(name)
		if user != tt.user || pass != tt.pass || (err != nil) != (tt.user == "") {
			t.Errorf("%q: %q, %q, %v", tt.content, user, pass, err)
		}
		if err != nil && exitCode(err) != exitUsage {
			t.Errorf("%q: exit code %d", tt.content, exitCode(err))
		}
	}
}

func TestExplainWithoutALink(t *testing.T) {
	absent := agent.PeerStatus{
		Peer: "office", Role: "connector", State: agent.WaitingForPeer,
		Verdict: trace.Verdict{Path: "none", Text: "absent: not at the signaling server; waiting", Remedy: "run `p2pagent listen` there"},
	}
	for _, tt := range []struct {
		waiting []agent.PeerStatus
		want    string
	}{
		{nil, "p2pagent listen (pid 7): no link, and no peer to wait for\n"},
		{[]agent.PeerStatus{absent}, "office: absent: not at the signaling server; waiting\n  remedy: run `p2pagent listen` there\n"},
	} {
		var out strings.Builder
		printVerdicts(&out, agent.Status{PID: 7, Command: "listen", Waiting: tt.waiting})
		if out.String() != tt.want {
			t.Errorf("%q, want %q", out.String(), tt.want)
		}
	}
}

// What has not been measured has no figure.
func TestPathStatus(t *testing.T) {
	p := path.Status{
		Kind: path.Direct, Local: netip.MustParseAddrPort("192.0.2.1:1000"), Remote: netip.MustParseAddrPort("198.51.100.2:2000"),
		State: path.Probing, Since: time.Now(),
	}
	if got := pathStatus(p); strings.Contains(got, "rtt") || strings.Contains(got, "datagrams") {
		t.Errorf("probing: %q", got)
	}
	p.State, p.RTT, p.Size = path.Alive, 12*time.Millisecond, 1452
	if got, want := pathStatus(p), ", rtt 12 ms, 1452-byte datagrams, "; !strings.Contains(got, want) {
		t.Errorf("usable: %q, want %q", got, want)
	}
}

// The exit code of explain is that of what somebody wants and has not.
func TestLacking(t *testing.T) {
	link := func(path string) agent.LinkStatus { return agent.LinkStatus{Verdict: trace.Verdict{Path: path}} }
	waits := func(role string, state agent.WaitingState) agent.Status {
		return agent.Status{Waiting: []agent.PeerStatus{{Role: role, State: state}}}
	}
	for _, tt := range []struct {
		name string
		all  []agent.Status
		want int
	}{
		{"nothing wanted", []agent.Status{{}}, 0},
		{"direct and relayed", []agent.Status{{Links: []agent.LinkStatus{link("direct"), link("relayed")}}}, 0},
		{"one of two is silent", []agent.Status{{Links: []agent.LinkStatus{link("direct"), link("none")}}}, 7},
		{"a listener waits", []agent.Status{waits("listener", agent.WaitingForPeer)}, 0},
		{"the peer is absent", []agent.Status{waits("connector", agent.WaitingForPeer)}, 4},
		{"no server", []agent.Status{waits("connector", agent.WaitingForSignaling)}, 6},
		{"no word of it", []agent.Status{waits("connector", agent.WaitingForServer)}, 6},
		{"linking", []agent.Status{waits("connector", agent.WaitingForLink)}, 7},
		{"declined", []agent.Status{waits("connector", agent.WaitingDeclined)}, 8},
		{"refused", []agent.Status{waits("listener", agent.WaitingRefused), waits("connector", agent.WaitingRefused)}, 8},
	} {
		if got := exitCode(lacking(tt.all)); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
