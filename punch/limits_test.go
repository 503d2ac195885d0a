package punch

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A peer that names a thousand addresses gets few of them checked, at a bounded
// rate, and every one of those in its turn.
func TestThousandCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, udpBlocked)
		m.a.cfg.Candidates = nil
		for i := range 1000 {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i / 250), byte(1 + i%250)}), 7000)
			m.a.cfg.Candidates = append(m.a.cfg.Candidates, candidates.Candidate{Type: candidates.Host, Addr: at})
		}
		more := make(chan candidates.Candidate, 100)
		for i := range 100 {
			more <- candidates.Candidate{Type: candidates.Host, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 9}), uint16(5000+i))}
		}
		m.a.cfg.More = more
		m.a.cfg.Timeout = 5 * time.Second
		_, err := Run(t.Context(), m.a.cfg)
		var no *NoPathError
		if !errors.As(err, &no) || no.Candidates != maxRemote {
			t.Fatalf("%v", err)
		}
		ps := m.a.node.packets()
		t.Logf("%d packets in %s to %d addresses", len(ps), m.a.cfg.Timeout, no.Candidates)
		if got := no.Openers + no.ChecksSent; got != len(ps) {
			t.Errorf("counted %d packets, sent %d", got, len(ps))
		}
		if limit := sendBurst + checkRate*int(m.a.cfg.Timeout/time.Second) + maxRemote; len(ps) > limit {
			t.Errorf("%d packets, limit %d", len(ps), limit)
		}
		for i, p := range ps {
			if j := i + sendBurst + sendRate/10; j < len(ps) && ps[j].at.Sub(p.at) < 100*time.Millisecond {
				t.Fatalf("more than %d packets within 100 ms", sendBurst+sendRate/10)
			}
		}
		checks := map[netip.AddrPort]int{}
		for _, p := range ps {
			checks[p.dst]++
		}
		if len(checks) != maxRemote {
			t.Errorf("%d destinations, want %d", len(checks), maxRemote)
		}
		for dst, n := range checks {
			if n < len(ps)/maxRemote/2 {
				t.Errorf("%s got %d of %d packets: starved", dst, n, len(ps))
			}
		}
		if es := eventsOf[trace.Candidate](m.a.trace); len(es) != maxRefusals {
			t.Errorf("%d refusals recorded, want %d", len(es), maxRefusals)
		}
	})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, udpBlocked)
		for i := range 7 {
			m.a.cfg.Candidates = append(m.a.cfg.Candidates, candidates.Candidate{
				Type: candidates.Host, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 50}), uint16(7000+i))})
		}
		m.a.cfg.Timeout = 35 * time.Second
		_, err := Run(t.Context(), m.a.cfg)
		var no *NoPathError
		if !errors.As(err, &no) || !no.Exhausted {
			t.Fatalf("%v", err)
		}
		if n := len(m.a.node.packets()); n != sendBudget {
			t.Errorf("%d packets, want %d", n, sendBudget)
		}
	})
}

// The right candidate among many dead ones is found soon.
func TestNeedleAmongDeadCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		for _, s := range []*side{m.a, m.b} {
			real := s.cfg.Candidates[0]
			s.cfg.Candidates = nil
			for i := range maxRemote - 1 {
				s.cfg.Candidates = append(s.cfg.Candidates, candidates.Candidate{
					Type: candidates.Host, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 50}), uint16(7000+i))})
			}
			s.cfg.Candidates = append(s.cfg.Candidates, real) // the last to be checked
		}
		m.run(t.Context())
		m.connected(t)
		if m.a.took > time.Second {
			t.Errorf("took %s", m.a.took)
		}
	})
}

// What is not authenticated goes nowhere: not to the agent, not into the list
// of destinations, and it is not answered.
func TestStrangersAreNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		a := newAttempt(m.a.cfg, false, time.Now())
		mux := m.a.node.mux
		c, err := mux.open(a, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		a.enter(checking, time.Time{})
		l, r := m.a.cfg.Local, m.a.cfg.Remote
		stranger := netipAddrPort("192.0.2.77:7777")
		request := func(user, pwd string) []byte {
			return stunmsg.NewRequest(stunmsg.MethodBinding).Username(user).IceControlled(1).Priority(1).Sign([]byte(pwd)).Fingerprint().Bytes()
		}
		for name, b := range map[string][]byte{
			"wrong password": request(l.Ufrag+":"+r.Ufrag, r.Pwd),
			"wrong peer":     request(l.Ufrag+":zzzz", l.Pwd),
			"no peer":        request(l.Ufrag, l.Pwd),
			"other attempt":  request("zzzz:"+r.Ufrag, l.Pwd),
			"unsigned":       stunmsg.NewRequest(stunmsg.MethodBinding).Username(l.Ufrag + ":" + r.Ufrag).Bytes(),
			"answer to nothing": stunmsg.Success(stunmsg.Header{Method: stunmsg.MethodBinding, TransactionID: stunmsg.NewTransactionID()}).
				XORMappedAddress(stranger).Sign([]byte(r.Pwd)).Bytes(),
			"not STUN": []byte("\x00\x01 something of twenty bytes or more"),
		} {
			mux.HandleSTUN(b, stranger)
			if len(c.queue) != 0 {
				t.Fatalf("%s: reached the agent", name)
			}
		}
		if _, ok := a.gate.dests[stranger]; ok || len(m.a.node.packets()) != 0 {
			t.Error("a stranger was learned or answered")
		}
		mux.HandleSTUN(request(l.Ufrag+":"+r.Ufrag, l.Pwd), stranger)
		if len(c.queue) != 1 {
			t.Error("an authenticated request did not reach the agent")
		}
		c.Close()
	})
}

// A response counts only from where the request went, and once.
func TestForgedResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		a := newAttempt(m.a.cfg, false, time.Now())
		mux := m.a.node.mux
		c, err := mux.open(a, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		to := m.a.cfg.Candidates[0]
		if why := a.admit(to); why != "" {
			t.Fatal(why)
		}
		a.enter(checking, time.Time{})
		req := stunmsg.NewRequest(stunmsg.MethodBinding).Username("x")
		h, _ := stunmsg.Parse(req.Bytes())
		mux.write(c, req.Bytes(), to.Addr)
		time.Sleep(30 * time.Millisecond)
		answer := func(pwd string) []byte {
			return stunmsg.Success(h).XORMappedAddress(m.a.node.addr).Sign([]byte(pwd)).Fingerprint().Bytes()
		}
		peer := m.a.cfg.Remote.Pwd
		elsewhere := netip.AddrPortFrom(to.Addr.Addr(), to.Addr.Port()+1)
		for _, step := range []struct {
			what string
			b    []byte
			src  netip.AddrPort
			want int
		}{
			{"wrong password", answer(m.a.cfg.Local.Pwd), to.Addr, 0},
			{"wrong source", answer(peer), elsewhere, 0},
			{"genuine", answer(peer), to.Addr, 1},
			{"again", answer(peer), to.Addr, 1},
		} {
			if mux.HandleSTUN(step.b, step.src); len(c.queue) != step.want {
				t.Errorf("%s: %d packets for the agent, want %d", step.what, len(c.queue), step.want)
			}
		}
		if _, rtt := a.describe(to.Addr); rtt != 30*time.Millisecond {
			t.Errorf("rtt %s, want 30 ms", rtt)
		}
	})
}

// A peer may forge its sources; few of them are learned, and none that the
// caller's filter refuses.
func TestLearnedSourcesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		bad := netipAddrPort("192.168.1.1:5000")
		m.a.cfg.Allow = func(a netip.AddrPort) bool { return a != bad }
		a := newAttempt(m.a.cfg, false, time.Now())
		mux := m.a.node.mux
		c, err := mux.open(a, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from := func(src netip.AddrPort) {
			mux.HandleSTUN(stunmsg.NewRequest(stunmsg.MethodBinding).Username(a.username).
				IceControlled(1).Priority(1).Sign([]byte(a.local.Pwd)).Bytes(), src)
		}
		for _, s := range []string{bad.String(), "127.0.0.1:5000", "224.0.0.1:5000", "0.0.0.0:5000", "169.254.169.254:5000",
			"255.255.255.255:5000", "[ff02::1]:5000", "[fe80::1]:5000", "[::ffff:127.0.0.1]:5000", "192.0.2.1:0"} {
			from(netipAddrPort(s))
		}
		if len(c.queue) != 0 || len(a.gate.dests) != 0 {
			t.Fatalf("learned %v", a.gate.dests)
		}
		for i := range 100 {
			from(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 5000))
		}
		if len(a.gate.dests) != maxLearned {
			t.Errorf("learned %d sources, want %d", len(a.gate.dests), maxLearned)
		}
		if es := eventsOf[trace.Candidate](m.a.trace); len(es) != maxRefusals+maxLearned {
			t.Errorf("%d events, want %d", len(es), maxRefusals+maxLearned)
		}
	})
}

func TestGateAdd(t *testing.T) {
	g := newGate(nil, false, time.Time{})
	for _, tt := range []struct {
		typ  candidates.Type
		addr string
		ok   bool
	}{
		{candidates.Host, "192.0.2.1:5000", true},
		{candidates.ServerReflexive, "192.0.2.1:5000", false}, // named twice
		{candidates.ServerReflexive, "192.0.2.1:5001", true},
		{candidates.Host, "[2001:db8::1]:5000", true},
		{candidates.Relayed, "192.0.2.2:5000", false},
		{"quic", "192.0.2.3:5000", false},
		{candidates.Host, "192.0.2.4:0", false},
		{candidates.Host, "127.0.0.1:5000", false},
		{candidates.Host, "[::1]:5000", false},
		{candidates.Host, "224.0.0.251:5353", false},
		{candidates.Host, "[ff02::fb]:5353", false},
		{candidates.Host, "[::]:5000", false},
	} {
		why := g.add(candidates.Candidate{Type: tt.typ, Addr: netipAddrPort(tt.addr)})
		if (why == "") != tt.ok {
			t.Errorf("%s %s: %q", tt.typ, tt.addr, why)
		}
	}
	if why := g.add(candidates.Candidate{}); why == "" {
		t.Error("empty candidate admitted")
	}
	lo := newGate(nil, true, time.Time{})
	if why := lo.add(candidates.Candidate{Type: candidates.Host, Addr: netipAddrPort("127.0.0.1:5000")}); why != "" {
		t.Errorf("loopback between loopback sockets: %s", why)
	}
}

// A learned address that is announced later keeps one entry, of the announced
// type.
func TestLearnedThenAnnounced(t *testing.T) {
	g := newGate(nil, false, time.Time{})
	at := netipAddrPort("192.0.2.1:5000")
	g.learn(at)
	g.add(candidates.Candidate{Type: candidates.ServerReflexive, Addr: at})
	if d := g.dests[at]; len(g.dests) != 1 || d.typ != candidates.ServerReflexive || !d.heard || g.learned != 0 {
		t.Errorf("%+v, %d learned", d, g.learned)
	}
}

func TestPacer(t *testing.T) {
	start := time.Unix(0, 0)
	p := newPacer(start)
	burst := func(u urgency, now time.Time) (n int) {
		for p.take(u, now) {
			n++
		}
		return n
	}
	for _, step := range []struct {
		u    urgency
		at   time.Duration
		want int
	}{
		{ordinary, 0, sendBurst - answerReserve},
		{triggered, 0, answerReserve},
		{triggered, -time.Second, 0}, // a clock that steps back gives nothing
		{triggered, 5 * time.Millisecond, 1},
		{triggered, 105 * time.Millisecond, 20},
		{ordinary, 110 * time.Millisecond, 0}, // the reserve fills first
		{ordinary, time.Hour, sendBurst - answerReserve},
	} {
		if got := burst(step.u, start.Add(step.at)); got != step.want {
			t.Errorf("at %s: %d packets, want %d", step.at, got, step.want)
		}
	}
	for now := start.Add(2 * time.Hour); !p.exhausted(); now = now.Add(time.Second) {
		if burst(triggered, now) == 0 {
			t.Fatal("stopped before the budget")
		}
	}
	if p.spent != sendBudget || p.take(triggered, start.Add(24*time.Hour)) {
		t.Errorf("spent %d of %d", p.spent, sendBudget)
	}
}

func TestLoss(t *testing.T) {
	var worst time.Duration
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMatch(portRestricted, portRestricted)
				m.world.latency = 25 * time.Millisecond
				rng := seeded(seed)
				m.world.drop = func(*node, []byte) bool { return rng.Float64() < 0.3 }
				m.run(t.Context())
				m.connected(t)
				if !m.a.res.PeerSelected || !m.b.res.PeerSelected {
					t.Error("one side did not select")
				}
				worst = max(worst, m.a.took, m.b.took)
			})
		})
	}
	t.Logf("slowest of 30 at 30 %% loss and 50 ms round trip: %s", worst)
}
