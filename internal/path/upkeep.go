package path

import (
	"math"
	"slices"
	"time"
)

// tick does what is due. What is in use is chosen before probes are sent, for
// it decides how many.
func (e *engine) tick(now time.Duration) {
	e.lookUpRoutes(now)
	unneeded := surplus(e.facts(now), now)
	e.closeWhere(now, func(p *track) (string, bool) {
		switch {
		case !e.policy.permits(p.hops()):
			return "policy", true
		case p.state == Probing && now >= p.tryUntil && p.answeredAt == 0:
			return "no answer", true
		case p.state == Probing && now >= p.tryUntil:
			return "carries less than 548 bytes", true
		case p.state == Dead && now-p.since >= deadFor && e.anyAlive():
			return "dead", true
		case e.leftBehind(p):
			return "the peer has another address on the relay", true
		case slices.Contains(unneeded, p.id):
			return "not needed", true
		}
		return "", false
	})
	for _, p := range e.paths {
		e.expire(now, p)
	}
	e.review(now)
	for _, p := range e.paths {
		e.probe(now, p)
	}
	e.runTrial(now)
	if e.pending != nil && now-e.replayedAt >= replayEvery {
		e.replayNow(now, *e.pending)
	}
}

func (e *engine) facts(now time.Duration) []fact {
	facts := make([]fact, len(e.paths))
	for i, p := range e.paths {
		facts[i] = p.fact(now)
	}
	return facts
}

// expire counts probes that are overdue, and draws the conclusions.
func (e *engine) expire(now time.Duration, p *track) {
	size := p.size.proven
	for _, s := range p.overdue(now) {
		switch answeredSince := p.answeredSent >= s.at; {
		case s.size > 0 && answeredSince:
			for _, n := range p.size.missed(now, s.size, p.climbsTo()) {
				e.send(now, p, n)
			}
		case s.size == 0 && !answeredSince && !s.trial:
			p.misses++
			if p.misses == 1 && p.state == Alive {
				p.probeSoon(now)
			}
		}
	}
	if p.size.proven < size {
		e.noteSize(p, size)
		if p.id == e.cur.primary || p.id == e.cur.duplicate {
			e.replay(now, p.id, p.fullSent)
		}
	}

	switch {
	case p.state == Alive && p.misses >= p.patience(now):
		p.enter(now, Suspect)
		e.do(becameSuspect{p, now - p.silentSince()})
	case p.state == Suspect && now-p.silentSince() >= p.deadAfter():
		p.enter(now, Dead)
		e.do(becameDead{p})
	}
}

// probe sends the probes of p that are due. A padded one goes before the small
// one: its answer then says both that the path is open and what it carries.
func (e *engine) probe(now time.Duration, p *track) {
	if now >= p.nextAt {
		wait, ok := p.fastPause()
		if !ok {
			wait = pause(p.state, p.care, now-p.since, e.anyAlive())
			wait -= e.jitter(wait / jitterShare)
		}
		p.nextAt = now + wait
		switch {
		case p.opens(now):
			p.fullAt = now
			e.send(now, p, sizeBase)
		case p.fullDue(now):
			p.loaded, p.fullAt = false, now
			e.send(now, p, p.size.proven)
		}
		e.send(now, p, 0)
	}
	if !p.measures() {
		return
	}
	for _, n := range p.size.raise(now, p.climbsTo(), p.rtt*3/2) {
		e.send(now, p, n)
	}
	if p.care == warm {
		if n := p.size.sweep(now); n > 0 {
			e.send(now, p, n)
		}
	}
}

func (e *engine) send(now time.Duration, p *track, size int) {
	e.seq++
	p.sent = append(p.sent, probe{seq: e.seq, size: size, at: now, due: now + p.timeout()})
	if len(p.sent) > maxOutstanding {
		p.sent = slices.Delete(p.sent, 0, 1)
	}
	if size == 0 && p.askedAt == 0 {
		p.askedAt = now
	}
	e.do(sendProbe{p.id, e.seq, size, p.care > cold || p.state == Probing})
}

func (e *engine) anyAlive() bool {
	return slices.ContainsFunc(e.paths, func(p *track) bool { return p.state == Alive })
}

// review chooses again, moves payload when the choice is another one, and has
// each path treated as it deserves then.
func (e *engine) review(now time.Duration) {
	facts := e.facts(now)
	was := e.cur
	next, why := e.choose(now, facts)
	e.cur = next
	for i, c := range cares(e.policy, facts, next) {
		e.paths[i].treat(now, c)
	}
	if next.primary == was.primary && next.duplicate == was.duplicate {
		return
	}
	e.do(setRoute{was, next, why})
	lost := e.lastCrossing(was.primary)
	if next.primary != was.primary && next.primary != 0 {
		e.replay(now, next.primary, lost)
	}
	if next.duplicate != 0 && next.duplicate != was.duplicate {
		e.replay(now, next.duplicate, lost)
	}
}

// choose is choose among the paths that payload is held to.
func (e *engine) choose(now time.Duration, facts []fact) (choice, string) {
	left, held := heldTo(e.holdTo, e.policy, facts)
	next, why := choose(e.policy, left, now, e.cur)
	if held && why != "" {
		if old := e.byID(e.cur.primary); old != nil && kindOf(old.hops()) != e.holdTo {
			why = WhyHeld
		}
	}
	return next, why
}

// hold keeps payload on paths of one kind; "" lets it go.
func (e *engine) hold(now time.Duration, kind Kind) {
	e.holdTo = kind
	e.tick(now)
}

// lastCrossing returns since when it is not known whether a path has delivered
// what was sent over it.
func (e *engine) lastCrossing(id int) time.Duration {
	if p := e.byID(id); p != nil {
		return p.answeredSent
	}
	return 0
}

// replay has the datagrams since then sent again, now or when replayEvery is
// over. Of several replays that wait, the last says where to, the first since
// when.
func (e *engine) replay(now time.Duration, id int, since time.Duration) {
	r := replay{id: id, since: since, until: math.MaxInt64}
	if e.pending != nil {
		r.since = min(since, e.pending.since)
	}
	if now-e.replayedAt < replayEvery {
		r.until = now // what is sent meanwhile goes where it should
		e.pending = &r
		return
	}
	e.replayNow(now, r)
}

func (e *engine) replayNow(now time.Duration, r replay) {
	e.replayedAt, e.pending = now, nil
	e.do(r)
}

// closeWhere closes the paths that match, and chooses again if any did.
func (e *engine) closeWhere(now time.Duration, match func(*track) (why string, ok bool)) {
	var closed bool
	e.paths = slices.DeleteFunc(e.paths, func(p *track) bool {
		why, ok := match(p)
		if ok {
			e.do(closePath{p, why})
			closed = true
		}
		return ok
	})
	if closed {
		e.review(now)
	}
}

// wake returns when tick has something to do next.
func (e *engine) wake() time.Duration {
	next := time.Duration(math.MaxInt64)
	for _, p := range e.paths {
		next = min(next, p.wake())
	}
	if e.pending != nil {
		next = min(next, e.replayedAt+replayEvery)
	}
	if e.trial != nil {
		next = min(next, e.trial.wake())
	}
	return next
}
