package path

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	maxPaths    = 32
	maxUnproven = 16 // of them such that the peer's probes alone made

	tryFor     = 30 * time.Second // a path that never answered is given up
	deadFor    = 2 * time.Minute  // a dead one is, while another is alive
	trustFor   = 30 * time.Second // a source may deliver payload after an authenticated probe
	quarantine = time.Second      // after the first death; doubles
	maxWary    = 30 * time.Second // longest quarantine
	lateAnswer = 10 * time.Second // an answer later than this is not known any more
	consentFor = 30 * time.Second // payload is sent after an answer (RFC 7675 section 5.1)

	routesEvery = 2 * time.Second // it is looked up which paths leave through a tunnel
)

// ErrNotPermitted is the answer to a path that RequireDirect or RelayOnly
// excludes.
var ErrNotPermitted = errors.New("not permitted by the policy")

var (
	errTooManyPaths = errors.New("too many paths")
	errNoCarrier    = errors.New("no such carrier")
)

// A key names a path by what it consists of: packets of one carrier to and
// from one remote address.
type key struct {
	carrier int
	remote  netip.AddrPort
}

// The engine decides: which probes to send when, what their answers and their
// absence mean, and where payload goes. It does no I/O and reads no clock: its
// methods are the events, each with the time since the Conn was made, and
// leave actions in out.
type engine struct {
	policy policy
	max    int                               // largest datagram
	jitter func(time.Duration) time.Duration // random, from 0 to below what is given

	// tunnelOf looks up by which tunnel interface of this host the packets of a
	// path leave now; "" is none.
	tunnelOf func(key) string
	routesAt time.Duration // when that was last done

	carriers map[int]reach           // by id
	relays   map[netip.AddrPort]bool // the peer's addresses on relays; true: it is there now
	paths    []*track                // by id, ascending
	lastID   int
	seq      uint64

	sentAt  time.Duration // when payload last left; set from outside before an event
	trial   *trial        // under way
	trialAt time.Duration // no other before

	releasedAt time.Duration // when payload was last let go after one

	cur        choice
	holdTo     Kind // where payload is to stay; "" is where it is best
	replayedAt time.Duration
	pending    *replay // comes when replayEvery is over

	out []action
}

func newEngine(p policy, maxDatagram int, jitter func(time.Duration) time.Duration) *engine {
	return &engine{
		policy:     p,
		max:        maxDatagram,
		jitter:     jitter,
		tunnelOf:   func(key) string { return "" },
		carriers:   make(map[int]reach),
		relays:     make(map[netip.AddrPort]bool),
		replayedAt: -replayEvery,
	}
}

func (e *engine) do(a action) { e.out = append(e.out, a) }

// take returns the actions since the last call.
func (e *engine) take() []action {
	out := e.out
	e.out = nil
	return out
}

func (e *engine) find(k key) *track {
	for _, p := range e.paths {
		if p.key == k {
			return p
		}
	}
	return nil
}

func (e *engine) byID(id int) *track {
	i, ok := slices.BinarySearchFunc(e.paths, id, func(p *track, id int) int { return cmp.Compare(p.id, id) })
	if !ok {
		return nil
	}
	return e.paths[i]
}

// A reach is how far a carrier goes before its packets are on the open network.
type reach struct {
	relay  bool // it is a relay allocation
	stream bool // whose server is reached over TCP or TLS
}

func (e *engine) addCarrier(id int, r reach) { e.carriers[id] = r }

// removeCarrier forgets a carrier and closes its paths.
func (e *engine) removeCarrier(now time.Duration, id int, why string) {
	delete(e.carriers, id)
	e.closeWhere(now, func(p *track) (string, bool) { return why, p.key.carrier == id })
}

// try starts to probe a possible path, or starts anew with one that is not
// alive. remoteRelayed says that the remote address is a relay's.
func (e *engine) try(now time.Duration, k key, remoteRelayed bool) error {
	ours, ok := e.carriers[k.carrier]
	if !ok {
		return errNoCarrier
	}
	if p := e.find(k); p != nil {
		p.tryUntil = now + tryFor
		if p.state != Alive {
			p.probeSoon(now)
			e.tick(now)
		}
		return nil
	}
	p := &track{key: k, local: ours, remoteRelayed: remoteRelayed || e.onRelay(k.remote)}
	if !e.policy.permits(p.hops()) {
		return fmt.Errorf("path to %v with %d relays: %w", k.remote, p.hops(), ErrNotPermitted)
	}
	if len(e.paths) >= maxPaths && !e.evict(now) {
		return fmt.Errorf("path to %v: %w", k.remote, errTooManyPaths)
	}
	e.open(now, p)
	e.tick(now)
	return nil
}

func (e *engine) open(now time.Duration, p *track) {
	e.lastID++
	p.id, p.state, p.since, p.tryUntil, p.neededAt = e.lastID, Probing, now, now+tryFor, now
	p.tunnel = e.tunnelOf(p.key)
	p.size.max = e.max
	p.probeSoon(now)
	e.paths = append(e.paths, p)
	e.do(openPath{p})
}

// evict closes the path that is least likely to be missed, if there is one.
func (e *engine) evict(now time.Duration) bool {
	var worst *track
	for _, p := range e.paths {
		expendable := p.state == Dead || p.state == Probing
		if expendable && p.id != e.cur.primary && (worst == nil || p.answeredAt < worst.answeredAt) {
			worst = p
		}
	}
	if worst == nil {
		return false
	}
	e.closeWhere(now, func(p *track) (string, bool) { return "made room", p == worst })
	return true
}

// expect announces where on relays the peer is now. Where it was before are
// relays' addresses still, while anything works there.
func (e *engine) expect(now time.Duration, relays []netip.AddrPort) {
	for a := range e.relays {
		e.relays[a] = false
	}
	for _, a := range relays {
		e.relays[a] = true
	}
	for _, p := range e.paths {
		if e.onRelay(p.key.remote) {
			p.remoteRelayed = true
		}
	}
	e.tick(now)
}

// onRelay reports an address that the peer has or had on a relay.
func (e *engine) onRelay(remote netip.AddrPort) bool {
	_, ok := e.relays[remote]
	return ok
}

// leftBehind reports a path to where the peer was on a relay before it was given
// another address there. An allocation that is lost does not come back.
func (e *engine) leftBehind(p *track) bool {
	now, known := e.relays[p.key.remote]
	return known && !now && (p.state == Dead || p.state == Probing)
}

// request takes an authenticated request from the peer, and reports whether to
// answer it. The path it came over becomes known by it, unless the peer does
// not need it either. A path that may not carry payload is not answered: the
// peer would take it for usable.
func (e *engine) request(now time.Duration, k key, said probeMark) bool {
	ours, ok := e.carriers[k.carrier]
	if !ok {
		return false
	}
	p := e.find(k)
	if p == nil {
		p = &track{key: k, local: ours, remoteRelayed: said.relay || e.onRelay(k.remote), fromPeer: true}
		if !e.policy.permits(p.hops()) {
			return false
		}
		if !said.needed {
			return true
		}
		if e.unproven() >= maxUnproven || len(e.paths) >= maxPaths && !e.evict(now) {
			return true
		}
		e.open(now, p)
	} else if p.state != Alive && p.fast > 1 {
		p.probeSoon(now) // the peer is back: do not wait for our own turn
	}
	if said.needed {
		p.neededAt = now
	}
	e.heardFrom(now, p, said)
	permitted := e.policy.permits(p.hops())
	e.tick(now)
	return permitted
}

func (e *engine) unproven() (n int) {
	for _, p := range e.paths {
		if p.fromPeer && p.state == Probing {
			n++
		}
	}
	return n
}

// heardFrom takes what any authenticated message over a path says.
func (e *engine) heardFrom(now time.Duration, p *track, said probeMark) {
	p.heardAt = now
	if said.relay {
		p.remoteRelayed = true
	}
	p.remoteStream = said.relay && said.stream
	e.inTunnel(p, p.tunnel, said.tunnel)
	if e.policy.permits(p.hops()) {
		e.do(trust{p.id, now + trustFor})
	}
}

// answer takes an authenticated answer to the probe seq that came over k.
func (e *engine) answer(now time.Duration, k key, seq uint64, said probeMark) {
	p := e.find(k)
	if p == nil {
		return
	}
	i := slices.IndexFunc(p.sent, func(s probe) bool { return s.seq == seq })
	if i < 0 {
		return
	}
	s := p.sent[i]
	p.sent = slices.Delete(p.sent, i, i+1)

	lost := p.answeredSent // what was sent from here on may have been lost
	was, size := p.state, p.size.proven
	if s.ping {
		e.do(pinged{s.seq, now - s.at})
	}
	p.answered(now, s, s.at < e.releasedAt && !p.clear(now))
	e.heardFrom(now, p, said)
	if e.sentAt < s.at {
		e.quiet(now, p)
	}
	e.do(consent{p.id, now + consentFor})
	e.noteSize(p, size)

	switch {
	case was == Probing && p.size.proven > 0:
		p.enter(now, Alive)
		e.do(becameUsable{p})
	case was == Suspect || was == Dead:
		if was == Dead {
			p.deaths++
			p.waryUntil = now + min(quarantine<<min(p.deaths-1, 8), maxWary)
		}
		p.enter(now, Alive)
		e.do(becameAlive{p})
		if p.id == e.cur.primary {
			e.replay(now, p.id, lost)
		}
	}
	e.tick(now)
}

func (e *engine) noteSize(p *track, before int) {
	if p.size.proven != before {
		e.do(setSize{p.id, before, p.size.proven})
	}
}

// lookUpRoutes learns which paths leave through a tunnel now: routes change
// under a path.
func (e *engine) lookUpRoutes(now time.Duration) {
	if now-e.routesAt < routesEvery {
		return
	}
	e.routesAt = now
	for _, p := range e.paths {
		e.inTunnel(p, e.tunnelOf(p.key), p.peerTunnel)
	}
}

// inTunnel notes what either side knows of a tunnel under a path.
func (e *engine) inTunnel(p *track, ours string, peers bool) {
	was := p.inTunnel()
	p.tunnel, p.peerTunnel = ours, peers
	if p.inTunnel() == was {
		return
	}
	e.judgeAnew(p, clearance{}, "it goes another way now")
	if p.state != Probing {
		e.do(becameTunnel{p})
	}
}

// carried tells what the data path saw of p since the last call: when payload
// last came in, and whether any went out.
func (e *engine) carried(id int, heardAt time.Duration, sent bool) {
	if p := e.byID(id); p != nil {
		p.dataAt = max(p.dataAt, heardAt)
		p.loaded = p.loaded || sent
	}
}

// nudge probes every path now, as if it were new: the network has changed, or
// the machine has slept.
func (e *engine) nudge(now time.Duration) {
	e.routesAt = now - routesEvery
	for _, p := range e.paths {
		p.probeSoon(now)
	}
	e.tick(now)
}

// refused takes the news that this host's own network takes no datagram of
// size bytes for a path. What was sent so is not missing. The next smaller size
// is probed at once, and refused in turn if it is too long as well.
func (e *engine) refused(now time.Duration, id, size int) {
	p := e.byID(id)
	if p == nil {
		return
	}
	p.sent = slices.DeleteFunc(p.sent, func(s probe) bool { return s.size >= size })
	before := p.size.proven
	p.size.refused(now, size)
	if p.size.proven < before {
		e.noteSize(p, before)
		p.fullAt = now
		e.send(now, p, p.size.proven)
	}
	e.tick(now)
}
