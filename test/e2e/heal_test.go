package e2e

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A split is a lab with both halves of a signal server as processes of their own in
// its public node, so that each can be restarted.
type split struct {
	*standing
	url       string
	relay     *process
	signaling *process
}

const splitTURN = "192.0.2.2:4478"

// startSplit makes a lab and starts the two halves in it.
func startSplit(t *testing.T, natA, natB string) *split {
	t.Helper()
	s := &split{standing: stand(t, natA, natB)}
	s.write("secret", "a secret of this test\n")
	s.write("token", "a-token-of-this-test\n")
	s.startRelay()
	s.startSignaling()
	return s
}

// startRelay starts the half that carries packets.
func (s *split) startRelay() {
	s.t.Helper()
	s.relay = s.exec("signal", "signal", "--only", "relay", "--public-ip", "192.0.2.2", "--turn-listen", ":4478",
		"--turn-secret-file", s.file("secret"), "--allow-peer", "192.0.2.0/24", "--allow-peer", "198.51.100.0/24", "--allow-peer", "203.0.113.0/24")
	s.relay.await(s.t, s.relay.stderr, `serving turn:\S+transport=tcp`)
}

// startSignaling starts the half that may go and come.
func (s *split) startSignaling() {
	s.t.Helper()
	s.signaling = s.exec("signal", "sh", "-c", `echo $$ > "$0"; exec "$@"`, s.file("signaling.pid"),
		programs.path(s.t, "signal"), "--only", "signaling", "--public-ip", "192.0.2.2", "--listen", ":9080",
		"--turn-secret-file", s.file("secret"), "--token-file", s.file("token"),
		"--turn-uri", "turn:"+splitTURN+"?transport=udp", "--turn-uri", "turn:"+splitTURN+"?transport=tcp",
		"--stun-uri", "stun:"+splitTURN, "--stun-uri", "stun:192.0.2.2:4479")
	s.url = s.signaling.await(s.t, s.signaling.stdout, `export P2PAGENT_SIGNAL=(\S+)\n`)[1]
}

// link pairs the two peers and keeps a link with one forward.
func (s *split) link(listen, target string) {
	s.t.Helper()
	b := s.exec("peer-b", "p2pagent", "listen", "--signal", s.url, "--name", "b", "--pair", "--allow", target, "--trace", s.file("b.jsonl"), "-v")
	code := b.await(s.t, b.stdout, `(\d+-\w+-\w+-\w+)\n`)[1]
	a := s.exec("peer-a", "p2pagent", "connect", code, "--signal", s.url, "--name", "a", "--as", "b", "-L", listen+":"+target, "--trace", s.file("a.jsonl"), "-v")
	a.await(s.t, a.stderr, `b: direct path`)
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("peer-a:\n%s\npeer-b:\n%s", a.stderr, b.stderr)
		}
	})
}

// stream starts one of the stream programs in a node.
func (s *standing) stream(node, role, address string, rate int, lasts time.Duration) *process {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p := s.exec(node, "env", envStream+"="+role, envAddress+"="+address, envRate+"="+strconv.Itoa(rate), envLasts+"="+lasts.String(),
		self, "-test.run=^TestStreamProgram$", "-test.timeout=30m")
	p.await(s.t, p.stdout, map[string]string{"send": "sending", "receive": "receiving"}[role])
	return p
}

// report waits for a stream program's end.
func (s *standing) report(p *process, atMost time.Duration) (r streamReport) {
	s.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(atMost):
		s.t.Fatalf("%s has not ended within %v", p.name, atMost)
	}
	line := p.await(s.t, p.stdout, `report (.*)\n`)[1]
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		s.t.Fatal(err)
	}
	if r.Err != "" {
		s.t.Fatalf("%s: %s", p.name, r.Err)
	}
	return r
}

// moves lists the path changes that a trace of the lab has recorded so far.
func (s *standing) moves(name string) []trace.Record {
	s.t.Helper()
	return movesIn(s.t, s.file(name))
}

func movesIn(t *testing.T, file string) (out []trace.Record) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r, err := range trace.Read(f) {
		if err != nil {
			continue // the last line may be half written
		}
		if _, ok := r.Event.(trace.PathChanged); ok {
			out = append(out, r)
		}
	}
	return out
}

// movedTo finds the first move to a kind of path after a time.
func movedTo(moves []trace.Record, kind string, after time.Time) (time.Time, bool) {
	for _, r := range moves {
		if e := r.Event.(trace.PathChanged); e.To != nil && e.To.Kind == kind && r.Time.After(after) {
			return r.Time, true
		}
	}
	return time.Time{}, false
}

// longest returns the longest gap that ended after one time and began before
// another: one that lasts beyond that counts as a whole.
func longest(gaps []gap, from, to time.Time) (d time.Duration) {
	for _, g := range gaps {
		if g.At.After(from) && g.At.Add(-g.NS).Before(to) {
			d = max(d, g.NS)
		}
	}
	return d
}

// The bars of the issue.
const (
	flowsAgain  = 5 * time.Second  // data over the relay after the direct path died
	directAgain = 65 * time.Second // after the direct path healed
)

// A transfer outlives the death of its direct path, for 20 s, and a restart of
// the signaling half meanwhile; not a byte is lost.
func TestTransferSurvivesBlackout(t *testing.T) {
	needLab(t)
	needFull(t, "takes 150 s")
	s := startSplit(t, "port-restricted", "port-restricted")
	s.link("127.0.0.1:7000", "127.0.0.1:7001")
	receiver := s.stream("peer-b", "receive", "127.0.0.1:7001", 0, 0)
	sender := s.stream("peer-a", "send", "127.0.0.1:7000", 1<<20, 150*time.Second)
	time.Sleep(10 * time.Second) // of undisturbed transfer

	cut := time.Now()
	for _, dir := range []string{"-s", "-d"} {
		s.must("nat-a", "iptables", "-I", "FORWARD", "1", "-p", "udp", dir, publicB, "-j", "DROP")
	}
	time.Sleep(5 * time.Second)
	s.must("signal", "sh", "-c", `kill -9 $(cat "$0")`, s.file("signaling.pid"))
	<-s.signaling.ended
	time.Sleep(5 * time.Second)
	s.startSignaling()
	time.Sleep(time.Until(cut.Add(20 * time.Second)))
	for _, dir := range []string{"-s", "-d"} {
		s.must("nat-a", "iptables", "-D", "FORWARD", "-p", "udp", dir, publicB, "-j", "DROP")
	}
	healed := time.Now()

	sent, got := s.report(sender, 5*time.Minute), s.report(receiver, time.Minute)
	if sent.SHA256 != got.SHA256 || sent.Bytes != got.Bytes {
		t.Errorf("sent %d bytes %s, received %d bytes %s", sent.Bytes, sent.SHA256, got.Bytes, got.SHA256)
	}
	pause := longest(got.Gaps, cut, healed)
	if pause > flowsAgain {
		t.Errorf("data stood still for %v after the cut, at most %v allowed", pause, flowsAgain)
	}
	moves := s.moves("a.jsonl")
	if _, ok := movedTo(moves, "relayed", cut); !ok {
		t.Error("the sender never moved to the relay")
	}
	at, ok := movedTo(moves, "direct", healed)
	if !ok || at.Sub(healed) > directAgain {
		t.Errorf("direct again %v after the heal (%v), at most %v allowed", at.Sub(healed), ok, directAgain)
	}
	t.Logf("longest pause after the cut %v; direct again %v after the heal", pause, at.Sub(healed).Round(time.Millisecond))
}

// reboot makes a router forget its flows and give out other ports than before:
// a range outside of that from which the peers' own ports come, since
// netfilter keeps a port that is in the range.
func (s *standing) reboot(router, public string, ports string) {
	s.t.Helper()
	rules := s.must(router, "iptables", "-t", "nat", "-S", "POSTROUTING")
	for _, r := range strings.Split(rules, "\n") {
		if strings.HasPrefix(r, "-A POSTROUTING") {
			s.must(router, append([]string{"iptables", "-t", "nat", "-D"}, strings.Fields(strings.TrimPrefix(r, "-A "))...)...)
		}
	}
	for _, proto := range []string{"udp", "tcp"} {
		s.must(router, "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-p", proto, "-j", "SNAT", "--to-source", public+":"+ports)
	}
	s.must(router, "conntrack", "-F")
}

// Both routers reboot at once: every mapping is gone and comes back with other
// ports, the relay's and the signaling server's too.
func TestTransferSurvivesReboots(t *testing.T) {
	needLab(t)
	needFull(t, "takes 150 s")
	s := startSplit(t, "port-restricted", "port-restricted")
	s.link("127.0.0.1:7000", "127.0.0.1:7001")
	receiver := s.stream("peer-b", "receive", "127.0.0.1:7001", 0, 0)
	sender := s.stream("peer-a", "send", "127.0.0.1:7000", 1<<20, 150*time.Second)
	time.Sleep(10 * time.Second) // of undisturbed transfer
	rebooted := time.Now()
	s.reboot("nat-a", publicA, "50000-54999")
	s.reboot("nat-b", publicB, "55000-59999")
	time.Sleep(20 * time.Second)
	s.must("signal", "sh", "-c", `kill -9 $(cat "$0")`, s.file("signaling.pid"))
	<-s.signaling.ended
	time.Sleep(5 * time.Second)
	s.startSignaling()

	sent, got := s.report(sender, 5*time.Minute), s.report(receiver, time.Minute)
	if sent.SHA256 != got.SHA256 || sent.Bytes != got.Bytes {
		t.Errorf("sent %d bytes %s, received %d bytes %s", sent.Bytes, sent.SHA256, got.Bytes, got.SHA256)
	}
	pause := longest(got.Gaps, rebooted, time.Now())
	if pause > flowsAgain {
		t.Errorf("data stood still for %v after the reboots, at most %v allowed", pause, flowsAgain)
	}
	at, ok := movedTo(s.moves("a.jsonl"), "direct", rebooted)
	if !ok || at.Sub(rebooted) > directAgain {
		t.Errorf("direct again %v after the reboots (%v), at most %v allowed", at.Sub(rebooted), ok, directAgain)
	}
	t.Logf("longest pause after the reboots %v; direct again after %v", pause, at.Sub(rebooted).Round(time.Millisecond))
}
