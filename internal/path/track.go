package path

import "time"

// What the round trip time decides is bounded from above too: it grows without
// end in a queue that nothing leaves any more, and a dead path looks like one.
const (
	minTimeout   = 300 * time.Millisecond
	usualTimeout = time.Second     // longest while the round trip is below half of it, or not known
	maxTimeout   = 8 * time.Second // longest of all
	minDead      = 5 * time.Second
	maxDead      = 15 * time.Second

	forgiveAfter    = 2 * time.Minute // of life, deaths before it are forgotten
	missesToSuspect = 2
	dataCountsFor   = time.Second // how long payload that came in excuses a missing answer

	maxOutstanding = 128
)

// fastRetries are the pauses between the first probes of a path that is new,
// suspect, or that a nudge has put in question.
var fastRetries = [...]time.Duration{
	20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond,
	160 * time.Millisecond, 320 * time.Millisecond, 640 * time.Millisecond,
}

// A track is what the engine keeps of one path.
type track struct {
	id            int
	key           key
	local         reach  // our end
	remoteRelayed bool   // the peer's end is a relay allocation
	remoteStream  bool   // which it reaches over TCP or TLS, it says
	fromPeer      bool   // the peer's probe made it known
	tunnel        string // tunnel interface of ours that its packets leave by; "" is none
	peerTunnel    bool   // the peer's leave through a tunnel, it says

	state    State
	since    time.Duration // in this state
	tryUntil time.Duration

	care     care
	neededAt time.Duration // when it was last more than cold, to either side

	sent    []probe // not answered yet; overdue ones stay for late answers
	misses  int     // small probes overdue since the last answer
	fast    int     // next of fastRetries
	nextAt  time.Duration
	askedAt time.Duration // when the first small probe since the last answer was sent; 0: none was

	answeredAt   time.Duration // when the last answer came
	answeredSent time.Duration // when the newest probe that was answered had been sent
	fullSent     time.Duration // the same of one of the proven size
	heardAt      time.Duration // when any authenticated message came
	dataAt       time.Duration // when payload came
	rtt, rttVar  time.Duration // smoothed as in RFC 6298; 0: none yet
	rttMin       time.Duration // shortest

	size   sizer
	loaded bool          // payload went out since the last full-size probe
	fullAt time.Duration // when that was sent

	cleared clearance // of the suspicion that our own payload carries it

	deaths    int
	waryUntil time.Duration // quarantine
}

// A probe is one request that was sent.
type probe struct {
	seq     uint64
	size    int // 0 is a small one
	at      time.Duration
	due     time.Duration
	overdue bool
	trial   bool // sent while payload waited for it
	ping    bool // somebody waits for the answer
}

func (p *track) hops() (n int) {
	if p.local.relay {
		n++
	}
	if p.remoteRelayed {
		n++
	}
	return n
}

// stream reports that TCP or TLS is on the way, to a relay of either side.
func (p *track) stream() bool { return p.local.stream || p.remoteStream }

// inTunnel reports that the packets of either side leave through a tunnel.
func (p *track) inTunnel() bool { return p.tunnel != "" || p.peerTunnel }

func (p *track) fact(now time.Duration) fact {
	return fact{
		id:        p.id,
		hops:      p.hops(),
		stream:    p.stream(),
		tunnel:    p.inTunnel(),
		uncleared: !p.clear(now),
		barred:    p.cleared.barred,
		rtt:       p.rtt,
		state:     p.state,
		trusted:   now >= p.waryUntil,
		answered:  p.answeredAt,
		care:      p.care,
		neededAt:  p.neededAt,
	}
}

func (p *track) enter(now time.Duration, s State) {
	if p.state == Alive && now-p.since > forgiveAfter {
		p.deaths = 0
	}
	p.state, p.since = s, now
	if s == Dead || s == Suspect && p.inTunnel() {
		p.doubt()
	}
}

// measures reports whether it makes sense to try larger probes.
func (p *track) measures() bool { return p.answeredAt > 0 && p.state != Dead }

// probeSoon starts the series of fast retries.
func (p *track) probeSoon(now time.Duration) { p.fast, p.nextAt = 0, now }

// fastPause returns the time to the next small probe in a series of fast
// retries, which ends with its last or with any answer.
func (p *track) fastPause() (d time.Duration, ok bool) {
	if p.fast == len(fastRetries) {
		return 0, false
	}
	p.fast++
	return fastRetries[p.fast-1], true
}

// answered takes the answer to a probe. Where that may have waited for payload
// that we let wait, it says nothing of the round trip.
func (p *track) answered(now time.Duration, s probe, waited bool) {
	if !waited || p.rtt == 0 {
		p.sample(now - s.at)
	}
	p.answeredAt = now
	p.answeredSent = max(p.answeredSent, s.at)
	p.misses, p.askedAt = 0, 0
	p.fast = len(fastRetries)
	if s.size > 0 {
		p.size.answered(s.size)
		if s.size == p.size.proven {
			p.fullSent = max(p.fullSent, s.at)
		}
	}
}

// sample smooths the round trip time (RFC 6298 section 2).
func (p *track) sample(r time.Duration) {
	if p.rttMin == 0 || r < p.rttMin {
		p.rttMin = r
	}
	if p.rtt == 0 {
		p.rtt, p.rttVar = r, r/2
		return
	}
	p.rttVar += ((p.rtt - r).Abs() - p.rttVar) / 4
	p.rtt += (r - p.rtt) / 8
}

// timeout is how long a probe is waited for before it counts as missing. It is
// below lateAnswer: a probe that is forgotten before is never missed.
func (p *track) timeout() time.Duration {
	if p.rtt == 0 {
		return usualTimeout
	}
	return min(max(2*p.rtt+4*p.rttVar, minTimeout), max(usualTimeout, 2*p.rtt), maxTimeout)
}

// patience is how many probes may be missing in a row. Payload that comes in
// shows that the path is not cut in that direction, and that its queues may be
// full: it buys one more. It does not buy life: a mapping that was lost is
// often lost in one direction only, and only answers prove the other.
func (p *track) patience(now time.Duration) int {
	if p.dataAt > 0 && now-p.dataAt < dataCountsFor {
		return missesToSuspect + 1
	}
	return missesToSuspect
}

// deadAfter is how long a path may be without an answer.
func (p *track) deadAfter() time.Duration { return min(max(minDead, 4*p.rtt), maxDead) }

// silentSince is since when the peer could have answered and did not. A path
// that was not asked for a while was not silent meanwhile.
func (p *track) silentSince() time.Duration { return max(p.answeredAt, p.askedAt-probeEvery) }

// overdue returns the probes that have become overdue, and forgets those for
// which no answer is expected any more.
func (p *track) overdue(now time.Duration) (late []probe) {
	kept := p.sent[:0]
	for _, s := range p.sent {
		if !s.overdue && now >= s.due {
			s.overdue = true
			late = append(late, s)
		}
		if now-s.at < lateAnswer {
			kept = append(kept, s)
		}
	}
	p.sent = kept
	return late
}

// wake returns when this path needs a tick.
func (p *track) wake() time.Duration {
	at := p.nextAt
	for _, s := range p.sent {
		if !s.overdue {
			at = min(at, s.due)
		}
	}
	if p.measures() && !p.size.complete(p.climbsTo()) {
		at = min(at, p.size.raiseAt)
	}
	if p.measures() && p.care == warm && p.size.sweeps() {
		at = min(at, p.size.sweepAt)
	}
	switch p.state {
	case Probing:
		at = min(at, p.tryUntil)
	case Suspect:
		at = min(at, p.silentSince()+p.deadAfter())
	}
	return at
}
