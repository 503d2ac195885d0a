package agent

import (
	"context"
	"errors"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Rivals: two listeners with one key, because somebody copied a machine or started
// the program twice. The newcomer has the place, and all three hear of it. The
// newcomer and the one that it replaced hear it from the signaling server, which may
// say so, but moves no link: the older one keeps those that live. It tells its
// connectors, over the session; a connector that then meets a process which does not
// know the link has the word of both, and knows a second listener from one that was
// started again. A link that works goes on until it ends by itself, as somebody may be
// using it; the next one is with the newcomer.

// The sides of a trace.KeyShared.
const (
	sideNewcomer = "newcomer"
	sideReplaced = "replaced"
	sidePeer     = "peer"
)

// errRival ends a connector's link with a listener that lost its place, where it carries
// nothing any more.
var errRival = errors.New("another process with this listener's key has its place")

const (
	rivalGrace  = 500 * time.Millisecond // for its word, where the older one seems to live
	rivalPause  = time.Second            // before the second link with a newcomer; doubled with each
	rivalMost   = 30 * time.Second
	rivalMemory = 10 * time.Minute // without one: all is forgotten
)

// rivalry is how often a link was followed by one with another of the listeners. The
// server has pauses of its own; these do not need its good will.
type rivalry struct {
	n    int
	last time.Time
}

// next notes one more change, and returns how long to wait before the next link.
func (r *rivalry) next(now time.Time) time.Duration {
	if now.Sub(r.last) >= rivalMemory {
		r.n = 0
	}
	r.n, r.last = r.n+1, now
	if r.n == 1 {
		return 0
	}
	return min(rivalPause<<min(r.n-2, 10), rivalMost)
}

// replaced tells people, once, and the connectors that another listener with our
// key has taken the place.
func (h *host) replaced(why error) {
	h.ls.shareKey(sideReplaced)
	h.ls.losePlace(why)
	for _, l := range h.links {
		l.post.send(&message{Rival: &rival{}})
	}
}

// losePlace is the end of the listening; links that live go on.
func (ls *Listener) losePlace(why error) {
	ls.mu.Lock()
	ls.lost = fatalListen(why)
	ls.mu.Unlock()
	ls.env.notify()
}

func (ls *Listener) lostPlace() error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.lost
}

// shareKey records, once for each side, that another listener has this machine's key.
func (ls *Listener) shareKey(side string) {
	ls.mu.Lock()
	told := ls.shared[side]
	ls.shared[side] = true
	ls.mu.Unlock()
	if !told {
		ls.env.cfg.Trace.Emit(trace.KeyShared{Side: side})
	}
}

// hasRival reports whether the listener of a link has lost its place to another
// process, and is not just over. Its word has a shorter way than the newcomer's, so it
// is mostly there already; a listener that was killed is not waited for longer than
// one round trip and rivalGrace.
func (l *link) hasRival(ctx context.Context) bool {
	var grace time.Duration
	if p, ok := l.conn.Active(); ok && l.works() {
		grace = rivalGrace + p.RTT
	}
	wait := time.NewTimer(min(grace, time.Second))
	defer wait.Stop()
	select {
	case <-l.rival:
		return true
	case <-wait.C:
	case <-l.ended:
	case <-ctx.Done():
	}
	select {
	case <-l.rival:
		return true
	default:
		return false
	}
}

// rivalled takes the word of both listeners. A link that works is kept. Another one
// ends, and the newcomer has the next: at once the first time.
func (c *Connector) rivalled(ctx context.Context, a *answer, from string) error {
	c.resuming = false
	to := nameOf(a)
	if !c.current.works() {
		pause := c.rivals.next(time.Now())
		c.tellRivals(trace.KeyShared{From: from, To: to, Pause: pause.Seconds()})
		c.dropLinkFor(errRival)
		if pause > 0 {
			c.rest(pause)
			return nil
		}
		return c.propose(ctx)
	}
	if c.kept == nil {
		l := c.current
		l.do(func() { l.unheard.replaced = true })
		c.kept = &keptLink{with: from}
	}
	if c.kept.newcomer != a.Run || a.Run.IsZero() { // else it was told; only signaling has come and gone
		c.kept.newcomer = a.Run
		c.tellRivals(trace.KeyShared{From: from, To: to, Kept: true})
	}
	return nil
}

// keptLink is the current link, where its listener has lost its place.
type keptLink struct {
	with     string         // what that listener calls its machine
	newcomer identity.RunID // the last one that was told
}

// afterKept meets the newcomer when a kept link is over.
func (c *Connector) afterKept(kept *keptLink) {
	pause := c.rivals.next(time.Now())
	if pause > 0 {
		c.tellRivals(trace.KeyShared{From: kept.with, To: c.linkedTo, Pause: pause.Seconds()})
	}
	c.rest(pause)
}

func (c *Connector) tellRivals(e trace.KeyShared) {
	e.Side = sidePeer
	c.env.cfg.Trace.ForPeer(c.peer.Name).Emit(e)
}

// rest meets anew after a pause, whatever comes and goes in it.
func (c *Connector) rest(pause time.Duration) {
	c.enc, c.meeting = nil, nil
	c.restUntil = time.Now().Add(pause)
	c.retry.Reset(pause)
}

// nameOf is what a listener calls its machine; empty where it says nothing of use.
func nameOf(a *answer) string {
	if identity.ValidateName(a.Name) != nil {
		return ""
	}
	return a.Name
}
