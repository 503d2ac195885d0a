package candidates

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openSocket opens a socket on loopback and serves it until the test ends.
func openSocket(t *testing.T) *udpsock.Socket {
	t.Helper()
	s, err := udpsock.Listen(udpsock.Config{Network: "udp4", Addr: ap("127.0.0.1:0"), BufferBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(context.Background(), newWatcher())
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return s
}

// TestProbe measures simulated NATs through real sockets and compares with what
// the table of kinds says of them.
func TestProbe(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			s := simulate(t, model{none: !k.Translated, blocked: !k.UDP, mapping: k.Mapping, filtering: k.Filtering, hairpin: k.Filtering == EndpointIndependent})
			hairpin := "" // cannot be known
			if k.UDP && k.Translated && k.Mapping == EndpointIndependent {
				hairpin = text(ptr(k.Filtering == EndpointIndependent))
			}
			n := probed(t, s, func(n NAT) bool {
				return is(n.UDP, k.UDP) && n.Mapping == k.Mapping && n.Filtering == k.Filtering &&
					(n.Hairpin == nil) == (hairpin == "") && (hairpin == "" || text(n.Hairpin) == hairpin)
			})
			if !k.UDP {
				return
			}
			if !is(n.Translated, k.Translated) {
				t.Errorf("translated %s, want %v", text(n.Translated), k.Translated)
			}
			if want := 1 + 3*b2i(k.Mapping == AddressAndPortDependent); len(n.Mapped) != want {
				t.Errorf("mapped %v, want %d", n.Mapped, want)
			}
		})
	}
}

// probed measures what ok accepts. A machine that stands still for most of a second
// makes an answer look like none: then it is measured again.
func probed(t *testing.T, s *simulation, ok func(NAT) bool) (n NAT) {
	t.Helper()
	for range 4 {
		start := time.Now()
		var err error
		if n, err = Probe(t.Context(), openSocket(t), s.servers()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, varies %s, hairpin %s, in %v", text(n), text(n.Varies), text(n.Hairpin), time.Since(start).Round(time.Millisecond))
		if ok(n) {
			return n
		}
	}
	t.Fatal("none of these is what it should be")
	return n
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestProbePartial gives servers that can tell only part of it.
func TestProbePartial(t *testing.T) {
	for _, tt := range []struct {
		name               string
		m                  model
		mapping, filtering Dependence
		varies             *bool
	}{
		{"one address, steady", model{single: true, mapping: EndpointIndependent, filtering: AddressAndPortDependent},
			"", "", ptr(false)},
		{"one address, varying", model{single: true, mapping: AddressAndPortDependent, filtering: AddressAndPortDependent},
			AddressAndPortDependent, "", ptr(true)},
		{"address-dependent mapping", model{mapping: AddressDependent, filtering: AddressDependent},
			AddressDependent, AddressDependent, ptr(true)},
		{"server that ignores CHANGE-REQUEST", model{deaf: true, mapping: EndpointIndependent, filtering: EndpointIndependent},
			EndpointIndependent, "", ptr(false)},
		{"server that only answers with errors", model{refuse: true}, "", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := simulate(t, tt.m)
			probed(t, s, func(n NAT) bool {
				return is(n.UDP, true) && n.Mapping == tt.mapping && n.Filtering == tt.filtering && text(n.Varies) == text(tt.varies)
			})
		})
	}
}

func TestProbeErrors(t *testing.T) {
	sock := openSocket(t)
	if _, err := Probe(t.Context(), sock, []netip.AddrPort{ap("[2001:db8::1]:3478")}); err == nil {
		t.Error("no error for servers of another family only")
	}
	s := simulate(t, model{blocked: true})
	cause := errors.New("user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	n, err := Probe(ctx, sock, s.servers())
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause of the context", err)
	}
	if n.UDP != nil {
		t.Errorf("UDP %v after an interrupted probe, want unknown", *n.UDP)
	}
}

func TestGather(t *testing.T) {
	s := simulate(t, model{mapping: EndpointIndependent, filtering: AddressAndPortDependent})
	servers := []netip.AddrPort{s.addr(0, 0), s.addr(1, 0), ap("[2001:db8::1]:3478")}
	sock := openSocket(t)
	var found []Candidate
	var events []string
	rec := trace.New("test", trace.SinkFunc(func(r trace.Record) { events = append(events, r.Event.EventName()) }))
	g, err := Gather(t.Context(), sock, servers, GatherOptions{Found: func(c Candidate) { found = append(found, c) }, Trace: rec})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Candidates) != 2 || g.Candidates[0] != (Candidate{Type: Host, Addr: sock.LocalAddr()}) || g.Candidates[1].Type != ServerReflexive {
		t.Fatalf("candidates %v", g.Candidates)
	}
	if !slices.Equal(found, g.Candidates) {
		t.Errorf("told of %v while gathering, returned %v", found, g.Candidates)
	}
	if g.NAT.Mapping != EndpointIndependent || g.NAT.Filtering != "" || g.RTT <= 0 {
		t.Errorf("NAT %s, RTT %v", text(g.NAT), g.RTT)
	}
	if want := []string{"candidate", "candidate", "nat.measured"}; !slices.Equal(events, want) {
		t.Errorf("traced %v, want %v", events, want)
	}
}

// TestGatherSilentServer asks a server that answers and one that does not, and
// must not wait for the latter as long as it would for the only one.
func TestGatherSilentServer(t *testing.T) {
	s := simulate(t, model{mapping: EndpointIndependent})
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	g, err := Gather(t.Context(), openSocket(t), append(s.servers(), silent.LocalAddr().(*net.UDPAddr).AddrPort()), GatherOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Candidates) != 2 || !is(g.NAT.UDP, true) || g.NAT.Mapping != "" {
		t.Fatalf("%v, %s", g.Candidates, text(g.NAT))
	}
}

func TestGatherBlocked(t *testing.T) {
	s := simulate(t, model{blocked: true})
	g, err := Gather(t.Context(), openSocket(t), s.servers(), GatherOptions{})
	if err != nil || !is(g.NAT.UDP, false) || len(g.Candidates) != 1 || g.RTT != 0 {
		t.Fatalf("%v, %s, %v, %v", g.Candidates, text(g.NAT), g.RTT, err)
	}
}

// One server that is down is no network without UDP.
func TestOneSilentServer(t *testing.T) {
	s := simulate(t, model{blocked: true, single: true})
	n, err := Probe(t.Context(), openSocket(t), s.servers())
	if err != nil || n.UDP != nil || !n.Unanswered() || n.Name() != "" || !slices.Equal(n.Silent, s.servers()) {
		t.Errorf("probed %s, %v", text(n), err)
	}
	g, err := Gather(t.Context(), openSocket(t), s.servers(), GatherOptions{})
	if err != nil || g.NAT.UDP != nil || !g.NAT.Unanswered() {
		t.Errorf("gathered %s, %v", text(g.NAT), err)
	}
}

func TestGatherWildcard(t *testing.T) {
	sock, err := udpsock.Listen(udpsock.Config{Network: "udp4", BufferBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	g, err := Gather(t.Context(), sock, nil, GatherOptions{})
	if err != nil || g.NAT.UDP != nil {
		t.Fatalf("%s, %v", text(g.NAT), err)
	}
	for i, c := range g.Candidates {
		if c.Type != Host || c.Addr.Port() != sock.LocalAddr().Port() || c.Addr.Addr().IsUnspecified() {
			t.Errorf("candidate %v", c)
		}
		if src := defaultSource(true); i == 0 && src.IsValid() && c.Addr.Addr() != src {
			t.Errorf("first candidate %v, want the source of the default route, %v", c, src)
		}
	}
}

func TestRetrySchedule(t *testing.T) {
	for _, rtt := range []time.Duration{0, time.Millisecond, 40 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond, 5 * time.Second} {
		first, sends := retrySchedule(rtt)
		total, pause := time.Duration(0), first
		for range sends {
			total += pause
			pause *= 2
		}
		if sends < 2 || total > 1500*time.Millisecond || total < min(2*rtt, time.Second) {
			t.Errorf("rtt %v: %d sends from %v, %v in all", rtt, sends, first, total)
		}
	}
}

func TestPlausibleOther(t *testing.T) {
	for _, tt := range []struct {
		server, other string
		want          bool
	}{
		{"192.0.2.1:3478", "192.0.2.2:3479", true},
		{"[2001:db8::1]:3478", "[2001:db8::2]:3479", true},
		{"127.0.0.2:3478", "127.0.0.3:3479", true},
		{"10.0.0.1:3478", "10.0.0.2:3479", true},
		{"10.0.0.1:3478", "192.0.2.2:3479", true},

		{"192.0.2.1:3478", "192.0.2.1:3479", false},
		{"192.0.2.1:3478", "192.0.2.2:3478", false},
		{"192.0.2.1:3478", "10.0.0.1:3479", false},
		{"192.0.2.1:3478", "127.0.0.1:3479", false},
		{"192.0.2.1:3478", "169.254.169.254:8080", false},
		{"192.0.2.1:3478", "192.0.2.2:53", false},
		{"192.0.2.1:3478", "[2001:db8::2]:3479", false},
		{"127.0.0.1:3478", "192.0.2.2:3479", false},
	} {
		if got := plausibleOther(ap(tt.server), ap(tt.other)); got != tt.want {
			t.Errorf("%s names %s: %v, want %v", tt.server, tt.other, got, tt.want)
		}
	}
}
