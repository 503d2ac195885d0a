package e2e

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// TestServersOfNames: agents get to a TURN server by every way that its name has.
func TestServersOfNames(t *testing.T) {
	needLab(t)
	needProgram(t, "turnserver", "coturn")
	needProgram(t, "socat", "socat")
	s := stand(t, "port-restricted", "port-restricted")
	s.startCoturn()
	echo := s.exec("peer-b", "socat", "-d", "-d", "TCP-LISTEN:7000,bind=127.0.0.1,fork,reuseaddr", "EXEC:cat")
	echo.await(t, echo.stderr, "listening on")
	a, _ := s.agents([]int{7000})
	onPath(t, a, "direct")
	if code := a.interruptInside(t); code != 0 {
		t.Fatalf("exit code %d\n%s", code, a.stderr)
	}

	// relayed talks to b by the relay of a name, and by nothing else.
	relayed := func(t *testing.T, server, transport string, flags ...string) {
		t.Helper()
		s := s.in(t)
		p := s.withHosts("peer-a", strings.NewReader("hello\n"), append([]string{"pipe", "b", loopbackPort(7000), "--relay-only",
			"--turn", server, "--turn-auth-file", s.file("turn-auth"), "--trace", s.file("pipe.jsonl")}, flags...)...)
		if code := p.wait(t); code != 0 || p.stdout.String() != "hello\n" {
			t.Fatalf("exit code %d, %q\n%s", code, p.stdout, p.stderr)
		}
		var used []string
		for r, err := range trace.Read(strings.NewReader(s.read("pipe.jsonl"))) {
			if e, ok := r.Event.(trace.RelayAllocated); err == nil && ok {
				used = append(used, e.Transport)
			}
		}
		if !slices.Equal(used, []string{transport}) {
			t.Errorf("%s: allocated over %v, want %s", server, used, transport)
		}
	}
	t.Run("the first record is dead", func(t *testing.T) {
		s.write("hosts", "192.0.2.77 turn.example\n"+coturnRelay+" turn.example\n")
		relayed(t, "turn:turn.example:3478", "udp")
		relayed(t, "turn:turn.example:3478?transport=tcp", "tcp")
	})
	// Behind a translator (NAT64) a machine has IPv6 and nothing else: the relay, and
	// the signaling server, are reached over it.
	t.Run("IPv6 alone", func(t *testing.T) {
		s := s.in(t)
		const translator = "fd64:a::1"
		for _, n := range []struct{ node, dev, addr string }{{"peer-a", "eth0", "fd64:a::2"}, {"nat-a", "lan", translator}} {
			s.must(n.node, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf."+n.dev+".disable_ipv6=0")
			s.must(n.node, "ip", "-6", "addr", "add", n.addr+"/64", "dev", n.dev, "nodad")
		}
		s.must("peer-a", "ip", "-4", "addr", "flush", "dev", "eth0")
		for _, way := range [][2]string{
			{"UDP6-LISTEN:3478,fork,reuseaddr", "UDP4:" + coturnRelay + ":3478"},
			{"TCP6-LISTEN:3478,fork,reuseaddr", "TCP4:" + coturnRelay + ":3478"},
			{"TCP6-LISTEN:8080,fork,reuseaddr", "TCP4:" + ourRelay + ":8080"},
		} {
			p := s.exec("nat-a", "socat", "-d", "-d", way[0], way[1])
			p.await(t, p.stderr, "listening on|starting")
		}
		s.write("hosts", translator+" turn.example\n")
		signal := strings.Replace(s.must("peer-a", "printenv", "P2PAGENT_SIGNAL"), ourRelay, "["+translator+"]", 1)
		relayed(t, "turn:turn.example:3478", "udp", "--signal", strings.TrimSpace(signal))
		relayed(t, "turn:["+translator+"]:3478?transport=tcp", "tcp", "--signal", strings.TrimSpace(signal))
	})
}

// withHosts runs p2pagent in a node that knows the names of a file, and no DNS.
func (s *standing) withHosts(node string, stdin io.Reader, args ...string) *process {
	s.t.Helper()
	script := `mount --bind "$1" /etc/hosts; mount --bind /dev/null /etc/resolv.conf; shift; exec "$@"`
	return s.execWith(stdin, node, append([]string{"unshare", "-m", "sh", "-c", script, "sh", s.file("hosts"), programs.path(s.t, "p2pagent")}, args...)...)
}
