package path

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A path is the data path's half of what the engine calls a track.
type path struct {
	id      int
	carrier *carrier
	remote  netip.AddrPort

	size         atomic.Int64 // largest datagram that goes unsplit
	trustedUntil atomic.Int64 // clock time; payload is taken until then
	consentUntil atomic.Int64 // clock time; payload is sent until then
	dataAt       atomic.Int64 // clock time of the last payload that came in
	out, in      traffic

	seenOut uint64 // guarded by Conn.mu
}

// A route is where payload goes; replaced as a whole.
type route struct {
	primary   *path
	duplicate *path // nil: none
}

// a message that is built and can be sent once the lock is released.
type outgoing struct {
	path *path
	raw  []byte
}

// update is step, for events that keepTime does not know of.
func (c *Conn) update(events func(now time.Duration)) {
	c.step(events)
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// step runs events on the engine and does what it asks for. State changes
// under the lock, so that they happen in order; sending comes after it.
func (c *Conn) step(events func(now time.Duration)) {
	c.mu.Lock()
	now := c.now()
	c.engine.sentAt = time.Duration(c.sentAt.Load())
	events(now)
	sends, replays := c.apply(now, c.engine.take())
	c.mu.Unlock()

	for _, s := range sends {
		s.path.sendProbe(s.raw)
	}
	for _, r := range replays {
		r.path.replay(r.datagrams)
	}
}

type pendingReplay struct {
	path      *path
	datagrams [][]byte
}

func (c *Conn) apply(now time.Duration, actions []action) (sends []outgoing, replays []pendingReplay) {
	for _, a := range actions {
		switch a := a.(type) {
		case openPath:
			c.open(a.path)
		case closePath:
			c.closePath(a.path, a.why)
		case trust:
			if p := c.paths[a.id]; p != nil {
				p.trustedUntil.Store(int64(a.until))
			}
		case consent:
			if p := c.paths[a.id]; p != nil {
				p.consentUntil.Store(int64(a.until))
			}
		case setSize:
			c.setSize(a)
		case setRoute:
			c.setRoute(a)
		case sendProbe:
			if s, ok := c.buildProbe(a); ok {
				sends = append(sends, s)
			}
		case replay:
			if p := c.paths[a.id]; p != nil {
				replays = append(replays, pendingReplay{p, c.ring.between(a.since, a.until)})
			}
		case pinged:
			c.tellPing(a)
		case becameUsable:
			t := a.path
			c.cfg.Trace.Emit(trace.PathAdded{Path: c.tracePath(t), RTT: ms(t.rtt), Size: t.size.proven})
			c.tell(Change{Event: Added, Path: c.status(t)})
		case becameSuspect:
			const why = "probes are not answered"
			ev := trace.PathSuspected{Path: c.tracePath(a.path), Why: why, Silent: ms(a.silent), Active: a.path.id == c.engine.cur.primary}
			if t := c.engine.byID(c.engine.cur.duplicate); ev.Active && t != nil {
				second := c.tracePath(t)
				ev.Second = &second
			}
			c.cfg.Trace.Emit(ev)
			c.tell(Change{Event: Suspected, Path: c.status(a.path), Why: why})
		case becameAlive:
			c.signalMoved()
			c.tell(Change{Event: Recovered, Path: c.status(a.path)})
		case pausePayload:
			c.out.pause(a.on)
		case becameBarred:
			c.cfg.Trace.Emit(trace.PathBarred{Path: c.tracePath(a.path), Barred: true, Why: whyBarred})
			c.tell(Change{Event: Barred, Path: c.status(a.path), Why: whyBarred})
		case becameCleared:
			c.cfg.Trace.Emit(trace.PathBarred{Path: c.tracePath(a.path), Why: a.why})
			c.tell(Change{Event: Cleared, Path: c.status(a.path), Why: a.why})
		case becameTunnel:
			c.tell(Change{Event: Rerouted, Path: c.status(a.path)})
		case becameDead:
			c.tell(Change{Event: Died, Path: c.status(a.path)})
		}
	}
	return sends, replays
}

func (c *Conn) open(t *track) {
	k := c.carrierByID(t.key.carrier)
	if k == nil {
		return
	}
	p := &path{id: t.id, carrier: k, remote: t.key.remote}
	c.paths[t.id] = p
	k.admit(p)
}

func (c *Conn) closePath(t *track, why string) {
	p := c.paths[t.id]
	if p == nil {
		return
	}
	st := c.status(t)
	if r := c.route.Load(); r != nil && r.primary == p {
		c.left = st // the route is told after this
	}
	delete(c.paths, t.id)
	p.carrier.expel(p)
	if t.state == Probing {
		return // it was never announced
	}
	c.cfg.Trace.Emit(trace.PathClosed{
		Path: tracePath(st), Why: why,
		BytesIn: int64(st.In.Total()), BytesOut: int64(st.Out.Total()),
	})
	c.tell(Change{Event: Closed, Path: st, Why: why})
}

func (c *Conn) setSize(a setSize) {
	p, t := c.paths[a.id], c.engine.byID(a.id)
	if p == nil || t == nil {
		return
	}
	p.size.Store(int64(a.to))
	if t.state != Probing { // PathAdded says the first one
		c.cfg.Trace.Emit(trace.PathSize{Path: c.tracePath(t), From: a.from, To: a.to})
	}
}

func (c *Conn) setRoute(a setRoute) {
	var r *route
	if p := c.paths[a.to.primary]; p != nil {
		r = &route{primary: p, duplicate: c.paths[a.to.duplicate]}
	}
	c.route.Store(r)
	if a.from.primary == a.to.primary {
		return
	}
	ch := Change{Event: Moved, Why: a.why}
	ev := trace.PathChanged{Why: a.why}
	if t := c.engine.byID(a.from.primary); t != nil {
		ch.From = c.status(t)
		from := c.tracePath(t)
		ev.From = &from
	} else if a.from.primary != 0 && a.from.primary == c.left.ID {
		from := tracePath(c.left)
		ev.From = &from
		if a.to.primary == 0 {
			ev.Why = WhyClosed
		}
	}
	if t := c.engine.byID(a.to.primary); t != nil {
		ch.Path = c.status(t)
		to := c.tracePath(t)
		ev.To, ev.RTT = &to, ms(t.rtt)
	}
	c.cfg.Trace.Emit(ev)
	c.tell(ch)
	c.signalMoved()
}

// signalMoved wakes those who wait for a usable path.
func (c *Conn) signalMoved() {
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *Conn) buildProbe(a sendProbe) (outgoing, bool) {
	p := c.paths[a.id]
	if p == nil {
		return outgoing{}, false
	}
	mark := p.carrier.mark()
	mark.needed, mark.seq = a.needed, a.seq
	if t := c.engine.byID(a.id); t != nil {
		mark.tunnel = t.tunnel != ""
	}
	raw, id, err := c.prober.request(mark, a.size)
	if err != nil {
		c.cfg.Trace.Emit(trace.Failure{Where: "build a probe", Err: err.Error()})
		return outgoing{}, false
	}
	c.ledger.add(id, a.seq)
	return outgoing{p, raw}, true
}

func (c *Conn) carrierByID(id int) *carrier {
	for _, k := range c.carriers {
		if k.id == id {
			return k
		}
	}
	return nil
}
