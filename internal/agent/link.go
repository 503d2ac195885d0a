package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
	"github.com/p2pagent/p2pagent/relay"
)

// Short names for the two roles of a link.
const (
	connector = identity.Connector
	listener  = identity.Listener
)

// A link is one live connection with one peer, from the end of a meeting to
// the end of its session. What it knows is owned by its loop: workers and
// callbacks report to it with do.
type link struct {
	// constant after newLink
	env       *environment
	role      identity.Role
	peer      identity.Peer
	id        linkID
	key       []byte
	peerRun   identity.RunID // the listener's: the process that offered the link
	trace     *trace.Recorder
	post      *post
	todo      chan func()
	ended     chan struct{} // closed when run returns
	rival     chan struct{} // closed when the listener says that another one has its place
	rivalOnce sync.Once
	bound     *forward.Shares // of the connections to ports of -R
	onSession func(context.Context, *link, *session.Session)

	targetAnswers chan *targetsAnswer // the peer's, for askTargets

	ctx  context.Context // the link's life
	stop context.CancelCauseFunc

	conn *path.Conn // set by run before anything else starts

	workers sync.WaitGroup
	orphans orphans

	// owned by the loop
	servers       servers
	peerRelayOnly bool
	sockets       []*socket
	whenGathered  []func()
	earlyAt       time.Time // when candidates are announced, gathered or not; zero: done
	generation    int       // of our announced candidates
	remote        remoteSide
	relaying      relaying
	attempts      attempts
	probed        bool
	probeAt       time.Time // when the NAT's filtering is measured, if still relayed
	outage        outage
	sightAt       time.Time // when lookForSight is due; zero: a path answers
	unheard       unheard
	hearAt        time.Time                     // when the session's counters are looked at again
	announced     map[candidates.Candidate]bool // the peer's, that the trace has
	bindRefused   map[string]string             // -R that were refused, and why, as traced
	asked         int                           // targets that the peer has asked about
	deniedHere    map[string]bool               // those that it may not dial, as traced
	goneSince     time.Time                     // when signaling said that the peer is gone
	peerRunEnded  bool                          // the peer's machine says that its process is over

	// read by others
	session    atomic.Pointer[session.Session]
	peerDirect atomic.Bool  // the peer requires a direct path
	left       atomic.Bool  // signaling says that the peer is gone
	wasUp      atomic.Bool  // there is a session, or was
	waiting    atomic.Int64 // since when it waits for a peer that may be asleep, Unix nanoseconds; 0: it does not
	enc        atomic.Pointer[encounter]
	verdict    atomic.Pointer[judgement]
}

// remoteSide is what the peer told.
type remoteSide struct {
	generation int
	list       []candidates.Candidate
	usable     int // candidates of the last attempt that passed the filter
	nat        candidates.NAT
	own        bool // its STUN servers are not those that signaling names
	silent     bool // no STUN server has answered it, and all have one address
}

// outage is the time without a live path.
type outage struct {
	since time.Time // zero: there is one
	heals int
	next  time.Time
}

// newLink prepares a link; until run is called it holds nothing but memory and
// its conn's few goroutines, and close lets go of them.
func newLink(ctx context.Context, env *environment, role identity.Role, peer identity.Peer, o offer) (*link, error) {
	rec := env.cfg.Trace.ForPeer(peer.Name)
	l := &link{
		env: env, role: role, peer: peer, id: o.Link, key: o.Key, peerRun: o.Run, trace: rec, post: newPost(rec),
		bound: forward.NewShares(session.MaxConnections), todo: make(chan func(), 256), ended: make(chan struct{}),
		rival: make(chan struct{}), announced: make(map[candidates.Candidate]bool),
		targetAnswers: make(chan *targetsAnswer, askTargets),
	}
	l.peerDirect.Store(role == listener && o.Direct)
	l.ctx, l.stop = context.WithCancelCause(ctx)
	conn, err := path.New(path.Config{
		Key: l.key, ID: l.id.String(), Initiator: role == connector,
		RequireDirect: l.requireDirect(), RelayOnly: l.relayOnly(), Tunnel: env.tunnelTo, Trace: rec,
		OnChange: func(c path.Change) { l.do(func() { l.pathChanged(c) }) },
	})
	l.conn = conn
	return l, err
}

func (l *link) relayOnly() bool     { return l.env.cfg.RelayOnly }
func (l *link) requireDirect() bool { return l.env.cfg.RequireDirect || l.peerDirect.Load() }

// do hands f to the loop. It waits while the loop is busy, and drops f when
// the link has ended.
func (l *link) do(f func()) {
	select {
	case l.todo <- f:
	case <-l.ended:
	}
}

// work runs f in a goroutine that run waits for. Called on the loop, or before
// it starts.
func (l *link) work(f func(context.Context)) {
	l.workers.Go(func() { f(l.ctx) })
}

// run is the link's life. It returns why the session ended, or why there never
// was one, and has said so in the trace.
func (l *link) run() error {
	err := l.live()
	l.trace.Emit(trace.SessionState{State: "closed", Why: err.Error()})
	return err
}

func (l *link) live() error {
	ctx := l.ctx
	defer l.stop(nil)
	if err := l.openSockets(); err != nil {
		close(l.ended)
		l.post.shut()
		l.conn.Close()
		return err
	}
	l.begin()
	sessionEnd := make(chan error, 1)
	l.workers.Go(func() { sessionEnd <- l.runSession(ctx) })
	err := l.loop(ctx, sessionEnd)

	// The order: no more work, then the goodbye on the session while the
	// paths still stand (runSession), then everything below it.
	l.stop(err)
	close(l.ended)
	l.workers.Wait()
	l.post.shut()
	if at := l.attempts.current; at != nil && at.giveUp != nil {
		at.giveUp.Stop()
	}
	for _, s := range l.sockets {
		s.mux.Close()
	}
	for _, alloc := range []*relay.Allocation{l.relaying.old, l.relaying.alloc} {
		if alloc != nil {
			l.conn.RemoveCarrier(alloc) // gives it back to the server
		}
	}
	l.orphans.close() // made while the loop was ending
	return errors.Join(err, l.conn.Close())
}

// begin starts what every link does first: gather, and get a relay.
func (l *link) begin() {
	l.gather(l.gathered)
	l.earlyAt = time.Now().Add(earlyAnnounce)
	l.allocate()
	l.outage.since = time.Now()
	l.unheard.paths(l.outage.since, false)
	l.hearAt = l.outage.since.Add(hearEvery)
	l.outage.next = l.outage.since.Add(2 * healAfter)
}

// gathered announces what was found, and starts what waited for it: when all
// servers have answered, or were given up on, or take longer than
// earlyAnnounce. What comes later is trickled.
func (l *link) gathered() {
	l.earlyAt = time.Time{}
	l.announce()
	waiting := l.whenGathered
	l.whenGathered = nil
	for _, then := range waiting {
		then()
	}
	l.schedule("")
}

// loop owns the link's state until the session or ctx ends.
func (l *link) loop(ctx context.Context, sessionEnd <-chan error) error {
	due := time.Now() // when the timer ends
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var f func()
		select {
		case f = <-l.todo:
		case <-timer.C:
			f = func() { l.tick(time.Now()) }
		case err := <-sessionEnd:
			return err
		case <-ctx.Done():
			return endOf(ctx)
		}
		if now := time.Now(); now.Sub(due) > overslept {
			l.unheard.woke(now) // before anything is made of the silence meanwhile
		}
		f()
		due = l.wake()
		timer.Reset(time.Until(due))
	}
}

// wake is when something is due next.
func (l *link) wake() time.Time {
	at := time.Now().Add(time.Minute)
	for _, t := range []time.Time{l.attempts.next, l.attempts.settle, l.relaying.retryAt, l.relaying.udpAt, l.relaying.oldAt, l.relaying.takeAt, l.outage.due(), l.sightAt, l.givesUpAt(), l.longWaitDue(), l.hearAt, l.probeAt, l.earlyAt} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

func (o outage) due() time.Time {
	if o.since.IsZero() {
		return time.Time{}
	}
	return o.next
}

func (l *link) tick(now time.Time) {
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if due(l.attempts.settle) {
		l.settled()
	}
	if due(l.attempts.next) {
		l.attemptDue(now)
	}
	if due(l.relaying.retryAt) {
		l.relaying.retryAt = time.Time{}
		l.allocate()
	}
	if due(l.relaying.udpAt) {
		l.lookForUDP()
	}
	if due(l.relaying.oldAt) {
		l.retireDue(now)
	}
	if due(l.relaying.takeAt) {
		l.peerRelay(l.relaying.waiting)
	}
	if due(l.outage.due()) {
		l.heal(now)
	}
	if due(l.sightAt) {
		l.lookForSight(now)
	}
	if due(l.earlyAt) {
		l.gathered()
	}
	if due(l.probeAt) {
		l.probeAt = time.Time{}
		if l.wantsDirect() {
			l.probeNAT()
		}
	}
	if due(l.hearAt) {
		l.hear(now)
	}
	l.noteLongWait(now)
	if s := l.session.Load(); s != nil && due(l.givesUpAt()) {
		if why := l.unheard.over(now, s.Stats().PacketsReceived); why != nil {
			l.end(why)
		}
	}
}

// end ends the link with a reason.
func (l *link) end(err error) { l.stop(err) }

// announce tells the peer our candidates and what is known of our NAT.
func (l *link) announce() {
	l.generation++
	l.post.send(&message{Candidates: &announcement{
		Generation: l.generation, List: l.localCandidates(), NAT: factsOf(l.nat(), l.env.cfg.STUN != nil),
	}})
}

// receive takes one message of the peer, by whatever way it came. It does not
// wait: who sends faster than the loop works loses messages.
func (l *link) receive(via string, b []byte) {
	m, fresh := l.post.receive(via, b)
	if !fresh {
		return
	}
	if m.Rival != nil { // of use to a link that ends, too
		l.rivalOnce.Do(func() { close(l.rival) })
		return
	}
	select {
	case l.todo <- func() { l.handle(m) }:
	case <-l.ended:
	default:
		l.trace.Emit(trace.Failure{Where: m.name() + " of the peer", Err: "dropped, too many at once"})
	}
}

func (l *link) handle(m *message) {
	switch {
	case m.Candidates != nil:
		l.peerAnnounced(m.Candidates)
	case m.Relay != nil:
		l.peerRelay(m.Relay.Addr)
	case m.Attempt != nil:
		l.joinAttempt(m.Attempt)
	case m.Opened != nil:
		l.peerOpened(m.Opened)
	case m.Selected != nil:
		l.peerSelected(m.Selected)
	case m.Failed != nil:
		l.peerFailed(m.Failed)
	case m.Want != nil:
		l.schedule(punch.TriggerNetwork)
	case m.Bind != nil:
		l.env.bind(l, m.Bind)
	case m.Bound != nil:
		l.env.bound(l, m.Bound)
	case m.Targets != nil:
		l.env.answerTargets(l, m.Targets)
	case m.Denied != nil:
		l.targetsAnswered(m.Denied)
	case m.Awake != nil:
		l.peerAwoke(m.Awake)
	case m.Bye != nil:
		l.end(&session.PeerClosedError{Reason: clip(m.Bye.Why, 200)})
	}
}

func (l *link) peerAnnounced(a *announcement) {
	if a.Generation <= l.remote.generation {
		return // an older one that was slow
	}
	first := l.remote.generation == 0
	l.remote.generation, l.remote.list = a.Generation, a.List
	if a.NAT != nil {
		l.whileUDP(func() { l.remote.nat, l.remote.silent, l.remote.own = a.NAT.nat(), a.NAT.Silent, a.NAT.Own })
		l.trace.Emit(a.NAT.event())
	}
	l.judgeCandidates(a.List)
	l.permitPeer()
	if first {
		l.schedule("")
	}
	l.reviewVerdict()
}

// judgeCandidates filters what the peer announced, records what is new, and
// hands it to the attempt that runs.
func (l *link) judgeCandidates(list []candidates.Candidate) (use []candidates.Candidate) {
	use, _, refused := candidates.Filter(list, l.filterEnv())
	note := func(c candidates.Candidate, why string) {
		if l.announced[c] || len(l.announced) > 8*maxCandidates {
			return
		}
		l.announced[c] = true
		l.trace.Emit(trace.Candidate{Remote: true, Type: string(c.Type), Addr: c.Addr, Tunnel: c.Tunnel, Refused: why})
	}
	for _, c := range use {
		note(c, "")
	}
	for _, r := range refused {
		note(r.Candidate, r.Why)
	}
	l.trickle(use)
	return use
}

// attach gives the link a way through signaling again.
func (l *link) attach(e *encounter) {
	l.meet(e)
	l.left.Store(false)
	l.do(func() {
		l.goneSince = time.Time{}
		l.unheard.met(time.Now())
		if !l.outage.since.IsZero() {
			l.outage.next = time.Now() // what was renewed while it was away may be old
		}
		if l.generation > 0 && !l.outage.since.IsZero() {
			l.announce() // the peer may have missed the last one
			l.permitPeer()
		}
		if at := l.attempts.current; at != nil && !at.running && at.start != nil {
			l.post.send(&message{Attempt: at.start})
		}
		l.reviewVerdict()
	})
}

// meet opens the way through signaling.
func (l *link) meet(e *encounter) {
	l.enc.Store(e)
	l.post.open(viaSignaling, e.send)
}

// detach takes the way through signaling away. gone means that the server says
// the peer left, and not just that we lost the server.
func (l *link) detach(gone bool) {
	l.enc.Store(nil)
	l.post.close(viaSignaling)
	if gone {
		l.left.Store(true)
	}
	l.do(func() {
		if gone && l.goneSince.IsZero() {
			l.goneSince = time.Now()
		}
		l.unheard.left(time.Now())
		l.noteRunEnded()
		l.reviewVerdict()
	})
}

// use takes servers, fresh credentials included.
func (l *link) use(s servers) {
	l.do(func() {
		had := len(l.servers.stun)
		l.useServers(s)
		if had == 0 && len(s.stun) > 0 {
			l.gather(l.announce)
		}
	})
}

// givesUpAt is when the link ends if nothing changes until then: the only place that
// knows. Zero: there is no such time. Without a session the wait for one is bounded.
func (l *link) givesUpAt() time.Time {
	if l.session.Load() == nil {
		return time.Time{}
	}
	at, _ := l.unheard.giveUp()
	return at
}

// pathChanged is everything that path reports.
func (l *link) pathChanged(c path.Change) {
	switch c.Event {
	case path.Added:
		if c.Path.Kind == path.Relayed {
			l.bindChannel(c.Path)
		}
	case path.Suspected:
		if alloc := l.allocationAt(c.Path.Local); alloc != nil {
			alloc.Nudge() // it may be gone; its next refresh is up to 25 s away
		}
	case path.CarrierFailed:
		l.carrierFailed(c)
	}
	lost := c.Event == path.Moved && c.Why != path.WhyHeld
	switch {
	case lost && plainDirect(c.From) && !plainDirect(c.Path), c.Event == path.Died && plainDirect(c.Path):
		l.schedule(punch.TriggerPathLost)
	case c.Event == path.Rerouted, c.Event == path.Died && c.Path.Kind == path.Direct:
		l.schedule("")
	}
	if lost && c.Path.Kind == path.Relayed && !l.probed {
		l.probeAt = time.Now().Add(relayedFor)
	}
	l.noteOutage()
	l.noteRunEnded()
	l.reviewVerdict()
	l.env.notify()
}

// plainDirect reports a path on whose way there is neither a relay nor a tunnel.
func plainDirect(p path.Status) bool { return p.Kind == path.Direct && !p.InTunnel }

func (l *link) carrierFailed(c path.Change) {
	if alloc, ok := c.Carrier.(*relay.Allocation); ok {
		l.allocationLost(alloc, c.Err)
	}
}

// errRunEnded ends a link whose process at the peer did not take its leave.
var errRunEnded = errors.New("the peer's program ended without a goodbye, as its next one says")

// runEnded takes the word of a later process on the peer's machine that the one
// which has this link is over.
func (l *link) runEnded() {
	l.do(func() {
		l.peerRunEnded = true
		l.noteRunEnded()
	})
}

// noteRunEnded ends the link of a process that is said to be over, once it has left
// signaling or is silent. One that is there and answers is not over, whatever another
// machine says that was started from a copy of its files.
func (l *link) noteRunEnded() {
	if l.peerRunEnded && l.deserted() {
		l.end(errRunEnded)
	}
}

// works reports whether the session is up and its path answers.
func (l *link) works() bool { return l.session.Load() != nil && l.post.alive.Load() }

// noteOutage starts and ends the time without a live path.
func (l *link) noteOutage() {
	active, ok := l.conn.Active()
	l.post.alive.Store(ok && active.State == path.Alive)
	now := time.Now()
	if !l.works() && l.wasUp.Load() && l.sightAt.IsZero() {
		l.sightAt = now
	}
	var alive bool
	var answered time.Time
	for _, p := range l.conn.Status() {
		if p.Barred != "" {
			continue
		}
		alive = alive || p.State == path.Alive
		if p.State != path.Probing && p.Answered.After(answered) {
			answered = p.Answered
		}
	}
	if alive {
		l.outage = outage{}
		l.unheard.paths(now, true)
		return
	}
	if l.outage.since.IsZero() {
		if answered.IsZero() {
			answered = now
		}
		l.unheard.paths(answered, false)
		l.outage = outage{since: answered, next: now.Add(healAfter)}
	}
}

// heal renews everything that may have died with a NAT mapping: the way to the
// signaling server, our candidates, the allocation. A first link that is just
// slow is left alone for a while.
func (l *link) heal(now time.Time) {
	o := &l.outage
	o.heals++
	o.next = now.Add(healBackoff(o.heals, !l.goneSince.IsZero()))
	if l.session.Load() == nil && o.heals == 1 {
		return
	}
	if l.goneSince.IsZero() { // else the server has told us something since: we reach it
		l.env.kick()
	}
	l.reviewVerdict() // signaling may be lost too by now
	l.conn.Nudge()
	l.dropAllocation()
	l.allocate()
	if l.attempts.current == nil && l.role == connector {
		l.schedule(punch.TriggerPathLost) // gathers
		return
	}
	l.gather(l.announce)
}

// healBackoff spreads the renewals of a long outage. A peer that has gone cannot be told
// of them, and may be asleep.
func healBackoff(heals int, gone bool) time.Duration {
	if gone && heals > 1 {
		return 2 * time.Minute
	}
	return min(2*time.Second<<min(heals-1, 4), 20*time.Second)
}

// networkChanged is a new address or route of ours, or the end of a sleep.
func (l *link) networkChanged() {
	l.do(func() {
		l.conn.Nudge()
		for _, alloc := range []*relay.Allocation{l.relaying.alloc, l.relaying.old} {
			if alloc != nil {
				alloc.Nudge()
			}
		}
		l.relaying.udpTries = 0
		l.lookForUDP()
		l.allocate()
		l.probed = false
		for _, s := range l.sockets {
			s.nat = candidates.NAT{} // of the network before
		}
		l.gather(l.announce)
		l.schedule(punch.TriggerNetwork)
	})
}

// reviewVerdict says which path and why, when that has changed, and when nothing
// passes any more or something does again.
func (l *link) reviewVerdict() {
	f, now := l.facts(), time.Now()
	v := judge(f)
	var old verdict
	if last := l.verdict.Load(); last != nil {
		old = last.verdict
	}
	l.verdict.Store(&judgement{v, f})
	if v == old {
		return
	}
	l.trace.Emit(v.at(now))
	switch {
	case v.outage():
		l.trace.Emit(trace.Outage{Silent: milliseconds(now.Sub(v.silent)), Verdict: v.at(now)})
	case old.outage():
		l.trace.Emit(trace.Outage{Over: true, Silent: milliseconds(now.Sub(old.silent)), Verdict: v.at(now)})
	}
}

// judged returns the verdict of this moment; the last one when the link has
// ended. It waits for the loop.
func (l *link) judged() (j judgement) {
	reviewed := make(chan struct{})
	l.do(func() { l.reviewVerdict(); close(reviewed) })
	select {
	case <-reviewed:
	case <-l.ended:
	}
	if last := l.verdict.Load(); last != nil {
		j = *last
	}
	return j
}

func (l *link) facts() facts {
	f := facts{
		Session: l.wasUp.Load(), Silent: l.outage.since, GiveUp: l.givesUpAt(), Sight: l.sight(),
		RelayOnly: l.relayOnly(), PeerRelayOnly: l.peerRelayOnly,
		Attempts: l.attempts.ended, LastErr: l.attempts.lastErr, Candidates: l.remote.usable,
		Ours: l.nat(), Peers: l.remote.nat, PeersSilent: l.remote.silent,
		OwnSTUN: l.env.cfg.STUN != nil, PeersOwnSTUN: l.remote.own,
	}
	l.relayFacts(&f)
	for _, p := range l.conn.Status() {
		if p.Active {
			f.Path, f.State, f.Answered, f.Held = p.Kind, p.State, p.Answered, p.Kind == l.conn.Held()
			f.InTunnel, f.Tunnel = p.InTunnel, p.Tunnel
		}
		f.Another = f.Another || p.Duplicate
		f.OneWay = f.OneWay || p.Silent < heardLately
	}
	return f
}

// lookForSight keeps what signaling says of the peer no older than it may be, while the
// path in use does not answer: the connection to the server may have died with it.
func (l *link) lookForSight(now time.Time) {
	if l.works() || !l.wasUp.Load() {
		l.sightAt = time.Time{}
		return
	}
	l.sightAt = now.Add(sightCheck)
	l.env.client.Check()
	l.reviewVerdict()
}

// sight is what signaling says of the peer.
func (l *link) sight() sight {
	connected, _, _ := l.env.client.State()
	switch {
	case !connected:
		return sightLost
	case time.Since(l.env.client.Heard()) > sightLasts:
		return sightOld
	case l.env.sees(l.peer): // perhaps again, and not yet met
		return sightThere
	case !l.goneSince.IsZero():
		return sightLeft
	}
	return sightAbsent
}
