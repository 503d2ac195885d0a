package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
)

// An attempt is one try for a direct path, as this side sees it.
type attempt struct {
	id           string
	trigger      string
	ours         punch.Credentials
	peerOpened   chan struct{}
	peerSelected chan struct{}
	peerFailed   chan error
	more         chan candidates.Candidate
	known        map[netip.AddrPort]bool // candidates that were handed over
	start        *attemptMessage         // our part of it, once sent
	tunnels      bool                    // candidates in tunnels are tried too
	running      bool
	giveUp       *time.Timer        // for the peer's answer
	cancel       context.CancelFunc // while running
}

func newAttempt(id, trigger string) *attempt {
	return &attempt{
		id: id, trigger: trigger, ours: punch.NewCredentials(),
		peerOpened: make(chan struct{}), peerSelected: make(chan struct{}), peerFailed: make(chan error, 1),
		more: make(chan candidates.Candidate, maxCandidates), known: make(map[netip.AddrPort]bool),
	}
}

// attempts is the link's history of them.
type attempts struct {
	current *attempt
	history punch.History
	ended   int
	lastErr error
	next    time.Time // of the next one; zero: none is due
	plan    punch.Plan
	settle  time.Time // a pair was selected; by then it must be a path
	started time.Time // the last one

	selected netip.AddrPort // the peer's address of the last pair that was selected
}

// wantsDirect reports whether a direct path should be looked for now: while
// there is none, or only one in a tunnel beside which a plain one is possible.
func (l *link) wantsDirect() bool {
	if l.relayOnly() || l.peerRelayOnly || l.remote.generation == 0 {
		return false
	}
	plain, tunnelled := l.directAlive()
	return !plain && (!tunnelled || l.plainPossible())
}

// directAlive tells whether direct paths work, outside of tunnels and inside.
func (l *link) directAlive() (plain, tunnelled bool) {
	for _, p := range l.conn.Status() {
		if p.Kind == path.Direct && p.State == path.Alive {
			plain, tunnelled = plain || !p.InTunnel && p.Barred == "", tunnelled || p.InTunnel
		}
	}
	return plain, tunnelled
}

// plainPossible reports whether any candidate of the peer's is reached outside
// of tunnels: none is when this machine, or the peer, sends everything through a
// VPN.
func (l *link) plainPossible() bool {
	direct, _, _ := candidates.Filter(l.remote.list, l.filterEnv())
	return len(outsideTunnels(direct)) > 0
}

func outsideTunnels(list []candidates.Candidate) []candidates.Candidate {
	return slices.DeleteFunc(slices.Clone(list), func(c candidates.Candidate) bool { return c.Tunnel })
}

// triesTunnels decides whether an attempt tries candidates in tunnels too. They
// answer sooner than what has to be punched, so that ICE would take them; they
// come when the others have failed, or when there are no others.
func triesTunnels(plainPossible, tunnelled bool, failures int) bool {
	return !plainPossible || failures > 0 && !tunnelled
}

func (l *link) triesTunnels() bool {
	_, tunnelled := l.directAlive()
	return triesTunnels(l.plainPossible(), tunnelled, l.attempts.history.Failures)
}

// schedule decides when the next attempt is due. Only the connector starts
// attempts; the listener asks for one.
func (l *link) schedule(event string) {
	a := &l.attempts
	if event != "" {
		a.history.Event = event
	}
	if l.role != connector {
		if event == punch.TriggerNetwork {
			l.post.send(&message{Want: &want{event}})
		}
		return
	}
	if a.current != nil || !l.wantsDirect() {
		return
	}
	now := time.Now()
	if !a.settle.IsZero() && event == "" {
		return // settled goes on
	}
	planned := !a.next.IsZero()
	a.history.Jitter, a.history.NoUDP = mrand.Float64(), noUDP(l.udpSigns())
	a.plan = punch.NextTry(a.history, now)
	if early := a.started.Add(attemptGap); a.plan.At.Before(early) {
		a.plan.At = early
	}
	a.next = a.plan.At
	if !planned && a.plan.Trigger == punch.TriggerRetry {
		l.trace.Emit(trace.AttemptPlanned{MS: a.next.Sub(now).Milliseconds(), NoUDP: a.history.NoUDP})
	}
}

// settled looks whether the pair of the last attempt became a path. One that
// did not was no success.
func (l *link) settled() {
	a := &l.attempts
	a.settle = time.Time{}
	if !l.proved(a.selected) && l.wantsDirect() {
		a.history.Failures++
		a.lastErr = errors.New("a pair was selected, but no probe crossed it")
		l.reviewVerdict()
	}
	l.schedule("")
}

// proved reports whether a direct path to an address of the peer's works.
func (l *link) proved(remote netip.AddrPort) bool {
	return slices.ContainsFunc(l.conn.Status(), func(p path.Status) bool {
		return p.Kind == path.Direct && p.State == path.Alive && p.Remote == remote
	})
}

// attemptDue starts the attempt that was scheduled.
func (l *link) attemptDue(now time.Time) {
	a := &l.attempts
	a.next = time.Time{}
	if a.current != nil || !l.wantsDirect() {
		return
	}
	if now.Before(a.plan.At) {
		l.schedule("")
		return
	}
	plan := a.plan
	if plan.FreshPort {
		if err := l.freshSockets(); err != nil {
			l.trace.Emit(trace.Failure{Where: "fresh port", Err: err.Error()})
		}
	}
	a.history.Event = ""
	at := newAttempt(rand.Text()[:12], plan.Trigger)
	a.current, a.started, a.settle = at, now, time.Time{}
	at.giveUp = time.AfterFunc(replyTimeout+gatherTimeout, func() {
		l.do(func() { l.attemptEnded(at, punch.Result{}, errors.New("the peer did not join the attempt")) })
	})
	l.ready(plan.Trigger, func() {
		if a.current != at {
			return
		}
		at.tunnels = l.triesTunnels()
		at.start = &attemptMessage{
			ID: at.id, ICE: at.ours, Trigger: plan.Trigger, FreshPort: plan.FreshPort,
			Tunnels: at.tunnels, Candidates: l.candidatesFor(at),
		}
		l.post.send(&message{Attempt: at.start})
	})
}

// ready calls then when our candidates are known, or were waited for long
// enough. Whatever led to a further attempt may have changed our mappings too,
// so all but the first gather anew.
func (l *link) ready(trigger string, then func()) {
	switch {
	case trigger != punch.TriggerFirst:
		l.gather(func() { l.announce(); then() })
	case l.earlyAt.IsZero():
		then()
	default:
		l.whenGathered = append(l.whenGathered, then)
	}
}

// joinAttempt takes the peer's side of an attempt: as listener its start, as
// connector the answer to ours.
func (l *link) joinAttempt(m *attemptMessage) {
	a := &l.attempts
	if l.role == connector {
		if at := a.current; at != nil && at.id == m.ID && m.Reply && !at.running {
			l.runAttempt(at, m)
		}
		return
	}
	if m.Reply || l.relayOnly() {
		return
	}
	if old := a.current; old != nil {
		if old.id == m.ID {
			return
		}
		l.endQuietly(old)
	}
	now := time.Now()
	if now.Before(a.started.Add(attemptGap / 2)) {
		l.post.send(&message{Failed: &attemptRef{ID: m.ID, Why: "too soon after the last one"}})
		return
	}
	if m.FreshPort {
		if err := l.freshSockets(); err != nil {
			l.trace.Emit(trace.Failure{Where: "fresh port", Err: err.Error()})
		}
	}
	at := newAttempt(m.ID, m.Trigger)
	a.current, a.started, a.settle = at, now, time.Time{}
	l.ready(m.Trigger, func() {
		if a.current != at {
			return
		}
		at.tunnels = m.Tunnels || l.triesTunnels() // older peers do not say it
		l.post.send(&message{Attempt: &attemptMessage{ID: at.id, Reply: true, ICE: at.ours, Tunnels: at.tunnels, Candidates: l.candidatesFor(at)}})
		l.runAttempt(at, m)
	})
}

// candidatesFor is what the peer may know for an attempt.
func (l *link) candidatesFor(at *attempt) []candidates.Candidate {
	if at.tunnels {
		return l.localCandidates()
	}
	return outsideTunnels(l.localCandidates())
}

// endQuietly stops an attempt that the peer has replaced.
func (l *link) endQuietly(at *attempt) {
	l.attempts.current = nil
	if at.cancel != nil {
		at.cancel()
	}
	if at.giveUp != nil {
		at.giveUp.Stop()
	}
}

func (l *link) runAttempt(at *attempt, m *attemptMessage) {
	if at.giveUp != nil {
		at.giveUp.Stop()
	}
	env := l.filterEnv()
	direct := l.judgeCandidates(m.Candidates)
	if !at.tunnels {
		direct = outsideTunnels(direct)
	}
	at.running = true
	for _, c := range direct {
		at.known[c.Addr] = true
	}
	l.remote.usable = len(direct)
	nat := l.nat()
	cfg := punch.Config{
		ID: at.id, Controlling: l.role == connector, Local: at.ours, Remote: m.ICE,
		Candidates: direct, More: at.more,
		Allow: func(a netip.AddrPort) bool {
			ok, _, _ := candidates.Filter([]candidates.Candidate{{Type: candidates.ServerReflexive, Addr: a}}, env)
			return len(ok) == 1 && (at.tunnels || !ok[0].Tunnel)
		},
		OpenerTTL:  punch.OpenerTTL(nat, 0),
		Opened:     l.tell(func(r *attemptRef) *message { return &message{Opened: r} }, at),
		PeerOpened: at.peerOpened,
		Selected:   l.tell(func(r *attemptRef) *message { return &message{Selected: r} }, at), PeerSelected: at.peerSelected,
		PeerFailed: at.peerFailed,
		Fallback:   punch.Fallback(l.env.client.RTT()),
		Timeout:    l.attemptTime(at.trigger), Trigger: at.trigger, Trace: l.trace,
	}
	for _, s := range l.newest() {
		cfg.Muxes = append(cfg.Muxes, s.mux)
	}
	ctx, cancel := context.WithCancel(l.ctx)
	at.cancel = cancel
	l.work(func(context.Context) {
		defer cancel()
		res, err := punch.Run(ctx, cfg)
		l.do(func() { l.attemptEnded(at, res, err) })
	})
}

// tell sends a reference to the attempt.
func (l *link) tell(wrap func(*attemptRef) *message, at *attempt) func(context.Context) error {
	return func(context.Context) error {
		l.post.send(wrap(&attemptRef{ID: at.id}))
		return nil
	}
}

func (l *link) attemptEnded(at *attempt, res punch.Result, err error) {
	a := &l.attempts
	if a.current != at {
		return
	}
	if !at.running { // else punch records the end
		l.trace.Emit(trace.AttemptEnded{ID: at.id, Why: fmt.Sprint(err)})
	}
	if at.giveUp != nil {
		at.giveUp.Stop()
	}
	a.current = nil
	a.history.Ended = time.Now()
	if tells(at.running, a.history.Failures) {
		a.ended++
		a.lastErr = err
	}
	if err == nil {
		a.history.Failures, a.history.Trap = 0, false
		a.settle, a.selected = time.Now().Add(attemptGrace), res.Remote
		for _, s := range l.sockets {
			if s.mux == res.Mux {
				l.try(s.Socket, res.Remote, path.Direct)
			}
		}
	} else {
		a.history.Failures++
		var none *punch.NoPathError
		errors.As(err, &none)
		a.history.Trap = none != nil && punch.SuspectTrap(l.nat(), l.remote.nat, none)
		if !errors.Is(err, punch.ErrPeerFailed) {
			l.post.send(&message{Failed: &attemptRef{ID: at.id, Why: clip(err.Error(), 200)}})
		}
		l.probeNAT()
	}
	l.reviewVerdict()
	l.schedule("")
}

// tells decides whether the end of an attempt says anything of the two networks. One
// that did not take place (the peer came too late, or wants a pause) does not, unless
// that is all there has been for a while.
func tells(tookPlace bool, failures int) bool {
	const aWhile = 3
	return tookPlace || failures >= aWhile
}

// about finds the attempt that a reference names.
func (l *link) about(r *attemptRef) *attempt {
	if at := l.attempts.current; at != nil && at.id == r.ID {
		return at
	}
	return nil
}

func (l *link) peerOpened(r *attemptRef) {
	if at := l.about(r); at != nil {
		closeOnce(at.peerOpened)
	}
}

func (l *link) peerSelected(r *attemptRef) {
	if at := l.about(r); at != nil {
		closeOnce(at.peerSelected)
	}
}

func (l *link) peerFailed(r *attemptRef) {
	at := l.about(r)
	if at == nil {
		return
	}
	why := fmt.Errorf("%q", clip(r.Why, 200))
	if !at.running {
		l.attemptEnded(at, punch.Result{}, fmt.Errorf("%w: %w", punch.ErrPeerFailed, why))
		return
	}
	select {
	case at.peerFailed <- why: // punch says whose it is
	default:
	}
}

// trickle hands filtered candidates that came later to the running attempt.
func (l *link) trickle(direct []candidates.Candidate) {
	at := l.attempts.current
	if at == nil || !at.running {
		return
	}
	for _, c := range direct {
		if at.known[c.Addr] || c.Tunnel && !at.tunnels {
			continue
		}
		at.known[c.Addr] = true
		select {
		case at.more <- c:
		default: // more than an attempt takes
		}
	}
}

// probeNAT measures the filtering of our NAT, once, for the verdict: it is of
// use only to a link that stays relayed.
func (l *link) probeNAT() {
	s := l.newest()
	if l.probed || len(s) == 0 || len(l.servers.stun) == 0 {
		return
	}
	l.probed = true
	stun := ofFamily(l.servers.stun, s[0].Network())
	l.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		nat, err := candidates.Probe(ctx, s[0].Socket, stun)
		l.do(func() {
			if err != nil {
				l.trace.Emit(trace.Failure{Where: "probe NAT", Err: err.Error()})
				return
			}
			s[0].nat = mergeNAT(s[0].nat, nat)
			l.trace.Emit(nat.Event())
			l.announce()
			l.reviewVerdict()
		})
	})
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// clip shortens s to at most n bytes of whole runes.
func clip(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }
