package path

import "time"

const (
	// A pause of payload for a trial ends with the answer, or after this. The first
	// two are the least that is waited for one, so that a busy machine bars nothing.
	trialMin       = 300 * time.Millisecond
	trialMinTunnel = 150 * time.Millisecond // where no answer is likelier
	trialMax       = 2 * time.Second

	trialAsks  = 4           // probes in it
	trialPause = time.Second // between two trials, of whatever paths

	failuresToBar = 3                // trials in a row that bring no answer bar the path
	barredPause   = 30 * time.Second // to the next trial of a barred path; doubles
	maxBarred     = 2 * time.Minute

	clearFor = 30 * time.Second // a path in a tunnel is tried again after its last proof
)

// A trial finds out whether a path is carried by this Conn's own payload, as a
// VPN is whose packets go through a forward of the link: payload moved there
// would carry itself, and nothing would leave the host any more. What a probe is
// carried by must leave after it. So a probe that is answered while no payload
// leaves clears its path, for certain. Often there is such a moment; where there
// is none, a trial makes one, which lasts a round trip of that path: payload
// waits until the answer is here.
//
// No answer in such a pause is no proof, as probes are lost. Several trials in a
// row without one, of a path that answers as long as payload flows, bar it until
// a later one clears it.
type trial struct {
	id      int
	until   time.Duration // it has failed then
	nextAsk time.Duration
	gap     time.Duration // to the ask after that; doubles
	asks    int
}

// clearance is what trials say of one path.
type clearance struct {
	at       time.Duration // of the last proof; 0: none
	failures int           // trials without an answer since
	barred   bool          // it is taken to carry our own packets
	next     time.Duration // no trial before
}

// couldCarryUs reports whether a path could be carried by our own payload. A
// relay is reached past every forward, unless the way to it is in a tunnel.
func (p *track) couldCarryUs() bool { return p.hops() == 0 || p.inTunnel() }

// clear reports that a path is known not to carry our own packets. What a tunnel
// goes through may change, so that its proof does not last.
func (p *track) clear(now time.Duration) bool {
	switch {
	case !p.couldCarryUs():
		return true
	case p.cleared.at == 0:
		return false
	}
	return !p.inTunnel() || now-p.cleared.at < clearFor
}

// doubt takes the proof away.
func (p *track) doubt() { p.cleared.at = 0 }

// quiet notes that a probe of p was answered while no payload left.
func (e *engine) quiet(now time.Duration, p *track) {
	e.judgeAnew(p, clearance{at: now}, "probes are answered while no payload leaves")
}

// judgeAnew puts aside what trials have said of p.
func (e *engine) judgeAnew(p *track, c clearance, why string) {
	if p.cleared.barred {
		e.do(becameCleared{p, why})
	}
	p.cleared = c
}

// wantsTrial reports whether payload might go to a path that is not cleared, and
// a trial would tell. It cannot be carried by itself: alone, it needs no trial.
func (e *engine) wantsTrial(now time.Duration, p *track) bool {
	due := now >= p.cleared.next || p.cleared.barred && e.stranded()
	return p.state == Alive && p.care >= warm && !p.clear(now) && due && 2*p.rtt <= trialMax &&
		e.policy.permits(p.hops()) && e.others(p)
}

// others reports whether anything but p could carry its packets.
func (e *engine) others(p *track) bool {
	for _, o := range e.paths {
		if o != p && (o.state == Alive || o.state == Suspect) && !o.cleared.barred && e.policy.permits(o.hops()) {
			return true
		}
	}
	return e.stranded()
}

// stranded reports that payload has no path that works.
func (e *engine) stranded() bool {
	p := e.byID(e.cur.primary)
	return p == nil || p.state == Dead
}

// runTrial runs the trial under way, or starts one that is due.
func (e *engine) runTrial(now time.Duration) {
	if t := e.trial; t != nil {
		p := e.byID(t.id)
		switch {
		case p == nil || p.state != Alive || p.clear(now):
			e.endTrial(now)
		case now >= t.until:
			e.endTrial(now)
			e.trialFailed(now, p)
		case t.asks < trialAsks && now >= t.nextAsk:
			e.ask(now, p)
		}
		return
	}
	if now < e.trialAt {
		return
	}
	var best *track
	for _, p := range e.paths {
		if e.wantsTrial(now, p) {
			pf := p.fact(now)
			if best == nil {
				best = p
			} else if bf := best.fact(now); better(&pf, &bf) {
				best = p
			}
		}
	}
	if best == nil {
		return
	}
	wait := best.trialWait()
	e.trial = &trial{id: best.id, until: now + wait, gap: wait / 8}
	e.do(pausePayload{true})
	e.ask(now, best)
}

// trialWait is how long an answer is waited for. A round trip that has grown is
// believed of a path outside of tunnels: its queues are full. That of a tunnel
// which our payload carries grows with each trial, the peer's too.
func (p *track) trialWait() time.Duration {
	wait, least := 2*p.rtt+4*p.rttVar, trialMin
	if p.inTunnel() {
		wait, least = min(wait, 3*p.rttMin), trialMinTunnel
	}
	return min(max(wait, least), trialMax)
}

// ask sends a probe of the trial: at once, and after an eighth, three eighths
// and seven eighths of it.
func (e *engine) ask(now time.Duration, p *track) {
	t := e.trial
	t.asks++
	t.nextAsk = now + t.gap
	t.gap *= 2
	e.send(now, p, 0)
	p.sent[len(p.sent)-1].trial = true
}

func (e *engine) endTrial(now time.Duration) {
	e.trial, e.trialAt, e.releasedAt = nil, now+trialPause, now
	e.do(pausePayload{false})
}

// trialFailed counts, and bars the path after enough of them.
func (e *engine) trialFailed(now time.Duration, p *track) {
	c := &p.cleared
	c.failures++
	if c.failures < failuresToBar {
		return
	}
	c.next = now + min(barredPause<<min(c.failures-failuresToBar, 8), maxBarred)
	if !c.barred {
		c.barred = true
		e.do(becameBarred{p})
	}
}

// wake returns when there is something to do next.
func (t *trial) wake() time.Duration {
	if t.asks < trialAsks {
		return min(t.nextAsk, t.until)
	}
	return t.until
}
