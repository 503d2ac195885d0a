package path

import (
	"context"
	"errors"
	"net"
	"time"
)

// ErrNoActivePath is the answer to a ping while payload has no path.
var ErrNoActivePath = errors.New("no path in use")

// Ping measures one round trip over the path that payload takes, with a probe of its
// own, and tells which path that is. It waits for the answer until ctx ends.
func (c *Conn) Ping(ctx context.Context) (Status, time.Duration, error) {
	answer := make(chan time.Duration, 1)
	var s Status
	var seq uint64
	c.update(func(now time.Duration) {
		t := c.engine.byID(c.engine.cur.primary)
		if t == nil {
			return
		}
		s, seq = c.status(t), c.engine.ping(now, t)
		c.pings[seq] = answer
	})
	if seq == 0 {
		return s, 0, ErrNoActivePath
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pings, seq)
	}()
	select {
	case rtt := <-answer:
		return s, rtt, nil
	case <-c.done:
		return s, 0, net.ErrClosed
	case <-ctx.Done():
		return s, 0, context.Cause(ctx)
	}
}

// ping sends a small probe over p whatever its schedule, and returns its number.
func (e *engine) ping(now time.Duration, p *track) uint64 {
	e.send(now, p, 0)
	p.sent[len(p.sent)-1].ping = true
	return e.seq
}

// pinged is the answer to a probe, for who waits for it.
type pinged struct {
	seq uint64
	rtt time.Duration
}

func (pinged) isAction() {}

// tellPing is called with mu held.
func (c *Conn) tellPing(a pinged) {
	if answer := c.pings[a.seq]; answer != nil {
		delete(c.pings, a.seq)
		answer <- a.rtt
	}
}
