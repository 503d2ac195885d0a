package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// briefly is a bound that runs out in many rows, and time enough on a busy machine to
// learn what is told then.
const briefly = "5s"

// outcome is what somebody sees of a program that has ended.
type outcome struct {
	code   int
	stderr string
}

// run runs p2pagent to its end.
func (h *home) run(t *testing.T, args ...string) outcome {
	t.Helper()
	return h.runWith(t, nil, "", args...)
}

func (h *home) runWith(t *testing.T, env []string, stdin string, args ...string) outcome {
	t.Helper()
	return finish(t, h.startWith(t, env, strings.NewReader(stdin), args...))
}

func finish(t *testing.T, p *process) outcome {
	t.Helper()
	return outcome{p.wait(t), p.stderr.String()}
}

// feed puts bad input into the world.
type feed func(*testing.T, *world) outcome

// args is bad input on alice's command line.
func args(args ...string) feed {
	return func(t *testing.T, w *world) outcome { return w.alice.run(t, args...) }
}

// piped is bad input as the target of data, more than fits on the way.
func piped(target string) feed {
	return func(t *testing.T, w *world) outcome {
		return w.alice.runWith(t, nil, strings.Repeat("data", 1<<20), "pipe", "bob", target)
	}
}

// at is a bad address of the signal server.
func at(url string) feed {
	return func(t *testing.T, w *world) outcome {
		return w.alice.run(t, "ping", "--timeout", "10s", "--signal", url, "bob")
	}
}

// behind is a good address with something else behind it.
func behind(answer func(*testing.T) string) feed {
	return func(t *testing.T, w *world) outcome {
		return w.alice.run(t, "ping", "--timeout", "10s", "--signal", "ws://"+answer(t)+"#token", "bob")
	}
}

// files is a home with a bad file in it, in which alice's name has no meaning.
func files(prepare func(*testing.T, *home)) feed {
	return func(t *testing.T, w *world) outcome {
		h := newHome(t, w.url)
		prepare(t, h)
		return h.run(t, "ping", "bob")
	}
}

// file is one that has this content and mode.
func file(name, content string, mode os.FileMode) feed {
	return files(func(t *testing.T, h *home) {
		if err := os.WriteFile(h.file(name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(h.file(name), mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	})
}

// codeFrom is bad input where a pairing code is wanted.
func codeFrom(env []string, stdin string, args ...string) feed {
	return func(t *testing.T, w *world) outcome {
		return w.alice.runWith(t, env, stdin, append([]string{"connect", "--timeout", "5s"}, args...)...)
	}
}

// badInput is the table: what is fed, and the exit code and the sentence that
// answer it.
var badInput = []struct {
	name string
	feed feed
	code int
	says string
}{
	// The command line.
	{"unknown subcommand", args("conect"), 2, `unknown command "conect"; did you mean connect?` + "\n  try: p2pagent --help"},
	{"unknown subcommand of peers", args("peers", "frget", "bob"), 2, `unknown command "frget"; did you mean forget?` + "\n  try: p2pagent peers --help"},
	{"unknown subcommand of lab", args("lab", "upp"), 2, `unknown command "upp"; did you mean up?` + "\n  try: p2pagent lab --help"},
	{"unknown shell to complete for", args("completion", "bsh"), 2, `unknown command "bsh"; did you mean bash or fish or zsh?`},
	{"help about nothing", args("help", "conect"), 2, `unknown command "conect"; did you mean connect?`},
	{"time to listen", args("listen", "--timeout", "2s"), 2, "--timeout: listen waits for its peers until it is interrupted"},
	{"unknown subcommand that is near nothing", args("frobnicate"), 2, `unknown command "frobnicate"` + "\n  try: p2pagent --help"},
	{"unknown flag", args("connect", "--no-such-flag"), 2, "unknown flag: --no-such-flag\n  try: p2pagent connect --help"},
	{"flag that is misspelt", args("connect", "--relayonly", "bob"), 2, "unknown flag: --relayonly; did you mean --relay-only?\n  try: p2pagent connect --help"},
	{"unknown short flag", args("bench", "-Z", "bob"), 2, "unknown shorthand flag: 'Z' in -Z\n  try: p2pagent bench --help"},
	{"quiet and verbose", args("pipe", "-q", "-v", "bob"), 2, "-q and -v exclude each other"},
	{"flag without its value", args("connect", "--trace"), 2, "needs an argument: --trace"},
	{"argument too many", args("listen", "here"), 2, "here"},
	{"argument missing", args("ping"), 2, "which peer? (`p2pagent peers` lists them)"},
	{"unknown NAT", args("lab", "run", "--a", "conical", "--b", "none"), 2, "conical"},
	{"whom to connect to", args("connect"), 2, "whom to connect to?"},
	{"unknown peer", args("ping", "carol"), 2, `"carol" is neither a known peer nor a pairing code`},
	{"forget an unknown peer", args("peers", "forget", "carol"), 2, `"carol" is not a known peer`},
	{"rename to what is no name", args("peers", "rename", "bob", "b\x1b[31mb"), 2, "name"},
	{"relay only and direct", args("ping", "--relay-only", "--require", "direct", "bob"), 2, "--relay-only and --require direct exclude each other"},
	{"what cannot be required", args("ping", "--require", "relayed", "bob"), 2, `only "direct" can be required`},
	{"negative timeout", args("ping", "--timeout", "-1s", "bob"), 2, "--timeout -1 s is negative"},
	{"timeout without a unit", args("ping", "--timeout", "30", "bob"), 2, "--timeout"},
	{"colour", args("ping", "--color", "pink", "bob"), 2, `--color "pink"`},
	{"UDP port too high", args("ping", "--udp-port", "65536", "bob"), 2, "--udp-port 65536: a port is 0 to 65535"},
	{"UDP port below zero", args("ping", "--udp-port", "-1", "bob"), 2, "--udp-port -1"},
	{"UDP port that is none", args("ping", "--udp-port", "http", "bob"), 2, "--udp-port"},
	{"UDP port that is privileged", withoutRight("ping", "--udp-port", "1023", "bob"), 1, "a port below 1024 needs root"},
	{"UDP port in use", busyUDPPort, 1, "choose another port, or end the program that has it"},
	{"-L that is no forward", args("connect", "-L", "8080", "bob"), 2, "write [bind:]port:host:port"},
	{"-L with a port that is none", args("connect", "-L", "8080:localhost:http", "bob"), 2, `"http" is not a port`},
	{"-R that is no forward", args("connect", "-R", "a:b:c:d:e", "bob"), 2, "too many colons"},
	{"-L to an IPv6 address without brackets", args("connect", "-L", "2223:::1:22", "bob"), 2, "an IPv6 address stands in brackets, for example [::1]"},
	{"-L on a port in use", busyLocalPort, 1, "address already in use; choose another port, or end the program that has it"},
	{"-L on a port in use at the other loopback", busyLocalPort6, 1, "for example 127.0.0.1:"},
	{"-L on a privileged port, without the right", withoutRight("connect", "-L", "1023:localhost:23", "bob"), 1, "permission denied; a port below 1024 needs root, or on Linux the capability CAP_NET_BIND_SERVICE: choose one from 1024 up"},
	{"-L on an address of another machine", args("connect", "-L", "192.0.2.1:8080:localhost:80", "bob"), 1, "this machine has no such address"},
	{"STUN server that is none", args("ping", "--stun", "127.0.0.1:3478", "bob"), 2, "--stun"},
	{"STUN server for TURN", args("ping", "--turn", "stun:127.0.0.1", "bob"), 2, "is not a turn server"},
	{"TURN credentials that are none", turnAuth("no colon in it\n"), 2, "want one line, USER:PASSWORD"},
	{"TURN credentials in two lines", turnAuth("user:password\nuser:password\n"), 2, "want one line, USER:PASSWORD"},
	{"TURN credentials absent", args("ping", "--turn-auth-file", "/nonexistent", "bob"), 1, "no such file"},
	{"trace that cannot be written", args("ping", "--trace", "/nonexistent/trace", "bob"), 1, "--trace: open /nonexistent/trace"},
	{"JSON where stdout is the connection", args("pipe", "--json", "bob"), 2, "there is no --json"},
	{"status of nobody in JSON", func(t *testing.T, w *world) outcome { return newHome(t, w.url).run(t, "status", "--json") }, 1, "no p2pagent is running for this user"},
	{"explain of nobody", func(t *testing.T, w *world) outcome { return newHome(t, w.url).run(t, "explain") }, 1, "no p2pagent is running for this user"},
	{"explain of nobody in JSON", func(t *testing.T, w *world) outcome { return newHome(t, w.url).run(t, "explain", "--json") }, 1, "no p2pagent is running for this user"},
	{"STUN server that is down", args("nat", "--stun", "stun:127.0.0.1:1"), 1, "no answer from 127.0.0.1:1: down, or no UDP passes between here and there"},
	{"and what to do", args("nat", "--stun", "stun:127.0.0.1:1"), 1, "try: give a server at another address too: --stun stun:HOST"},
	{"status of nobody", func(t *testing.T, w *world) outcome { return newHome(t, w.url).run(t, "status") }, 1, "no p2pagent is running for this user"},
	{"allow everything", args("listen", "--allow", "0.0.0.0/0:22"), 2, "every host would be reachable"},
	{"allow a URL", args("listen", "--allow", "http://web.home:8080/"), 2, "a URL; write HOST:PORT, for example web.home:8080"},
	{"allow what is no address", args("listen", "--allow", "10.0.0.300:22"), 2, `"10.0.0.300" is not an address`},
	{"allow a bad prefix", args("listen", "--allow", "10.0.0.0/33:22"), 2, "is not a prefix"},
	{"allow without a port", args("listen", "--allow", "localhost"), 2, "no port"},
	{"name with control characters", args("listen", "--name", "\x1b]0;owned\x07"), 2, "--name"},

	// The signal server.
	{"no server", at(""), 2, "no signaling server; start one with `signal`"},
	{"URL that is none", at("://nowhere"), 2, "not a URL, want ws://HOST:PORT#TOKEN"},
	{"URL without a scheme", at("localhost:8080"), 2, "want ws:// or wss:// in front of it"},
	{"URL of the web", at("http://localhost:8080#token"), 2, "write that instead of http://"},
	{"URL without a host", at("ws://#token"), 2, "the host is missing"},
	{"token as a query", at("ws://localhost:8080?token=x"), 2, "an access token goes behind #"},
	{"no token", withToken(""), 8, "wants one and none was given"},
	{"wrong token", withToken("guess"), 8, "is wrong: take the line that signal prints now"},
	{"token with a newline", withToken("gue%0Ass"), 8, "is wrong"},
	{"nobody at the address", at("ws://" + nobody + "#token"), 6, "connection refused"},
	{"name that does not resolve", func(t *testing.T, w *world) outcome { // some resolvers answer late
		return w.alice.run(t, "ping", "--timeout", "45s", "--signal", "ws://nobody.invalid:8080#token", "bob")
	}, 6, "nobody.invalid"},
	{"name that no resolver takes", at("ws://nobody..invalid:8080#token"), 6, "nobody..invalid"},
	{"web server", behind(webServer), 6, "not a signal server: nothing at /v1 (HTTP 404)"},
	{"server that wants TLS", behind(tlsServer), 6, "write wss:// instead of ws://"},
	{"server that redirects", behind(redirector), 6, "it redirects"},
	{"server of another protocol", behind(sshServer), 6, "it does not speak HTTP"},
	{"server that hangs up", behind(hangUp), 6, "signaling unreachable"},
	{"server that says nothing", behind(silent), 6, "signaling unreachable"},
	{"server without TLS", func(t *testing.T, w *world) outcome {
		return w.alice.run(t, "ping", "--signal", "wss://"+w.web()+"#token", "bob")
	}, 6, "it does not speak TLS"},
	{"IPv6 address without brackets", at("ws://::1:8080#token"), 2, "an IPv6 address stands in brackets, write ws://[::1]:8080"},
	{"no port", at("ws://127.0.0.1#token"), 6, "`signal` listens on 8080 unless told otherwise, ws://127.0.0.1:8080"},
	{"certificate of an unknown authority", secureAt(-time.Minute, nil), 6, "this machine does not trust who signed that certificate"},
	{"certificate of tomorrow", secureAt(24*time.Hour, trusted), 6, "check this machine's clock: the certificate is of the future"},
	{"certificate of yesterday", secureAt(-24*time.Hour, trusted), 6, "renew the certificate"},

	// Pairing codes.
	{"code with a word that is none", args("connect", "4711-robot-nebula-anchr"), 2, "did you mean anchor?"},
	{"code that is too short", codeFrom(nil, "4711-robot-nebula\n", "--code-stdin"), 2, "2 words after the number, want 3"},
	{"code that is a sentence", codeFrom([]string{"P2PAGENT_CODE=open the door"}, ""), 2, "instead of a number"},
	{"code with control characters", codeFrom([]string{"P2PAGENT_CODE=\x1b[2J"}, ""), 2, "not a pairing code"},
	{"no code on stdin", codeFrom(nil, "", "--code-stdin"), 2, "it is empty"},
	{"code without end on stdin", codeFrom(nil, strings.Repeat("9", 1<<20), "--code-stdin"), 2, "is too long"},
	{"two places for the code", codeFrom(nil, "", "--code-stdin", "--code-file", "code"), 2, "exclude each other"},
	{"file without a code", codeFrom(nil, "", "--code-file", "/nonexistent"), 1, "--code-file: open /nonexistent"},
	{"number that nobody has", args("connect", "999999-robot-nebula-anchor"), 4, "no such code is waiting"},
	{"number that cannot be", args("connect", "0000-zoom-zoom-zoom"), 2, "its number 0000 is none: 4 to 7 digits"},
	{"number that is too short", args("connect", "12-robot-nebula-anchor"), 2, "its number 12 is none"},
	{"code with spaces that nobody has", args("connect", "999999", "robot", "nebula", "anchor"), 4, "no such code is waiting"},
	{"name with a space", args("connect", "my", "office"), 2, "a name with a space in quotes"},
	{"code with spaces for ping", args("ping", "999999", "robot", "nebula", "anchor"), 2, "that is a pairing code: `p2pagent connect CODE` first"},
	{"wrong code", wrongCode, 5, "wrong pairing code; it is spent now"},
	{"wrong code, as the listener sees it", wrongCodeListener, 0, "somebody used a wrong code; the new code is"},
	{"burned code", burnedCode, 4, "no such code is waiting"},
	{"used code", usedCode, 4, "no such code is waiting"},
	{"third party in the mailbox", thirdParty, 5, "somebody else is using the code at this moment"},
	{"code for ping", args("ping", "999999-robot-nebula-anchor"), 2, "that is a pairing code: `p2pagent connect CODE` first"},
	{"code for pipe", args("pipe", "999999-robot-nebula-anchor"), 2, "that is a pairing code: `p2pagent connect CODE` first"},
	{"code for bench", args("bench", "999999-robot-nebula-anchor"), 2, "that is a pairing code: `p2pagent connect CODE` first"},
	{"code of one's own", ownCode, 2, "the code is this machine's own"},
	{"name of another peer", nameOfAnother, 2, "--as Bob: name is taken: bob, key "},
	{"name for a known peer", args("connect", "--as", "desk", "bob"), 2, "p2pagent peers rename bob desk"},
	{"name with a space for a known peer", args("connect", "--as", "my desk", "bob"), 2, "p2pagent peers rename bob 'my desk'"},
	{"name for a peer that is none", func(t *testing.T, w *world) outcome {
		l := newHome(t, w.url).start(t, "listen")
		return w.alice.run(t, "connect", "--as", "-rf", code(t, l))
	}, 2, "--as"},

	// Peers and targets.
	{"peer that is away", func(t *testing.T, w *world) outcome {
		h, _ := w.friends(t, "dave")
		return h.run(t, "ping", "--timeout", briefly, "dave")
	}, 4, "dave did not come within 5 s"},
	{"target that is not allowed", args("pipe", "bob", "127.0.0.1:22"), 8, "127.0.0.1:22 is not on this side's --allow list"},
	{"data for a target that is not allowed", piped("127.0.0.1:22"), 8, "127.0.0.1:22 is not on this side's --allow list"},
	{"data for a target where nobody is", piped(nobody), 1, "connection refused"},
	{"target that is no target", args("pipe", "bob", "nonsense"), 2, "HOST:PORT"},
	{"target without a port", args("pipe", "bob", "localhost:0"), 2, "port"},
	{"target by another name", args("pipe", "bob", "localhost.localdomain:1"), 8, "not on this side's --allow list"},
	{"metadata service", args("pipe", "bob", "169.254.169.254:80"), 8, "not on this side's --allow list"},
	{"target where nobody is", args("pipe", "bob", nobody), 1, "connection refused"},
	{"forgotten here", forgottenHere, 2, `"bob" is neither a known peer nor a pairing code`},
	{"forgotten here, with a live link", forgottenHereLive, 8, "peer was forgotten: bob"},
	{"forgotten there", forgottenThere, 4, "bob did not come within"},
	{"forgotten there, with a live link", forgottenThereLive, 8, "forgotten"},
	{"two listeners with one key", twoListeners, 8, "another `p2pagent listen` with this machine's key has taken over"},
	{"direct where the other side wants the relay", onlyRelayed, 8, "one side requires the relay and the other a direct path"},
	{"direct where no UDP leaves", noUDP, 3, "no STUN server answers here: it is down, or no UDP leaves this network"},
	{"ping where only the relay works", args("ping", "--relay-only", "--timeout", "10s", "bob"), 3, "no direct path within 10 s; relayed: this side was told to use the relay only"},

	// Relays that are none.
	{"relay without credentials", args("ping", "--relay-only", "--turn", "turn:127.0.0.1:9", "--timeout", briefly, "bob"), 7, "127.0.0.1:9: no credentials"},
	{"and what to do", args("pipe", "--relay-only", "--turn", "turn:127.0.0.1:9", "--timeout", briefly, "bob"), 7, "try: give the server's user and password with --turn-auth-file"},
	{"relay that is down", relayed("ping", "turn:127.0.0.1:1?transport=tcp"), 7, "127.0.0.1:1: connection refused over TCP"},
	{"relay that is down, told before the end", relayed("connect", "turn:127.0.0.1:1?transport=tcp"), 7, "bob: no relay: 127.0.0.1:1: connection refused over TCP; try: "},
	{"relay that is down, for data", relayed("pipe", "turn:127.0.0.1:1?transport=tcp"), 7, "no path to the peer bob within 5 s: no relay (127.0.0.1:1: connection refused over TCP)"},
	{"relay that is silent", func(t *testing.T, w *world) outcome {
		hole, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer hole.Close()
		return relayed("bench", "turn:"+hole.LocalAddr().String())(t, w)
	}, 7, "no answer yet over UDP); no direct path is looked for with --relay-only"},
	{"relay that knows nobody of that name", func(t *testing.T, w *world) outcome {
		return relayed("ping", "turn:"+w.turn.String())(t, w)
	}, 7, "credentials refused (401) over UDP"},

	// The agent's files.
	{"key that others can read", file("key.pem", "", 0o644), 1, "chmod 600"},
	{"key that is none", file("key.pem", "secret", 0o600), 1, "no PEM block"},
	{"key that is a directory", files(func(t *testing.T, h *home) { os.Mkdir(h.file("key.pem"), 0o700) }), 1, "not a regular file"},
	{"peers that others can read", file("peers.json", `{"version":1,"peers":[]}`, 0o640), 1, "chmod 600"},
	{"peers that are no JSON", file("peers.json", "{]", 0o600), 1, "known peers"},
	{"peers of a newer version", file("peers.json", `{"version":2,"peers":[]}`, 0o600), 1, "format version 2, this program knows 1"},
	{"peers without a secret", file("peers.json", `{"version":1,"peers":[{"name":"bob","secret":"hunter2"}]}`, 0o600), 1, "its secret is not 32 bytes"},
	{"no home", func(t *testing.T, w *world) outcome {
		return w.alice.runWith(t, []string{"HOME=", "XDG_CONFIG_HOME="}, "", "ping", "bob")
	}, 1, "no place for the key"},
}

// TestBadInput feeds every row and then tries a good link.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("rows", func(t *testing.T) {
		for _, row := range badInput {
			t.Run(row.name, func(t *testing.T) {
				t.Parallel()
				got := row.feed(t, w)
				if got.code != row.code || !strings.Contains(got.stderr, row.says) {
					t.Errorf("exit code %d, want %d with %q:\n%s", got.code, row.code, row.says, got.stderr)
				}
				if last := lastLine(got.stderr); strings.ContainsFunc(last, func(r rune) bool { return r < ' ' }) {
					t.Errorf("control characters for the terminal: %q", last)
				}
				w.goodLink(t)
			})
		}
	})
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// friends are two new machines that know each other; the second one, which
// listens under this name, is gone again.
func (w *world) friends(t *testing.T, name string) (connector, listener *home) {
	t.Helper()
	connector, listener = newHome(t, w.url), newHome(t, w.url)
	l := listener.start(t, "listen", "--name", name)
	pair(t, connector, l, "friend", name)
	l.interrupt(t)
	return connector, listener
}

func busyUDPPort(t *testing.T, w *world) outcome {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return w.alice.run(t, "ping", "--udp-port", port, "bob")
}

func busyLocalPort(t *testing.T, w *world) outcome {
	_, port, _ := net.SplitHostPort(w.echo)
	return w.alice.run(t, "connect", "-L", port+":"+w.echo, "bob")
}

func busyLocalPort6(t *testing.T, w *world) outcome {
	needIPv6(t)
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return w.alice.run(t, "connect", "-L", port+":"+w.echo, "bob")
}

// withoutRight runs p2pagent without the one capability that opens ports below 1024.
func withoutRight(args ...string) feed {
	return func(t *testing.T, w *world) outcome {
		needLinux(t)
		if first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || strings.TrimSpace(string(first)) != "1024" {
			t.Skipf("here ports are privileged up to %q: %v", first, err)
		}
		argv := append([]string{programs.path(t, "p2pagent")}, args...)
		if os.Getuid() == 0 {
			needProgram(t, "setpriv", "util-linux")
			argv = append([]string{"setpriv", "--bounding-set=-net_bind_service"}, argv...)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = w.alice.env()
		return finish(t, launch(t, strings.Join(argv, " "), cmd))
	}
}

func turnAuth(content string) feed {
	return func(t *testing.T, w *world) outcome {
		name := t.TempDir() + "/auth"
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return w.alice.run(t, "ping", "--turn", "turn:127.0.0.1", "--turn-auth-file", name, "bob")
	}
}

// relayed is a link by a relay of the user's own alone.
func relayed(command, server string) feed {
	return func(t *testing.T, w *world) outcome {
		name := t.TempDir() + "/auth"
		if err := os.WriteFile(name, []byte("nobody:secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		link := []string{command, "--relay-only", "--turn", server, "--turn-auth-file", name, "--timeout", briefly, "bob"}
		if command == "bench" {
			link = append(link, "--loopback")
		}
		return w.alice.run(t, link...)
	}
}

func withToken(token string) feed {
	return func(t *testing.T, w *world) outcome {
		return w.alice.run(t, "ping", "--signal", "ws://"+w.web()+"#"+token, "bob")
	}
}

func webServer(t *testing.T) string {
	return address(t, httptest.NewServer(http.NotFoundHandler()))
}

func redirector(t *testing.T) string {
	return address(t, httptest.NewServer(http.RedirectHandler("http://127.0.0.1/login", http.StatusFound)))
}

func tlsServer(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	return address(t, s)
}

// secureAt is a server whose certificate is good for an hour, from this time on. env
// is what the agent gets to know of the certificate's file.
func secureAt(from time.Duration, env func(file string) []string) feed {
	return func(t *testing.T, w *world) outcome {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now().Add(from)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "cert.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = quiet()
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		s.StartTLS()
		var more []string
		if env != nil {
			more = env(file)
		}
		return w.alice.runWith(t, more, "", "ping", "--timeout", briefly, "--signal", "wss://"+address(t, s)+"#token", "bob")
	}
}

func trusted(file string) []string { return []string{"SSL_CERT_FILE=" + file} }

func address(t *testing.T, s *httptest.Server) string {
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func sshServer(t *testing.T) string {
	return serveTCP(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "SSH-2.0-OpenSSH_9.9\r\n")
		io.Copy(io.Discard, c)
	})
}

func hangUp(t *testing.T) string { return serveTCP(t, func(*net.TCPConn) {}) }

func silent(t *testing.T) string {
	return serveTCP(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
}

// spoil returns a code of the same number with other words.
func spoil(code string) string {
	number, words, _ := strings.Cut(code, "-")
	if words == "robot-nebula-anchor" {
		return number + "-anchor-nebula-robot"
	}
	return number + "-robot-nebula-anchor"
}

// guess lets a new machine redeem a wrong code at a new listener.
func guess(t *testing.T, w *world) (listener *process, right string, got outcome) {
	t.Helper()
	listener = newHome(t, w.url).start(t, "listen")
	right = code(t, listener)
	got = newHome(t, w.url).run(t, "connect", spoil(right))
	listener.await(t, listener.stdout, `(?m)^\d+(?:-[a-z]+){3}\n\d+(?:-[a-z]+){3}$`) // and now a new one
	return listener, right, got
}

func wrongCode(t *testing.T, w *world) outcome {
	_, _, got := guess(t, w)
	return got
}

func wrongCodeListener(t *testing.T, w *world) outcome {
	listener, _, _ := guess(t, w)
	pair(t, newHome(t, w.url), listener, "right", "right")
	return outcome{listener.interrupt(t), listener.stderr.String()}
}

func burnedCode(t *testing.T, w *world) outcome {
	_, right, _ := guess(t, w)
	return newHome(t, w.url).run(t, "connect", right)
}

func usedCode(t *testing.T, w *world) outcome {
	listener := newHome(t, w.url).start(t, "listen")
	pair(t, newHome(t, w.url), listener, "first", "first")
	return newHome(t, w.url).run(t, "connect", code(t, listener))
}

func thirdParty(t *testing.T, w *world) outcome {
	listener := newHome(t, w.url).start(t, "listen")
	number, _, _ := strings.Cut(code(t, listener), "-")
	third := dialWebSocket(t, w.web())
	third.hello(w.token())
	third.say(`{"type":"join","mailbox":"` + number + `","role":"guest","seat":"` + seat("third") + `"}`)
	third.await(`"type":"joined"`)
	got := newHome(t, w.url).run(t, "connect", code(t, listener))
	select {
	case <-listener.ended:
		t.Errorf("a third party who said nothing ended the listener:\n%s", listener.stderr)
	default:
	}
	return got
}

// ownCode is typed on the machine that shows it. It still serves the one it is for.
func ownCode(t *testing.T, w *world) outcome {
	h := newHome(t, w.url)
	listener := h.start(t, "listen", "--name", "own")
	got := h.run(t, "connect", code(t, listener))
	pair(t, newHome(t, w.url), listener, "other", "own")
	return got
}

// nameOfAnother is taken, and the code still serves with another name.
func nameOfAnother(t *testing.T, w *world) outcome {
	h, _ := w.friends(t, "bob")
	listener := newHome(t, w.url).start(t, "listen", "--name", "carol")
	got := h.run(t, "connect", "--as", "Bob", code(t, listener))
	pair(t, h, listener, "friend", "carol")
	return got
}

func forgottenHere(t *testing.T, w *world) outcome {
	h, _ := w.friends(t, "bob")
	if got := h.run(t, "peers", "forget", "BOB"); got.code != 0 {
		t.Errorf("forget: %+v", got)
	}
	return h.run(t, "ping", "bob")
}

// live is a link between two new machines that stays.
func (w *world) live(t *testing.T) (connector, listener *home, link *process) {
	t.Helper()
	connector, listener = newHome(t, w.url), newHome(t, w.url)
	l := listener.start(t, "listen", "--name", "bob", "--allow", w.echo)
	pair(t, connector, l, "friend", "bob")
	link = connector.start(t, "connect", "bob")
	link.await(t, link.stderr, "session up")
	return connector, listener, link
}

func forgottenHereLive(t *testing.T, w *world) outcome {
	h, _, link := w.live(t)
	if got := h.run(t, "peers", "forget", "bob"); got.code != 0 {
		t.Errorf("forget: %+v", got)
	}
	return finish(t, link)
}

func forgottenThere(t *testing.T, w *world) outcome {
	h, other, link := w.live(t)
	if got := other.run(t, "peers", "forget", "friend"); got.code != 0 {
		t.Errorf("forget: %+v", got)
	}
	link.await(t, link.stderr, "link ended.*forgotten")
	return h.run(t, "ping", "--timeout", briefly, "bob")
}

func forgottenThereLive(t *testing.T, w *world) outcome {
	_, other, link := w.live(t)
	if got := other.run(t, "peers", "forget", "friend"); got.code != 0 {
		t.Errorf("forget: %+v", got)
	}
	return finish(t, link)
}

// twoListeners shows the end of the first one; the second one serves.
func twoListeners(t *testing.T, w *world) outcome {
	h, other := w.friends(t, "twin")
	first := other.start(t, "listen", "--allow", w.echo)
	sendThrough(t, h, "twin", w.echo) // it is there
	other.start(t, "listen", "--allow", w.echo)
	got := finish(t, first)
	sendThrough(t, h, "twin", w.echo)
	return got
}

func onlyRelayed(t *testing.T, w *world) outcome {
	h, other := w.friends(t, "hidden")
	other.start(t, "listen", "--relay-only")
	return h.run(t, "connect", "--require", "direct", "--timeout", "30s", "hidden")
}

// noUDP is a machine whose packets reach no STUN server, and a peer that
// believes no address on loopback: nothing is left but the relay.
func noUDP(t *testing.T, w *world) outcome {
	hole, err := net.ListenPacket("udp4", "127.0.0.1:0") // takes all, answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	h, other := w.friends(t, "walled")
	start(t, "p2pagent", other.env(), nil, "listen")
	return h.run(t, "connect", "--require", "direct", "--timeout", "15s", "--stun", "stun:"+hole.LocalAddr().String(), "walled")
}
