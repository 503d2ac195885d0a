package punch

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// The controlling side selects while all its answers are lost, and ends at
// once. Its mux answers for it, so the other side connects all the same; with
// the mux gone too the other side is stranded, which shows that the test is one.
func TestEarlyEndDoesNotStrand(t *testing.T) {
	for _, tt := range []struct {
		name     string
		muxGone  bool
		stranded bool
	}{
		{"mux answers", false, false},
		{"nobody answers", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMatch(portRestricted, portRestricted)
				m.world.latency = 10 * time.Millisecond
				var ended atomic.Bool
				var lost atomic.Int32
				m.world.drop = func(from *node, b []byte) bool {
					if from != m.a.node || ended.Load() || !isClass(b, stunmsg.ClassSuccess) {
						return false
					}
					lost.Add(1)
					return true
				}
				m.a.cfg.Linger = 1 // as if it did not wait
				m.b.cfg.Timeout = 3 * time.Second
				a := make(chan struct{})
				m.connect(m.a, m.b)
				m.connect(m.b, m.a)
				go func() {
					defer close(a)
					m.a.res, m.a.err = Run(t.Context(), m.a.cfg)
					ended.Store(true)
					if tt.muxGone {
						m.a.node.mux.Close()
					}
				}()
				m.b.res, m.b.err = Run(t.Context(), m.b.cfg)
				<-a
				if lost.Load() < 3 {
					t.Fatalf("%d answers lost, want 3 or more", lost.Load())
				}
				if m.a.err != nil || m.a.res.PeerSelected {
					t.Fatalf("a: %+v, %v", m.a.res, m.a.err)
				}
				if stranded := m.b.err != nil; stranded != tt.stranded {
					t.Errorf("b: %v", m.b.err)
				}
			})
		})
	}
}

// Three answers lost at the end, and everything else as it should be.
func TestThreeLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		var lost int
		m.world.drop = func(from *node, b []byte) bool {
			if from == m.a.node && isClass(b, stunmsg.ClassSuccess) && lost < 3 {
				lost++
				return true
			}
			return false
		}
		m.run(t.Context())
		m.connected(t)
		if lost != 3 || !m.a.res.PeerSelected || !m.b.res.PeerSelected {
			t.Errorf("lost %d; %v %v", lost, m.a.res, m.b.res)
		}
	})
}

// The mux answers for 30 s and not longer, and only who knows the credentials.
func TestAnswersAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		m.run(t.Context())
		m.connected(t)
		ask := func(c Credentials) bool {
			req := stunmsg.NewRequest(stunmsg.MethodBinding).Username(c.Ufrag + ":" + m.b.cfg.Local.Ufrag).
				IceControlled(1).Priority(1).Sign([]byte(c.Pwd)).Fingerprint()
			before := len(m.a.node.packets())
			m.a.node.mux.HandleSTUN(req.Bytes(), m.b.node.addr)
			answers := m.a.node.packets()[before:]
			if len(answers) != 1 {
				return false
			}
			msg, err := stunmsg.Decode(answers[0].b)
			if err != nil || msg.TransactionID != req.TransactionID() || answers[0].dst != m.b.node.addr {
				t.Fatalf("answer %v to %s: %v", msg, answers[0].dst, err)
			}
			if at, ok := msg.XORMapped(); !ok || at != m.b.node.addr {
				t.Errorf("XOR-MAPPED-ADDRESS %v %v", at, ok)
			}
			if err := errors.Join(msg.Verify([]byte(m.a.cfg.Local.Pwd)), msg.VerifyFingerprint()); err != nil {
				t.Error(err)
			}
			return true
		}
		if !ask(m.a.cfg.Local) {
			t.Error("no answer right after the end")
		}
		if ask(Credentials{m.a.cfg.Local.Ufrag, "not the password at all"}) {
			t.Error("answered a wrong password")
		}
		time.Sleep(answerFor - time.Second)
		if !ask(m.a.cfg.Local) {
			t.Error("no answer after 29 s")
		}
		time.Sleep(2 * time.Second)
		if ask(m.a.cfg.Local) {
			t.Error("answered after 31 s")
		}
	})
}

// The peer's "selected" overtakes our own, which must reach the peer all the
// same: the call waits for it.
func TestSlowSelected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, portRestricted)
		m.connect(m.a, m.b)
		m.connect(m.b, m.a)
		deliver := m.a.cfg.Selected
		m.a.cfg.Selected = func(ctx context.Context) error {
			select {
			case <-time.After(300 * time.Millisecond):
				return deliver(ctx)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		done := make(chan struct{})
		go func() { defer close(done); m.b.res, m.b.err = Run(t.Context(), m.b.cfg) }()
		m.a.res, m.a.err = Run(t.Context(), m.a.cfg)
		<-done
		m.connected(t)
		if !m.a.res.PeerSelected || !m.b.res.PeerSelected {
			t.Errorf("%+v; %+v", m.a.res, m.b.res)
		}
	})
}

// "selected" never arrives: both sides return what they have after Linger.
func TestLostSelected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(portRestricted, addressRestricted)
		m.loseSelected = true
		m.run(t.Context())
		m.connected(t)
		for _, s := range []*side{m.a, m.b} {
			if s.res.PeerSelected || s.took < defaultLinger || s.took > defaultLinger+time.Second {
				t.Errorf("%s: peer selected %v, took %s", s.cfg.ID, s.res.PeerSelected, s.took)
			}
		}
	})
}

func TestBothControlling(t *testing.T) {
	for _, controlling := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newMatch(portRestricted, portRestricted)
			m.a.cfg.Controlling, m.b.cfg.Controlling = controlling, controlling
			m.run(t.Context())
			var conflicts int
			for _, s := range []*side{m.a, m.b} {
				if s.err == nil {
					t.Fatalf("connected: %v", s.res)
				}
				if errors.Is(s.err, ErrRoleConflict) {
					conflicts++
				}
			}
			if conflicts == 0 {
				t.Errorf("no side names the conflict: %v; %v", m.a.err, m.b.err)
			}
		})
	}
}

// Each way of ending an attempt from outside ends it at once, with its cause,
// at each of its stages. synctest fails the test if a goroutine is left.
func TestEndedFromOutside(t *testing.T) {
	errCaller := errors.New("caller had enough")
	errPeer := errors.New("peer's reason")
	ways := []struct {
		name string
		end  func(m *match, cancel context.CancelCauseFunc, failed chan error)
		want error
	}{
		{"ctx", func(_ *match, cancel context.CancelCauseFunc, _ chan error) { cancel(errCaller) }, errCaller},
		{"peer failed", func(_ *match, _ context.CancelCauseFunc, failed chan error) { failed <- errPeer }, ErrPeerFailed},
		{"peer failed, reason", func(_ *match, _ context.CancelCauseFunc, failed chan error) { failed <- errPeer }, errPeer},
		{"mux closed", func(m *match, _ context.CancelCauseFunc, _ chan error) { m.a.node.mux.Close() }, net.ErrClosed},
	}
	stages := []struct {
		name  string
		after time.Duration
		with  kind
	}{
		{"opening", 50 * time.Millisecond, portRestricted},
		{"checking", 300 * time.Millisecond, udpBlocked},
		{"lingering", 1200 * time.Millisecond, portRestricted},
	}
	for _, w := range ways {
		for _, st := range stages {
			t.Run(w.name+"/"+st.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					m := newMatch(portRestricted, st.with)
					m.loseOpened, m.loseSelected = true, true
					m.a.cfg.Linger = 10 * time.Second
					failed := make(chan error, 1)
					m.a.cfg.PeerFailed = failed
					m.connect(m.a, m.b)
					m.connect(m.b, m.a)
					b := make(chan struct{})
					bctx, bcancel := context.WithCancel(t.Context())
					go func() { defer close(b); Run(bctx, m.b.cfg) }()
					var end time.Time
					time.AfterFunc(st.after, func() { end = time.Now(); w.end(m, cancel, failed) })
					_, err := Run(ctx, m.a.cfg)
					if !errors.Is(err, w.want) {
						t.Errorf("error %v, want %v", err, w.want)
					}
					if d := time.Since(end); d > 100*time.Millisecond {
						t.Errorf("ended %s late", d)
					}
					if es := eventsOf[trace.AttemptEnded](m.a.trace); len(es) != 1 || es[0].OK || es[0].Why == "" {
						t.Errorf("ended events %+v", es)
					}
					if es := eventsOf[trace.Failure](m.a.trace); len(es) != 0 {
						t.Errorf("failures %+v", es)
					}
					bcancel()
					<-b
				})
			})
		}
	}
}

// Nothing is answered for an attempt that failed: the peer would select a pair
// that we do not have.
func TestFailedAttemptIsNotAnsweredFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMatch(none, none)
		m.a.cfg.Controlling, m.b.cfg.Controlling = false, true // b would select by itself
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := Run(ctx, m.a.cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		m.b.cfg.Timeout = 2 * time.Second
		if res, err := Run(t.Context(), m.b.cfg); err == nil {
			t.Errorf("b connected to an attempt that is over: %v", res)
		}
	})
}

// A failure says which way the packets got lost.
func TestFailureNamesTheDirection(t *testing.T) {
	for _, tt := range []struct {
		name  string
		drop  func(a, b, from *node) bool
		wantA func(*NoPathError) bool
		wantB func(*NoPathError) bool
	}{
		{"nothing arrives", func(_, _, _ *node) bool { return true },
			func(e *NoPathError) bool {
				return e.ChecksSent > 100 && e.ChecksReceived == 0 && e.AnswersReceived == 0
			},
			func(e *NoPathError) bool { return e.ChecksSent > 100 && e.ChecksReceived == 0 }},
		{"a is not heard", func(a, _, from *node) bool { return from == a },
			func(e *NoPathError) bool {
				return e.ChecksReceived > 50 && e.AnswersReceived == 0 && len(e.Heard) == 1 && e.AnswersSent > 50
			},
			func(e *NoPathError) bool { return e.ChecksSent > 100 && e.ChecksReceived == 0 && len(e.Heard) == 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMatch(none, none)
				m.world.drop = func(from *node, _ []byte) bool { return tt.drop(m.a.node, m.b.node, from) }
				m.run(t.Context())
				var ea, eb *NoPathError
				if !errors.As(m.a.err, &ea) || !errors.As(m.b.err, &eb) || !errors.Is(m.a.err, ErrNoPath) {
					t.Fatalf("%v; %v", m.a.err, m.b.err)
				}
				if !tt.wantA(ea) {
					t.Errorf("a: %+v", ea)
				}
				if !tt.wantB(eb) {
					t.Errorf("b: %+v", eb)
				}
				if es := eventsOf[trace.AttemptEnded](m.a.trace); len(es) != 1 || es[0].Sent != ea.ChecksSent || es[0].Received != ea.ChecksReceived {
					t.Errorf("event %+v for %+v", es, ea)
				}
			})
		})
	}
}

// An agent that hangs as it closes is left behind and told of.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		start := time.Now()
		err := closeWithin(closeTimeout, func() error { <-hang; return nil })
		if err == nil || time.Since(start) != closeTimeout {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		close(hang)
		if err := closeWithin(closeTimeout, func() error { return net.ErrClosed }); err != net.ErrClosed {
			t.Errorf("close: %v", err)
		}
	})
}

func TestErrorTexts(t *testing.T) {
	at := netipAddrPort("203.0.113.7:6000")
	for _, tt := range []struct {
		want string
		err  NoPathError
	}{
		{"no direct path after 10 s: the peer has no address we can check, and nothing arrived from it",
			NoPathError{After: 10 * time.Second}},
		{"no direct path after 10 s: we sent 120 checks to 3 addresses, nothing arrived from the peer",
			NoPathError{After: 10 * time.Second, Candidates: 3, Counts: Counts{ChecksSent: 120}}},
		{"no direct path after 5 s: 7 checks of the peer arrived (from [203.0.113.7:6000]), none of our 1 check was answered",
			NoPathError{After: 5 * time.Second, Candidates: 1, Heard: []netip.AddrPort{at}, Counts: Counts{ChecksSent: 1, ChecksReceived: 7}}},
		{"no direct path after 5 s: 2 answers to our checks arrived, no check of the peer did",
			NoPathError{After: 5 * time.Second, Candidates: 1, Counts: Counts{ChecksSent: 9, AnswersReceived: 2}}},
		{"no direct path after 1 s: we sent 0 checks to 1 address, nothing arrived from the peer; send to x: no route",
			NoPathError{After: time.Second, Candidates: 1, SendErr: errors.New("send to x: no route")}},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	m := newMatch(none, none)
	for name, spoil := range map[string]func(*Config){
		"no mux":         func(c *Config) { c.Muxes = nil },
		"short ufrag":    func(c *Config) { c.Local.Ufrag = "abc" },
		"short password": func(c *Config) { c.Remote.Pwd = "short" },
		"own ufrag":      func(c *Config) { c.Remote.Ufrag = c.Local.Ufrag },
		"ttl":            func(c *Config) { c.OpenerTTL = 256 },
		"timeout":        func(c *Config) { c.Timeout = -1 },
	} {
		cfg := m.a.cfg
		spoil(&cfg)
		if _, err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if len(m.a.node.packets()) != 0 {
		t.Error("packets were sent")
	}
	if c := NewCredentials(); c.validate("new") != nil || c == NewCredentials() {
		t.Errorf("credentials %+v", c)
	}
}
