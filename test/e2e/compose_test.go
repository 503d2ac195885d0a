package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// composed is the lab of docker-compose.yml, under a project name of its own. Its
// networks have fixed addresses, so there is one on a machine at a time.
type composed struct {
	argv []string // docker compose, or docker-compose
	env  []string // settings of the lab
}

const (
	composeProject = "p2pagent-e2e"
	// composeBytes is what is downloaded to prove a path.
	composeBytes = 16 << 20
	// composePatience is how long one step of compose may take on a loaded machine.
	composePatience = 2 * time.Minute
	buildPatience   = 30 * time.Minute
)

// Addresses of docker-compose.yml.
const (
	composeNatA   = "198.51.100.2"
	composeNatB   = "198.51.100.34"
	composeSignal = "198.51.100.66"
	composeCoturn = "198.51.100.68"
)

// TestCompose drives the lab in containers on a real engine, and judges it by what
// the relay and the routers have counted, and by exit codes.
func TestCompose(t *testing.T) {
	argv := needCompose(t)
	builder := composed{argv, []string{"COMPOSE_PROFILES=coturn"}}
	if out, err := builder.run(buildPatience, "build"); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, tt := range []struct{ a, b, profile string }{
		{"port-restricted", "port-restricted", ""},
		{"full-cone", "symmetric", ""},
		{"symmetric", "port-restricted", ""},
		{"symmetric", "symmetric", ""},
		{"port-restricted", "udp-blocked", ""},
		{"symmetric", "symmetric", "coturn"},
	} {
		name := strings.Join(strings.Fields(tt.a+" "+tt.b+" "+tt.profile), "-")
		t.Run(name, func(t *testing.T) {
			c := composed{argv, []string{"NAT_A=" + tt.a, "NAT_B=" + tt.b, "COMPOSE_PROFILES=" + tt.profile, "STAY=yes"}}
			c.up(t)
			relay := composeSignal
			if tt.profile == "coturn" {
				relay = composeCoturn
			}
			want := expected(labResult{A: tt.a, B: tt.b})
			c.awaitPath(t, want)
			var err error
			for range 3 { // again only when an agent has doubted its path meanwhile
				doubts := c.doubts(t)
				before := c.count(t, relay)
				c.must(t, "exec", "-T", "peer-a", "fetch", strconv.Itoa(composeBytes))
				got := c.count(t, relay).since(before)
				t.Logf("for %d bytes of payload: %+v", composeBytes, got)
				if err = got.check(want, tt.profile == ""); err == nil || c.doubts(t) == doubts {
					break
				}
			}
			if err != nil {
				t.Error(err)
			}
			c.stopsCleanly(t)
		})
	}
	t.Run("only-way-out", func(t *testing.T) { testOnlyWayOut(t, argv) })
	t.Run("story", func(t *testing.T) { testStory(t, argv) })
	t.Run("require-direct", func(t *testing.T) { testRequireDirect(t, argv) })
}

// needCompose finds the compose command of a working engine.
func needCompose(t *testing.T) []string {
	t.Helper()
	if os.Getenv("P2PAGENT_COMPOSE") == "" {
		t.Skip("takes minutes and a Docker engine; set P2PAGENT_COMPOSE=1 (make compose-test)")
	}
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("no Docker engine: %v: %s", err, bytes.TrimSpace(out))
	}
	if exec.Command("docker", "compose", "version").Run() == nil {
		return []string{"docker", "compose"}
	}
	if path, err := exec.LookPath("docker-compose"); err == nil {
		return []string{path}
	}
	t.Skip("neither docker compose nor docker-compose is here: apt-get install docker-compose")
	return nil
}

// command is a compose command of the lab.
func (c composed) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := slices.Concat(c.argv, []string{"-p", composeProject}, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), c.env...)
	cmd.WaitDelay = time.Second
	return cmd
}

// run returns what a compose command has printed on stdout; all of it, if it failed.
func (c composed) run(limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var stdout, both bytes.Buffer
	cmd := c.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &both), &both
	if err := cmd.Run(); err != nil {
		return both.String(), err
	}
	return stdout.String(), nil
}

func (c composed) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.run(composePatience, args...)
	if err != nil {
		t.Fatalf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// fresh sees to it that nothing is there from another run, now and when the test ends.
func (c composed) fresh(t *testing.T) {
	t.Helper()
	c.must(t, "down", "-v", "--remove-orphans")
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := c.run(composePatience, "logs", "--no-color")
			t.Logf("logs of the nodes:\n%s", logs)
		}
		c.must(t, "down", "-v", "--remove-orphans")
		leavesNothing(t)
	})
}

// leavesNothing looks for what `down -v` should have removed.
func leavesNothing(t *testing.T) {
	t.Helper()
	for _, list := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}, {"volume", "ls", "-q"}} {
		if out := docker(t, append(list, "--filter", "label=com.docker.compose.project="+composeProject)...); out != "" {
			t.Errorf("down -v has left: docker %s: %s", strings.Join(list, " "), out)
		}
	}
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// up starts the lab and waits until peer-a has told its verdict.
func (c composed) up(t *testing.T) {
	t.Helper()
	c.fresh(t)
	c.must(t, "up", "-d")
	peer := c.container(t, "peer-a")
	deadline := time.Now().Add(composePatience)
	for {
		state := docker(t, "inspect", "--format", "{{.State.Status}} {{.State.Health.Status}} exit code {{.State.ExitCode}}", peer)
		switch {
		case strings.HasPrefix(state, "running healthy"):
			return
		case !strings.HasPrefix(state, "running"), time.Now().After(deadline):
			t.Fatalf("peer-a: %s", state)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// awaitPath waits until both agents have told of a path of that kind.
func (c composed) awaitPath(t *testing.T, kind string) {
	t.Helper()
	deadline := time.Now().Add(composePatience)
	for _, peer := range []string{"peer-a", "peer-b"} {
		for !strings.Contains(c.must(t, "logs", "--no-color", peer), ": "+kind+" path ") {
			if time.Now().After(deadline) {
				t.Fatalf("%s has no %s path", peer, kind)
			}
			time.Sleep(time.Second)
		}
	}
}

// doubts counts what the agents have said of paths: of each move, and of each time
// that one of them sends over two.
func (c composed) doubts(t *testing.T) int {
	t.Helper()
	log := c.must(t, "logs", "--no-color", "peer-a", "peer-b")
	return strings.Count(log, " silent for ") + strings.Count(log, " path ")
}

func (c composed) container(t *testing.T, service string) string {
	t.Helper()
	return strings.TrimSpace(c.must(t, "ps", "-q", service))
}

// stopsCleanly stops the lab. A node that does not end within its four seconds is
// killed, and has another exit code than 0.
func (c composed) stopsCleanly(t *testing.T) {
	t.Helper()
	containers := strings.Fields(c.must(t, "ps", "-q"))
	if len(containers) < 6 {
		t.Errorf("%d nodes are running", len(containers))
	}
	c.must(t, "stop")
	for _, id := range containers {
		state := docker(t, "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.Name}}", id)
		if !strings.HasPrefix(state, "exited 0 ") {
			t.Errorf("after stop: %s", state)
		}
	}
}

// tally is what was counted by those who carry packets.
type tally struct {
	Relay      int64 // payload, by the relay; 0 where it is not ours
	A, B       int64 // between the routers, by each of them
	ARel, BRel int64 // between each router and the relay
}

func (n tally) since(before tally) tally {
	return tally{n.Relay - before.Relay, n.A - before.A, n.B - before.B, n.ARel - before.ARel, n.BRel - before.BRel}
}

// check says what contradicts that composeBytes took a path. What went between the
// routers is next to nothing on the relayed one, and the other way round.
func (n tally) check(path string, relayCounts bool) error {
	little := func(bytes int64) bool { return 100*bytes < composeBytes }
	all := func(bytes int64) bool { return bytes >= composeBytes }
	switch {
	case path == "direct" && !(all(n.A) && all(n.B)):
		return fmt.Errorf("direct, but not seen by both routers: %+v", n)
	case path == "direct" && !(little(n.Relay) && little(n.ARel) && little(n.BRel)):
		return fmt.Errorf("direct, but seen on the relay: %+v", n)
	case path == "relayed" && !(little(n.A) && little(n.B)):
		return fmt.Errorf("relayed, but seen between the routers: %+v", n)
	case path == "relayed" && !(all(n.ARel) && all(n.BRel)):
		return fmt.Errorf("relayed, but not seen between both routers and the relay: %+v", n)
	case path == "relayed" && relayCounts && !all(n.Relay):
		return fmt.Errorf("relayed, but not counted by the relay: %+v", n)
	case path != "direct" && path != "relayed":
		return fmt.Errorf("%s is not expected of any lab", path)
	}
	return nil
}

func TestComposeTally(t *testing.T) {
	const all, some = composeBytes, composeBytes / 2
	for _, tt := range []struct {
		n     tally
		path  string
		relay bool
		ok    bool
	}{
		{tally{A: all, B: all}, "direct", true, true},
		{tally{A: all, B: all, Relay: all, ARel: all, BRel: all}, "direct", true, false},
		{tally{A: all, B: some}, "direct", true, false},
		{tally{A: all, B: all, Relay: some}, "direct", true, false},
		{tally{Relay: all, ARel: all, BRel: all}, "relayed", true, true},
		{tally{ARel: all, BRel: all}, "relayed", true, false},
		{tally{ARel: all, BRel: all}, "relayed", false, true},
		{tally{ARel: all}, "relayed", false, false},
		{tally{A: some, Relay: all, ARel: all, BRel: all}, "relayed", true, false},
		{tally{}, "unproven", true, false},
	} {
		if err := tt.n.check(tt.path, tt.relay); (err == nil) != tt.ok {
			t.Errorf("%s, %+v: %v", tt.path, tt.n, err)
		}
	}
	rows := `ipv4     2 udp      17 28 src=10.1.0.2 dst=198.51.100.34 sport=1 dport=2 packets=3 bytes=400 src=198.51.100.34 dst=198.51.100.2 sport=2 dport=1 packets=1 bytes=50 [ASSURED] mark=0 use=1
ipv4     2 tcp      6 28 ESTABLISHED src=10.1.0.2 dst=198.51.100.3 sport=1 dport=2 packets=3 bytes=7000 src=198.51.100.3 dst=198.51.100.2 sport=2 dport=1 packets=1 bytes=50000 [ASSURED] mark=0 use=1
`
	if n := rowBytes(rows, "198.51.100.34"); n != 450 {
		t.Errorf("%d bytes in the rows of the address", n)
	}
}

// count reads all counters.
func (c composed) count(t *testing.T, relay string) (n tally) {
	t.Helper()
	var stats struct {
		Relay struct {
			Out int64 `json:"client_to_peer_bytes"`
			In  int64 `json:"peer_to_client_bytes"`
		}
	}
	out := c.must(t, "exec", "-T", "signal", "stats")
	if err := json.Unmarshal([]byte(out), &stats); err != nil {
		t.Fatalf("counters of signal: %v: %q", err, out)
	}
	n.Relay = stats.Relay.Out + stats.Relay.In
	for _, r := range []struct {
		router, other string
		direct, relay *int64
	}{{"nat-a", composeNatB, &n.A, &n.ARel}, {"nat-b", composeNatA, &n.B, &n.BRel}} {
		rows := c.must(t, "exec", "-T", r.router, "conntrack", "-L", "-o", "extended")
		*r.direct, *r.relay = rowBytes(rows, r.other), rowBytes(rows, relay)
	}
	return n
}

// rowBytes adds up what the connections with an address have carried, both ways, in
// what `conntrack -L` prints where connections are counted.
func rowBytes(rows, address string) (sum int64) {
	for row := range strings.Lines(rows) {
		fields := strings.Fields(row)
		if !slices.Contains(fields, "src="+address) && !slices.Contains(fields, "dst="+address) {
			continue
		}
		for _, f := range fields {
			if v, ok := strings.CutPrefix(f, "bytes="); ok {
				n, err := strconv.ParseInt(v, 10, 64)
				if err == nil {
					sum += n
				}
			}
		}
	}
	return sum
}

// testOnlyWayOut proves that a peer gets out through its router and nowhere else: not
// over Docker's bridge when it tries to, not by Docker's name server, and not without
// the router. And that the programs could not change that.
func testOnlyWayOut(t *testing.T, argv []string) {
	c := composed{argv, []string{"NAT_A=port-restricted", "NAT_B=port-restricted", "STAY=yes"}}
	c.up(t)
	reaches := func(peer, address, seconds string) error {
		_, err := c.run(composePatience, "exec", "-T", peer, "timeout", seconds, "bash", "-c", "exec 3<>/dev/tcp/"+address)
		return err
	}
	const web = composeSignal + "/8080"
	host := hostSeenFromBridge(t)
	for _, p := range []struct{ peer, router, bridge string }{
		{"peer-a", "10.1.0.1", "10.1.0.254"},
		{"peer-b", "10.2.0.1", "10.2.0.254"},
	} {
		if err := reaches(p.peer, web, "30"); err != nil {
			t.Fatalf("%s does not reach the signal server through its router: %v", p.peer, err)
		}
		if out, err := c.run(composePatience, "exec", "-T", "-u", "p2pagent", p.peer, "ip", "route", "replace", "default", "via", p.bridge); err == nil {
			t.Errorf("%s: its agent may change the route: %s", p.peer, out)
		}
		c.must(t, "exec", "-T", p.peer, "ip", "route", "del", "unreachable", p.bridge)
		c.must(t, "exec", "-T", p.peer, "ip", "route", "replace", "default", "via", p.bridge)
		if reaches(p.peer, web, "3") == nil {
			t.Errorf("%s reaches the signal server over Docker's bridge", p.peer)
		}
		if reaches(p.peer, host, "3") == nil {
			t.Errorf("%s reaches this machine over Docker's bridge", p.peer)
		}
		c.must(t, "exec", "-T", p.peer, "ip", "route", "replace", "default", "via", p.router)
		if err := reaches(p.peer, web, "30"); err != nil {
			t.Errorf("%s, its route as it was: %v", p.peer, err)
		}

		const name = "example.com"
		if _, err := net.DefaultResolver.LookupHost(t.Context(), name); err != nil {
			t.Logf("names are not tried: this machine knows none: %v", err)
		} else if out, err := c.run(composePatience, "exec", "-T", p.peer, "getent", "hosts", name); err == nil {
			t.Errorf("%s resolves %s: %s", p.peer, name, out)
		}
	}
	for _, node := range []string{"peer-a", "peer-b", "signal"} {
		status := c.must(t, "exec", "-T", node, "grep", "-E", "^(Uid|CapEff|CapPrm|NoNewPrivs)", "/proc/1/status")
		if !strings.Contains(status, "Uid:\t10001\t10001") || strings.Count(status, "\t0000000000000000") != 2 || !strings.Contains(status, "NoNewPrivs:\t1") {
			t.Errorf("the program of %s has privileges:\n%s", node, status)
		}
	}
	for _, id := range strings.Fields(c.must(t, "ps", "-q")) {
		if out := docker(t, "inspect", "--format", "{{.HostConfig.Privileged}}", id); out != "false" {
			t.Errorf("container %s is privileged: %s", id, out)
		}
	}
	c.must(t, "stop", "nat-a")
	if reaches("peer-a", web, "3") == nil {
		t.Error("peer-a reaches the signal server without its router")
	}
}

// hostSeenFromBridge is a listener of this machine, ADDRESS/PORT, that an ordinary
// container does reach.
func hostSeenFromBridge(t *testing.T) string {
	t.Helper()
	route := strings.Fields(docker(t, "run", "--rm", "--entrypoint", "ip", "p2pagent/peer", "-4", "route", "show", "default"))
	if len(route) < 3 {
		t.Fatalf("an ordinary container has no way out: %q", route)
	}
	ln, err := net.Listen("tcp4", net.JoinHostPort(route[2], "0")) // default via ADDRESS
	if err != nil {
		t.Fatalf("the engine has to run on this machine: %v", err)
	}
	t.Cleanup(func() { ln.Close() }) // connections wait in its queue, and that is enough
	host := strings.Replace(ln.Addr().String(), ":", "/", 1)
	docker(t, "run", "--rm", "--entrypoint", "timeout", "p2pagent/peer", "10", "bash", "-c", "exec 3<>/dev/tcp/"+host)
	return host
}

// testStory reads what a user sees.
func testStory(t *testing.T, argv []string) {
	c := composed{argv, []string{"NAT_A=address-restricted", "NAT_B=none"}}
	c.fresh(t)
	out, err := c.run(composePatience, "up", "--no-color", "--abort-on-container-exit", "--exit-code-from", "peer-a")
	if err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	out = c.must(t, "logs", "--no-color")
	for _, want := range []string{
		"who is where",
		"router with address-restricted", "router with none",
		"NAT          address-restricted", "NAT          none",
		"paired with peer-b", "paired with peer-a",
		" on " + composeSignal + ":3478 over udp",
		"peer-b: direct path 0.0.0.0:", " <-> 198.51.100.162:",
		"bytes came over the -L, each the right one",
		"direct: packets go from peer to peer",
		"verdict: direct between address-restricted and none",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the story has no %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// testRequireDirect sees the exit code of a run that must not be relayed and cannot be
// anything else.
func testRequireDirect(t *testing.T, argv []string) {
	c := composed{argv, []string{"NAT_A=symmetric", "NAT_B=symmetric", "REQUIRE=direct", "TIMEOUT=20s"}}
	c.fresh(t)
	out, err := c.run(composePatience, "up", "--no-color", "--abort-on-container-exit", "--exit-code-from", "peer-a")
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 3 {
		t.Errorf("up ended with %v, expected exit code 3\n%s", err, out)
	}
	if n := strings.Count(out, "bytes came over"); n != 0 {
		t.Errorf("payload went through a link that is not direct:\n%s", out)
	}
}
