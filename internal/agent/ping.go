package agent

import (
	"context"
	"time"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A Ping is one round trip, measured over the path that payload takes.
type Ping struct {
	Path    path.Status
	RTT     time.Duration // 0: no answer came in time
	Verdict trace.Verdict
}

// Ping measures the round trip to the peer over the path in use, once, and waits for
// the answer for at most wait. ok is false while there is no session or no path.
func (c *Connector) Ping(ctx context.Context, wait time.Duration) (p Ping, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for _, l := range c.env.live() {
		if l.session.Load() == nil {
			continue
		}
		var err error
		if p.Path, p.RTT, err = l.conn.Ping(ctx); p.Path.ID == 0 {
			continue // err says that there is no path
		}
		if err != nil {
			p.RTT = 0
		}
		p.Verdict = l.judged().at(time.Now())
		return p, true
	}
	return p, false
}
