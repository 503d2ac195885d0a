package agent

import (
	"fmt"
	"runtime/metrics"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
)

// How long a peer that is not heard is waited for.
const (
	// stuckAfter is for a peer that the server says is there: both are awake, and
	// nothing passes between them. A new link may do better.
	stuckAfter = 3 * time.Minute
	// replacedFor is for a listener whose place another one has: signaling cannot help
	// the link, and the newcomer is there.
	replacedFor = 30 * time.Second
	// asleepFor is for a peer that is not there either. It may be asleep, its router
	// may restart, or ours. One that ended says goodbye, and one that was killed is
	// told of by the next run of its machine.
	asleepFor = 15 * time.Minute
	// longAway is longer than a reconnection to the server takes, and shorter than a
	// sleep that matters.
	longAway = time.Minute
	// maxAsleep is how many links of this process wait longer than stuckAfter, and
	// maxAsleepHeap is how large its heap, in bytes, may be while any does; the one
	// that has waited longest makes room. What it holds is what it held when it fell
	// silent, as nothing more arrives: 31 KB for each connection (measured with 400 idle
	// ones), and what local programs have not read.
	maxAsleep     = 16
	maxAsleepHeap = 256 << 20

	// hearEvery is how often the session's counters are looked at.
	hearEvery = 30 * time.Second
	// overslept is how late a timer is when this process was stopped meanwhile.
	overslept = 10 * time.Second
	// maxSlept is the longest sleep that is told. What looks longer is a clock that
	// was set.
	maxSlept = 30 * 24 * time.Hour
)

// unheard is what a link knows of a peer that it does not hear, and decides when it is
// given up. It has no clock.
type unheard struct {
	quiet  time.Time // since when no path is alive; zero: one is
	parted time.Time // since when we do not hear of the peer at the server; zero: it is there
	fresh  time.Time // nothing before it counts against the peer
	heard  time.Time // when the session had received something new
	count  uint64    // packets of the session, by then

	replaced bool // another process has the peer's place at the server
}

// paths is told whether any path is alive, and since when.
func (s *unheard) paths(since time.Time, alive bool) {
	switch {
	case alive && !s.quiet.IsZero():
		s.quiet, s.fresh = time.Time{}, since
	case !alive && s.quiet.IsZero():
		s.quiet = since
	}
}

// met is the peer's coming to the server. It begins anew for one that was away for long,
// and not at each of the reconnections that either side makes when no path answers.
func (s *unheard) met(now time.Time) {
	if !s.parted.IsZero() && now.Sub(s.parted) > longAway {
		s.fresh = now
	}
	s.parted = time.Time{}
}

// left is that we do not hear of it there any more, for whatever reason.
func (s *unheard) left(now time.Time) {
	if s.parted.IsZero() {
		s.parted = now
	}
}

// woke is the end of a sleep of our own: how long the peer has been silent is not known.
func (s *unheard) woke(now time.Time) { s.fresh = now }

// received takes the session's count of packets.
func (s *unheard) received(now time.Time, packets uint64) {
	if packets != s.count || s.heard.IsZero() {
		s.heard, s.count = now, packets
	}
}

// giveUp is when the link ends if nothing changes, and why. A zero time: it does not,
// as far as can be seen.
func (s *unheard) giveUp() (time.Time, error) {
	switch {
	case s.quiet.IsZero() && s.heard.IsZero():
		return time.Time{}, nil
	case s.quiet.IsZero(): // paths answer, and the session gets nothing through
		return latest(s.heard, s.fresh).Add(stuckAfter), fmt.Errorf("%w of %s, although a path answers", session.ErrIdle, units.Duration(stuckAfter))
	case s.replaced:
		return latest(s.quiet, s.fresh).Add(replacedFor),
			fmt.Errorf("%w: all paths have been silent for %s, and another listener has its place", ErrNoPath, units.Duration(replacedFor))
	case s.parted.IsZero():
		return latest(s.quiet, s.fresh).Add(stuckAfter),
			fmt.Errorf("%w: all paths have been silent for %s, although it is at the signaling server", ErrNoPath, units.Duration(stuckAfter))
	}
	return s.mayBeAsleepSince().Add(asleepFor),
		fmt.Errorf("%w: it has left signaling, and all paths have been silent for %s", ErrPeerAbsent, units.Duration(asleepFor))
}

// over decides whether the link ends now, and why. It takes the session's count of
// packets first: what was known of it may be as old as hearEvery.
func (s *unheard) over(now time.Time, packets uint64) error {
	s.received(now, packets)
	if at, why := s.giveUp(); !at.IsZero() && !now.Before(at) {
		return why
	}
	return nil
}

// mayBeAsleepSince is zero for a peer that is heard in any way.
func (s *unheard) mayBeAsleepSince() time.Time {
	if s.quiet.IsZero() || s.parted.IsZero() || s.replaced {
		return time.Time{}
	}
	return latest(s.quiet, s.parted, s.fresh)
}

// longWaitAt is when the link becomes one of the maxAsleep; zero: it does not.
func (s *unheard) longWaitAt() time.Time {
	if since := s.mayBeAsleepSince(); !since.IsZero() {
		return since.Add(stuckAfter)
	}
	return time.Time{}
}

func latest(times ...time.Time) (t time.Time) {
	for _, u := range times {
		if u.After(t) {
			t = u
		}
	}
	return t
}

// sighted is told when the server says that the peer is there.
func (l *link) sighted() {
	l.do(func() { l.unheard.met(time.Now()) })
}

// hear looks whether the session has received anything.
func (l *link) hear(now time.Time) {
	l.hearAt = now.Add(hearEvery)
	if s := l.session.Load(); s != nil {
		l.unheard.received(now, s.Stats().PacketsReceived)
	}
}

// noteLongWait counts the link among those whose peers may be asleep, or no longer.
func (l *link) noteLongWait(now time.Time) {
	at := l.unheard.longWaitAt()
	if at.IsZero() || now.Before(at) {
		l.waiting.Store(0)
		return
	}
	l.waiting.Store(at.UnixNano())
	l.env.limitWaiting(now, heapBytes())
}

// longWaitDue is when noteLongWait has something to count; zero: it has, or never will.
func (l *link) longWaitDue() time.Time {
	if l.waiting.Load() != 0 {
		return time.Time{}
	}
	return l.unheard.longWaitAt()
}

// limitWaiting ends the link that has waited longest when too many wait, or hold too
// much. What one lets go is not seen in the heap at once.
func (e *environment) limitWaiting(now time.Time, heap uint64) {
	var longest *link
	n := 0
	for _, l := range e.live() {
		since := l.waiting.Load()
		if since == 0 || l.ctx.Err() != nil {
			continue
		}
		if n++; longest == nil || since < longest.waiting.Load() {
			longest = l
		}
	}
	switch {
	case n > maxAsleep:
		longest.end(fmt.Errorf("%w: silent for longer than %d others that are waited for", ErrPeerAbsent, maxAsleep))
	case n > 0 && heap > maxAsleepHeap && e.mayFreeHeap(now):
		longest.end(fmt.Errorf("%w: silent, and the memory of its link is needed", ErrPeerAbsent))
	}
}

// mayFreeHeap is true at most once within hearEvery.
func (e *environment) mayFreeHeap(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Before(e.freed.Add(hearEvery)) {
		return false
	}
	e.freed = now
	return true
}

// heapBytes is the size of all objects on this process's heap, dead ones included that
// have not been swept.
func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// wokeUp tells the peer that this machine slept.
func (l *link) wokeUp(slept time.Duration) {
	l.do(func() {
		l.unheard.woke(time.Now())
		if slept > maxSlept {
			return
		}
		l.post.send(&message{Awake: &awake{SleptMS: slept.Milliseconds()}})
	})
}

// peerAwoke is the peer's word that its machine slept, which is why it was silent.
func (l *link) peerAwoke(a *awake) {
	slept := time.Duration(a.SleptMS) * time.Millisecond
	l.trace.Emit(trace.PeerState{Present: true, Linked: true, Why: fmt.Sprintf("awake again, its machine slept for %s", units.Duration(slept))})
}
