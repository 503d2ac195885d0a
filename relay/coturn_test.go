package relay

import (
	"context"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// These tests run coturn's clients (Debian: coturn) against our server: TURN
// as somebody else understands it.

func coturnTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s of coturn is not installed: %v", name, err)
	}
	return path
}

func runTool(t *testing.T, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, path, args...).CombinedOutput() // the exit code says little
	if ctx.Err() != nil {
		t.Errorf("%s %v: not done after a minute:\n%s", path, args, out)
	}
	return string(out)
}

// coturnRelay is a relay with TLS for coturn's clients. Its policy allows
// nothing: two clients of one relay meet at its own address.
func coturnRelay(t *testing.T) *Server {
	cfg := labConfig()
	cfg.Allow = nil
	cfg.TLS = selfSigned(t)
	return startServer(t, cfg)
}

// portArgs select the transport.
func portArgs(s *Server, transport string) []string {
	switch transport {
	case "tcp":
		return []string{"-t", "-p", strconv.Itoa(int(s.StreamAddr("tcp").Port()))}
	case "tls":
		return []string{"-t", "-S", "-p", strconv.Itoa(int(s.StreamAddr("tls").Port()))}
	}
	return []string{"-p", strconv.Itoa(int(s.UDPAddr().Port()))}
}

var uclientCounts = regexp.MustCompile(`tot_send_msgs=(\d+), tot_recv_msgs=(\d+)\n`)

func TestCoturnClients(t *testing.T) {
	uclient := coturnTool(t, "turnutils_uclient")
	s := coturnRelay(t)
	const clients, messages = 2, 50
	cases := []struct {
		name, transport string
		args            []string
		sessions        int // of a client: without -c it has RTCP as well
	}{
		{"channels over UDP", "udp", []string{"-c"}, 1},
		{"indications over UDP", "udp", []string{"-c", "-s"}, 1},
		{"with RTCP over UDP", "udp", nil, 2},
		{"channels over TCP", "tcp", []string{"-c"}, 1},
		{"indications over TCP", "tcp", []string{"-c", "-s"}, 1},
		{"channels over TLS", "tls", []string{"-c"}, 1},
		{"indications over TLS", "tls", []string{"-c", "-s"}, 1},
	}
	// They mostly wait for their own timers, so they run at once.
	outputs := make([]chan string, len(cases))
	for i, tc := range cases {
		args := append(portArgs(s, tc.transport), tc.args...)
		args = append(args, "-y", "-W", string(testSecret), "-u", tc.name, "-l", "171",
			"-m", strconv.Itoa(clients), "-n", strconv.Itoa(messages), "127.0.0.1")
		outputs[i] = make(chan string, 1)
		go func() { outputs[i] <- runTool(t, uclient, args...) }()
	}
	for i, tc := range cases {
		out := <-outputs[i]
		t.Run(tc.name, func(t *testing.T) {
			total := strconv.Itoa(clients * messages * tc.sessions)
			counts := uclientCounts.FindStringSubmatch(out)
			if counts == nil || counts[1] != total || counts[2] != total {
				t.Errorf("sent and received %v, want %s each:\n%s", counts, total, out)
			}
			if !strings.Contains(out, "Total lost packets 0 ") {
				t.Errorf("lost packets:\n%s", out)
			}
		})
	}
	const sent = clients * messages * 8
	waitFor(t, "the counters", func() bool {
		st := s.Stats().Relay
		return st.ClientToPeerPackets >= sent && st.ClientToPeerPackets == st.PeerToClientPackets
	})
	if st := s.Stats(); len(st.Refused) != 1 || st.Refused[codeUnauthenticated] == 0 {
		t.Errorf("refused %v, want the first 401 of each only", st.Refused)
	}
}

func TestCoturnClientDenied(t *testing.T) {
	uclient := coturnTool(t, "turnutils_uclient")
	s := coturnRelay(t)
	for _, peer := range []string{"10.0.0.1", "169.254.169.254", "127.0.0.9"} {
		t.Run(peer, func(t *testing.T) {
			out := runTool(t, uclient, append(portArgs(s, "udp"), "-c", "-n", "1", "-W", string(testSecret), "-u", "u", "-e", peer, "127.0.0.1")...)
			if !strings.Contains(out, "403") {
				t.Errorf("no 403:\n%s", out)
			}
		})
	}
	if st := s.Stats(); st.Relay.ClientToPeerPackets != 0 || st.Refused[codeForbidden] == 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestCoturnClientWithWrongSecret(t *testing.T) {
	uclient := coturnTool(t, "turnutils_uclient")
	s := coturnRelay(t)
	out := runTool(t, uclient, append(portArgs(s, "udp"), "-y", "-c", "-n", "1", "-W", "guess", "-u", "u", "127.0.0.1")...)
	if st := s.Stats(); st.AllocationsTotal != 0 || st.Refused[codeUnauthenticated] < 2 || !strings.Contains(out, "Cannot complete Allocation") {
		t.Errorf("stats %+v, output:\n%s", st, out)
	}
}

func TestCoturnStunClient(t *testing.T) {
	stunclient := coturnTool(t, "turnutils_stunclient")
	s := coturnRelay(t)
	out := runTool(t, stunclient, "-p", strconv.Itoa(int(s.UDPAddr().Port())), "127.0.0.1")
	if st := s.Stats(); st.STUN != 1 || !strings.Contains(out, "UDP reflexive addr: 127.0.0.1:") {
		t.Errorf("stats %+v, output:\n%s", st, out)
	}
}

func TestCoturnNATDiscovery(t *testing.T) {
	discover := coturnTool(t, "turnutils_natdiscovery")
	cfg := labConfig()
	cfg.AltIP = netip.MustParseAddr("127.0.0.2")
	s := startServer(t, cfg)
	out := runTool(t, discover, "-m", "-f", "-p", strconv.Itoa(int(s.UDPAddr().Port())), "127.0.0.1")
	for _, want := range []string{"Endpoint Independent Mapping", "Endpoint Independent Filtering"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}
