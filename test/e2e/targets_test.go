package e2e

import (
	"strings"
	"testing"
	"time"
)

// hostsCache is how long Go's resolver keeps what it has read of /etc/hosts.
const hostsCache = 5 * time.Second

// ownHosts runs a program of peer-b with a hosts file of its own and no DNS.
func (s *standing) ownHosts(hosts string, argv ...string) *process {
	s.t.Helper()
	argv[0] = programs.path(s.t, argv[0])
	const mounts = `mount --bind "$0" /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec "$@"`
	return s.exec("peer-b", append([]string{"unshare", "--mount", "sh", "-c", mounts, s.file(hosts)}, argv...)...)
}

// greeter answers each connection to an address in peer-b with a word.
func (s *standing) greeter(address, word string) {
	s.t.Helper()
	ip, port, _ := strings.Cut(address, ":")
	s.exec("peer-b", "socat", "TCP-LISTEN:"+port+",bind="+ip+",fork,reuseaddr", "SYSTEM:echo "+word)
	for deadline := time.Now().Add(patience); s.greeting("peer-b", address) != word; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("nobody says %q at %s within %v", word, address, patience)
		}
	}
}

// greeting is what a client reads there; empty when it is refused.
func (s *standing) greeting(node, address string) string {
	s.t.Helper()
	p := s.exec(node, "socat", "-u", "TCP:"+address, "-")
	p.wait(s.t)
	return strings.TrimSpace(p.stdout.String())
}

// TestNamesOfTargets: a listener starts without DNS, follows a name of its list
// that moves, not further into its network than where the name was, and reaches a
// name whose first address is dead.
func TestNamesOfTargets(t *testing.T) {
	t.Parallel()
	needProgram(t, "socat", "socat")
	s := stand(t, "port-restricted", "port-restricted")
	s.must("peer-b", "ip", "address", "add", "10.2.0.3/24", "dev", "eth0")
	// A network of IPv6 behind a router that is not there any more.
	s.must("peer-b", "sh", "-c", `sysctl -q -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 &&
		ip -6 address add 2a00:1::2/64 dev eth0 nodad &&
		ip -6 neighbour add 2a00:1::1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent &&
		ip -6 route add 2a00:2::/32 via 2a00:1::1`)
	s.greeter("10.2.0.2:9000", "two")
	s.greeter("10.2.0.3:9000", "three")
	s.greeter("127.0.0.1:9000", "loopback")

	s.write("hosts", "")
	b := s.ownHosts("hosts", "p2pagent", "listen", "--name", "b", "--pair", "--trace", s.file("b.jsonl"),
		"--allow", "late.home:9000", "--allow", "moves.home:9000", "--allow", "turns.home:9000", "--allow", "half.home:9000")
	says := func(pattern string) { t.Helper(); b.await(t, b.stderr, pattern) }
	for _, name := range []string{"late", "moves", "turns", "half"} {
		says(name + `\.home does not resolve: .*; it is looked up again`)
	}
	a := s.exec("peer-a", "p2pagent", "connect", b.await(t, b.stdout, `(\d+-\w+-\w+-\w+)\n`)[1], "--name", "a", "--as", "b",
		"-L", "9001:late.home:9000", "-L", "9002:moves.home:9000", "-L", "9003:turns.home:9000", "-L", "9004:half.home:9000")
	a.await(t, a.stderr, "b: session up")
	if got := s.greeting("peer-a", "127.0.0.1:9001"); got != "" {
		t.Errorf("a name without an address answers %q", got)
	}
	a.await(t, a.stderr, `late\.home:9000 is on this side's --allow list, but the name does not resolve here at the moment`)

	s.write("hosts", `10.2.0.2 late.home
10.2.0.2 moves.home
10.2.0.2 turns.home
2a00:2::dead half.home
10.2.0.3 half.home
`)
	for _, name := range []string{"late", "moves", "turns", "half"} {
		says(name + `\.home is .*10\.2\.0`)
	}
	if got := s.greeting("peer-a", "127.0.0.1:9001"); got != "two" {
		t.Errorf("a name that resolves at last answers %q:\n%s", got, a.stderr)
	}
	if got := s.greeting("peer-a", "127.0.0.1:9004"); got != "three" {
		t.Errorf("a name whose first address is dead answers %q:\n%s", got, a.stderr)
	}

	s.write("hosts", `10.2.0.3 moves.home
127.0.0.1 turns.home
`)
	time.Sleep(hostsCache + 100*time.Millisecond)
	if got := s.greeting("peer-a", "127.0.0.1:9002"); got != "three" {
		t.Errorf("a name that moved answers %q:\n%s", got, a.stderr)
	}
	says(`moves\.home has moved to 10\.2\.0\.3 from 10\.2\.0\.2`)
	if got := s.greeting("peer-a", "127.0.0.1:9003"); got != "two" {
		t.Errorf("a name that turned to loopback answers %q", got)
	}
	says(`turns\.home has no address that may be dialed; 127\.0\.0\.1 is not used.*; staying with 10\.2\.0\.2`)
	if code := b.interruptInside(t); code != 0 {
		t.Errorf("the listener ended with %d:\n%s", code, b.stderr)
	}
}
