package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// flows are UDP payload bytes between pairs of addresses, by direction.
type flows map[[2]string]int64

func (f flows) between(a, b string) int64 { return min(f[[2]string{a, b}], f[[2]string{b, a}]) }

// either is what went either way, between one address and any other.
func (f flows) either(a string) (n int64) {
	for ends, bytes := range f {
		if ends[0] == a || ends[1] == a {
			n += bytes
		}
	}
	return n
}

// watchQuiet is watch, up to six times, until no path was suspected or changed
// meanwhile: an agent that believes its path dead, on a machine that stood still for
// a moment, sends over two.
func (s *standing) watchQuiet(agents []*process, f func()) (seen flows) {
	s.t.Helper()
	troubles := func() (n int) {
		for _, p := range agents {
			n += strings.Count(p.stdout.String(), `"event":"path.suspected"`) + strings.Count(p.stdout.String(), `"event":"path.changed"`)
		}
		return n
	}
	for range 6 {
		before := troubles()
		if seen = s.watch(f); troubles() == before {
			break
		}
		s.t.Log("a path was in doubt meanwhile; once more")
	}
	return seen
}

// watch runs tcpdump in the core of the lab, at the line to site A, while f runs.
// The core is nobody's: it knows nothing of relays, links and mappings.
func (s *standing) watch(f func()) flows {
	s.t.Helper()
	p := s.exec("core", "tcpdump", "-l", "-n", "-q", "-Z", "root", "-B", "32768", "-i", "to-nat-a", "udp")
	p.await(s.t, p.stderr, "listening on")
	f()
	// tcpdump forgets what it has not read when it is interrupted, so the last
	// packet is one that it has to show first.
	s.must("core", "bash", "-c", "echo >/dev/udp/"+publicA+"/9")
	p.await(s.t, p.stdout, `> `+regexp.QuoteMeta(publicA)+`\.9: UDP`)
	p.interruptInside(s.t)
	if m := p.await(s.t, p.stderr, `(\d+) packets? dropped by kernel`); m[1] != "0" {
		s.t.Fatalf("tcpdump has missed %s packets", m[1])
	}
	return parseTCPDump(p.stdout.String())
}

// tcpdumpLine is what `tcpdump -nq` prints of a UDP packet. The rest of one that
// came in IP fragments has no length, and is not counted.
var tcpdumpLine = regexp.MustCompile(`(?m) IP (\d+\.\d+\.\d+\.\d+)\.\d+ > (\d+\.\d+\.\d+\.\d+)\.\d+: UDP, length (\d+)$`)

func parseTCPDump(text string) flows {
	f := flows{}
	for _, m := range tcpdumpLine.FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseInt(m[3], 10, 64)
		if err == nil {
			f[[2]string{m[1], m[2]}] += n
		}
	}
	return f
}

func TestParseTCPDump(t *testing.T) {
	text := `07:40:27.1 IP 198.51.100.2.22334 > 192.0.2.3.3479: UDP, length 28
07:40:27.2 IP 192.0.2.3.3479 > 198.51.100.2.22334: UDP, length 64
07:40:27.2 IP 192.0.2.3.3478 > 198.51.100.2.22334: UDP, length 64
07:40:27.3 IP 198.51.100.2 > 192.0.2.2: ip-proto-17
07:40:27.4 IP 198.51.100.2.22334 > 203.0.113.2.1: UDP, length 1452
`
	f := parseTCPDump(text)
	if got := f.between("198.51.100.2", "192.0.2.3"); got != 28 {
		t.Errorf("between the two: %d", got)
	}
	if got := f.either("203.0.113.2"); got != 1452 {
		t.Errorf("of the other router: %d", got)
	}
	if len(f) != 3 {
		t.Errorf("flows %v", f)
	}
}

// crossedDirectly fails the test unless payload went both ways from router to
// router, and next to nothing to or from the relay.
func (f flows) crossedDirectly(t *testing.T, relay string) {
	t.Helper()
	t.Logf("seen in the core: %d bytes between the routers, %d to and from the relay", f.between(publicA, publicB), f.either(relay))
	if got := f.between(publicA, publicB); got < fileBytes {
		t.Errorf("%d bytes each way went between the routers, %d were sent: %v", got, fileBytes, f)
	}
	if got := f.either(relay); 100*got >= fileBytes {
		t.Errorf("%d bytes went to or from the relay: %v", got, f)
	}
}

// crossedRelay fails the test unless payload went both ways between router A and
// the relay, and next to nothing to or from the other router.
func (f flows) crossedRelay(t *testing.T, relay string) {
	t.Helper()
	t.Logf("seen in the core: %d bytes between router A and the relay, %d to and from router B", f.between(publicA, relay), f.either(publicB))
	if got := f.between(publicA, relay); got < fileBytes {
		t.Errorf("%d bytes each way went between router A and the relay, %d were sent: %v", got, fileBytes, f)
	}
	if got := f.either(publicB); 100*got >= fileBytes {
		t.Errorf("%d bytes went to or from the other router: %v", got, f)
	}
}

// filePort is a port of peer-b's loopback that peer-a reaches through the link.
const filePort = 8000

// What the lab calls direct and relayed, as tcpdump sees it from the middle.
func TestPathsSeenFromOutside(t *testing.T) {
	needLab(t)
	needProgram(t, "tcpdump", "tcpdump")
	needProgram(t, "curl", "curl")
	for _, tc := range []struct {
		a, b, path string
		check      func(flows, *testing.T, string)
	}{
		{"port-restricted", "port-restricted", "direct", flows.crossedDirectly},
		{"symmetric", "port-restricted", "relayed", flows.crossedRelay},
	} {
		t.Run(tc.path, func(t *testing.T) {
			s := stand(t, tc.a, tc.b)
			s.serveFiles(filePort)
			a, b := s.agents([]int{filePort})
			onPath(t, a, tc.path)
			onPath(t, b, tc.path)
			seen := s.watchQuiet([]*process{a, b}, func() {
				s.fetchWithCurl(filePort)
				s.sendWithCurl(filePort)
			})
			tc.check(seen, t, ourRelay)
			if code := a.interruptInside(t); code != 0 {
				t.Errorf("connect ended with %d:\n%s", code, strings.TrimSpace(a.stderr.String()))
			}
		})
	}
}
