package e2e

import (
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// TestNATSilence: a server that is silent alone is a server that is silent; two at
// different addresses make a network without UDP.
func TestNATSilence(t *testing.T) {
	t.Parallel()
	h := newHome(t, "")
	for _, tt := range []struct {
		name string
		args []string
		code int
		out  string // on stdout
		err  string // on stderr
	}{
		{"one", []string{"--stun", "stun:127.0.0.1:1"}, 1, "UDP          not measured", "no answer from 127.0.0.1:1: down, or no UDP passes"},
		{"two ports of one", []string{"--json", "--stun", "stun:127.0.0.1:1", "--stun", "stun:127.0.0.1:2"}, 1, `"udp":null`, "no answer from 127.0.0.1:1, 127.0.0.1:2: down"},
		{"two", []string{"--stun", "stun:127.0.0.1:1", "--stun", "stun:127.0.0.2:1"}, 0, "NAT          udp-blocked", "asking 127.0.0.1:1, 127.0.0.2:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := h.start(t, append([]string{"nat"}, tt.args...)...)
			if code := p.wait(t); code != tt.code || !strings.Contains(p.stdout.String(), tt.out) || !strings.Contains(p.stderr.String(), tt.err) {
				t.Errorf("exit code %d, want %d, %q and %q:\n%s%s", code, tt.code, tt.out, tt.err, p.stdout, p.stderr)
			}
		})
	}
}

// TestNATInterrupted: nat says what it waits for, and an interruption is one.
func TestNATInterrupted(t *testing.T) {
	t.Parallel()
	h := newHome(t, "ws://127.0.0.1:1")
	for _, args := range [][]string{{"--stun", "stun:127.0.0.1:1"}, nil} {
		p := h.start(t, append([]string{"nat"}, args...)...)
		p.await(t, p.stderr, `asking `)
		if code := p.interrupt(t); code != 130 || !strings.HasSuffix(p.stderr.String(), "p2pagent: interrupted\n") {
			t.Errorf("nat %v: exit code %d:\n%s", args, code, p.stderr)
		}
	}
}

// TestNoNAT: who has no NAT reads that, and why filtering is not known.
func TestNoNAT(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	p := newHome(t, d.url).start(t, "nat")
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.stderr)
	}
	for _, want := range []string{"NAT          none: 127.0.0.1 is this machine's own\n", "filtering    not measured: the server has one address\n"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, p.stdout)
		}
	}
}

// TestNoUDPWithOneServer: with one address of the server alone, the network that
// lets no UDP out is told from a server that is down, as the server answers the peer;
// and `nat` there leaves it open.
func TestNoUDPWithOneServer(t *testing.T) {
	t.Parallel()
	needLab(t)
	s := startSplit(t, "udp-blocked", "none")
	b := s.exec("peer-b", "p2pagent", "listen", "--signal", s.url, "--name", "b", "--pair", "--json")
	s.write("code", b.await(t, b.stdout, `"code":"([^"]+)"`)[1]+"\n")
	a := s.exec("peer-a", "p2pagent", "connect", "--code-file", s.file("code"), "--signal", s.url, "--name", "a", "--as", "b", "--json")
	verdict := func(text string) func(trace.Event) bool {
		return func(e trace.Event) bool {
			v, ok := e.(trace.Verdict)
			return ok && v.Path == "relayed" && v.Text == "relayed: "+text && v.Remedy != ""
		}
	}
	awaitEvent(t, a, "verdict", verdict("no UDP leaves this network: the STUN server that answers the peer does not answer here"))
	awaitEvent(t, b, "verdict", verdict("no UDP leaves the peer's network: the STUN server that answers here does not answer the peer"))
	p := s.exec("peer-a", "p2pagent", "nat", "--signal", s.url)
	if code := p.wait(t); code != 1 || !strings.Contains(p.stderr.String(), "no answer from 192.0.2.2:4478, 192.0.2.2:4479: down, or no UDP passes") {
		t.Errorf("nat: exit code %d:\n%s%s", code, p.stdout, p.stderr)
	}
}
