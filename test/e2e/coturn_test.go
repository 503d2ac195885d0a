package e2e

import (
	"regexp"
	"strconv"
	"testing"
)

// coturnRelay is where the tests' coturn serves: in the node that is nobody's.
const (
	coturnRelay  = "192.0.2.130"
	coturnSecond = "192.0.2.131"
)

// startCoturn starts coturn with one user, and writes that user for our agents.
func (s *standing) startCoturn() *process {
	s.t.Helper()
	s.write("turn-auth", "agent:a password of this test\n")
	p := s.exec("server", "turnserver", "-n", "--verbose", "--log-file", "stdout", "--simple-log", "--no-cli", "--no-tls", "--no-dtls",
		"--listening-ip", coturnRelay, "--listening-ip", coturnSecond, "--relay-ip", coturnRelay, "--listening-port", "3478", "--alt-listening-port", "3479",
		"--lt-cred-mech", "--user", "agent:a password of this test", "--realm", "lab",
		"--userdb", s.file("turndb"), "--pidfile", s.file("turnserver.pid"))
	p.await(s.t, p.stdout, `IPv4\. UDP listener opened on: 192\.0\.2\.131:3479`)
	return p
}

// coturnUsage finds what a session got from its client and from its peers.
var coturnUsage = regexp.MustCompile(`session (\d+): (peer )?usage: realm=<lab>, username=<agent>, rp=\d+, rb=(\d+),`)

// coturnCounts adds up what coturn says that it took from clients, headers included,
// and from peers. Now and then and at the end of a session it prints what came since
// it last did.
func coturnCounts(log string) (sessions int, fromClients, fromPeers int64) {
	seen := map[string]bool{}
	for _, m := range coturnUsage.FindAllStringSubmatch(log, -1) {
		n, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			continue
		}
		seen[m[1]] = true
		if m[2] == "" {
			fromClients += n
		} else {
			fromPeers += n
		}
	}
	return len(seen), fromClients, fromPeers
}

// Our agents with coturn as their only STUN and TURN server: the same paths as with
// our own, seen by tcpdump and by coturn's own counters.
func TestCoturnAsServer(t *testing.T) {
	needLab(t)
	needProgram(t, "turnserver", "coturn")
	needProgram(t, "tcpdump", "tcpdump")
	needProgram(t, "curl", "curl")
	for _, tc := range []struct {
		a, b, path string
		check      func(flows, *testing.T, string)
	}{
		{"port-restricted", "symmetric", "relayed", flows.crossedRelay},
		{"full-cone", "port-restricted", "direct", flows.crossedDirectly},
	} {
		t.Run(tc.path, func(t *testing.T) {
			s := stand(t, tc.a, tc.b)
			coturn := s.startCoturn()
			s.serveFiles(filePort)
			a, b := s.agents([]int{filePort}, "--stun", "stun:"+coturnRelay, "--stun", "stun:"+coturnSecond,
				"--turn", "turn:"+coturnRelay, "--turn-auth-file", s.file("turn-auth"))
			onPath(t, a, tc.path)
			onPath(t, b, tc.path)
			seen := s.watchQuiet([]*process{a, b}, func() {
				s.fetchWithCurl(filePort)
				s.sendWithCurl(filePort)
			})
			tc.check(seen, t, coturnRelay)
			if n := seen.either(ourRelay); n != 0 {
				t.Errorf("%d bytes went to or from our own server, which nobody was told of", n)
			}

			for _, p := range []*process{a, b} {
				if code := p.interruptInside(t); code != 0 {
					t.Errorf("%s: exit code %d\n%s", p.name, code, p.stderr)
				}
			}
			coturn.await(t, coturn.stdout, `(?s)delete: realm=<lab>, username=<agent>.*delete: realm=<lab>, username=<agent>`)
			sessions, fromClients, fromPeers := coturnCounts(coturn.stdout.String())
			t.Logf("coturn counts %d sessions, %d bytes from clients, %d from peers", sessions, fromClients, fromPeers)
			if sessions < 2 {
				t.Errorf("coturn counts %d sessions, each peer should have had one\n%s", sessions, coturn.stdout)
			}
			// Each agent chooses whether it sends through its own allocation or to
			// the peer's, so only the sum is certain.
			took, sent := fromClients+fromPeers, int64(2*fileBytes)
			if tc.path == "relayed" && took < sent {
				t.Errorf("coturn took %d bytes, %d were sent", took, sent)
			} else if tc.path == "direct" && 100*took >= sent {
				t.Errorf("coturn took %d bytes of a direct link", took)
			}
		})
	}
}
