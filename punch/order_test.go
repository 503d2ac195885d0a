package punch

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Two routers that accept packets to themselves: the pair that needs the
// openers. Without them the simulator must spring the trap, or it proves nothing.
func TestEarlyProbeTrap(t *testing.T) {
	for _, tt := range []struct {
		name    string
		openers bool
		late    time.Duration
		direct  bool
	}{
		{"openers", true, 0, true},
		{"openers, one side 50 ms late", true, 50 * time.Millisecond, true},
		{"no openers", false, 0, false},
		{"no openers, one side 50 ms late", false, 50 * time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMatch(portRestrictedOpen, portRestrictedOpen)
				m.world.latency = 5 * time.Millisecond // packets overtake signaling
				m.signaling = 20 * time.Millisecond
				m.b.late = tt.late
				if !tt.openers {
					m.a.cfg.OpenerTTL, m.b.cfg.OpenerTTL = 0, 0
					m.a.cfg.Fallback = time.Millisecond // as one that does not wait
				}
				m.run(t.Context())
				if tt.direct {
					m.connected(t)
					return
				}
				for _, s := range []*side{m.a, m.b} {
					no, ok := s.err.(*NoPathError)
					if !ok {
						t.Fatalf("connected through a sprung trap: %v %v", s.res, s.err)
					}
					if nat := portRestrictedOpen.nat(); !SuspectTrap(nat, nat, no) {
						t.Errorf("no trap suspected after: %v", no)
					}
				}
			})
		})
	}
}

// A fresh port on one side is what gets out of a sprung trap, and the retry
// schedule asks for it.
func TestFreshPortLeavesTheTrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestrictedOpen, portRestricted)
		m.world.latency = 5 * time.Millisecond
		spring := func(n *node, to candidates.Candidate) {
			n.Send([]byte("early probe"), 0, to.Addr)
			synctest.Wait()
			time.Sleep(2 * m.world.latency)
		}
		spring(m.b.node, m.a.node.candidate())
		m.run(t.Context())
		if m.a.err == nil {
			t.Fatal("connected through a sprung trap")
		}
		time.Sleep(2 * m.world.latency) // what is under way arrives where it was sent to
		synctest.Wait()
		m.a.node.addr = netipPort(m.a.node, 5001)
		m.a.cfg.Local, m.b.cfg.Local = NewCredentials(), NewCredentials()
		m.a.cfg.Remote, m.b.cfg.Remote = m.b.cfg.Local, m.a.cfg.Local
		m.b.cfg.Candidates = []candidates.Candidate{m.a.node.candidate()}
		m.run(t.Context())
		m.connected(t)
	})
}

// Until the peer has opened, nothing leaves at a normal TTL; and every
// destination gets its opener before its first check.
func TestOpenersComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, cgnat)
		m.signaling = 70 * time.Millisecond
		m.world.latency = 50 * time.Millisecond // still checking when the late candidate comes
		more := make(chan candidates.Candidate, 1)
		m.a.cfg.More = more
		trickled := candidates.Candidate{Type: candidates.Host, Addr: netipAddrPort("203.0.113.99:7000")}
		time.AfterFunc(75*time.Millisecond, func() { more <- trickled })
		start := time.Now()
		m.run(t.Context())
		m.connected(t)
		for _, s := range []*side{m.a, m.b} {
			first := map[string]int{}
			for _, p := range s.node.packets() {
				dst := p.dst.String()
				if _, seen := first[dst]; !seen {
					first[dst] = p.ttl
				}
				if p.ttl == 64 && p.at.Sub(start) < m.signaling {
					t.Errorf("%s sent to %s at a normal TTL after %s, before the peer could have opened", s.cfg.ID, dst, p.at.Sub(start))
				}
			}
			want := s.cfg.OpenerTTL
			for dst, ttl := range first {
				if ttl != want {
					t.Errorf("%s: first packet to %s has ttl %d, want %d", s.cfg.ID, dst, ttl, want)
				}
			}
			es := eventsOf[trace.AttemptOpened](s.trace)
			if len(es) != 1 || es[0].Sent != 1 || !es[0].Peer || es[0].WaitMS != 70 {
				t.Errorf("%s: opened events %+v", s.cfg.ID, es)
			}
		}
		if ps := m.a.node.packets(); !contains(ps, trickled.Addr.String(), 64) {
			t.Error("the trickled candidate was never checked")
		}
	})
}

// An opener that arrives after all is answered by nobody and is no sign that
// the peer checks.
func TestOpenerIsNotACheck(t *testing.T) {
	b := openerPacket()
	h, err := stunmsg.Parse(b)
	if err != nil || h.Class != stunmsg.ClassIndication || h.Method != stunmsg.MethodBinding {
		t.Fatalf("opener is %v, %v", h, err)
	}
	if err := stunmsg.Check(b, stunmsg.AsPeer); err != nil {
		t.Error(err)
	}
}

// A peer's check says that it has opened, when its message is slow or lost.
func TestPeersCheckStandsForOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(fullCone, portRestricted)
		m.loseOpened = true
		m.a.cfg.Fallback = 4 * time.Second
		m.b.cfg.Fallback = 150 * time.Millisecond
		m.run(t.Context())
		m.connected(t)
		if m.a.took > 250*time.Millisecond {
			t.Errorf("took %s, as if it waited for its fallback", m.a.took)
		}
		if es := eventsOf[trace.AttemptOpened](m.a.trace); len(es) != 1 || !es[0].Peer {
			t.Errorf("opened events %+v", es)
		}
		if es := eventsOf[trace.AttemptOpened](m.b.trace); len(es) != 1 || es[0].Peer {
			t.Errorf("opened events of the fallback %+v", es)
		}
	})
}

// The peer starts three seconds late: the call goes on checking.
func TestLatePeer(t *testing.T) {
	for _, late := range []string{"controlling", "controlled"} {
		t.Run(late, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMatch(portRestricted, portRestricted)
				m.world.latency = 20 * time.Millisecond
				s := m.a
				if late == "controlled" {
					s = m.b
				}
				s.late = 3 * time.Second
				m.run(t.Context())
				m.connected(t)
				if s.took > 300*time.Millisecond {
					t.Errorf("the late side took %s", s.took)
				}
			})
		})
	}
}

// Candidates that trickle in after the checks began, with none at the start.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		for _, s := range []*side{m.a, m.b} {
			more := make(chan candidates.Candidate)
			all := s.cfg.Candidates
			s.cfg.Candidates, s.cfg.More = nil, more
			time.AfterFunc(400*time.Millisecond, func() {
				for _, c := range all {
					more <- c
				}
				close(more)
			})
		}
		m.run(t.Context())
		m.connected(t)
		if m.a.res.Type != candidates.ServerReflexive {
			t.Errorf("type %s, want srflx", m.a.res.Type)
		}
	})
}

func TestDuplicateCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		c := m.a.cfg.Candidates[0]
		mapped := netipMapped(c.Addr)
		m.a.cfg.Candidates = []candidates.Candidate{c, {Type: candidates.Host, Addr: c.Addr}, c, {Type: c.Type, Addr: mapped}}
		m.run(t.Context())
		m.connected(t)
		openers := 0
		for _, p := range m.a.node.packets() {
			if p.ttl < 64 {
				openers++
			}
		}
		if openers != 1 {
			t.Errorf("%d openers to one address, want 1", openers)
		}
		if es := eventsOf[trace.Candidate](m.a.trace); len(es) != 3 || es[0].Refused == "" {
			t.Errorf("refusals %+v, want 3", es)
		}
	})
}
