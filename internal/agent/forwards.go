package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A Local is one -L whose port is open already: a port that is in use is an
// error before anything is linked.
type Local struct {
	Spec      forward.Spec
	Listeners forward.Listeners
}

// OpenLocals opens the ports of all -L, or none.
func OpenLocals(ctx context.Context, specs []forward.Spec) ([]Local, error) {
	var out []Local
	for _, spec := range specs {
		ls, err := forward.Listen(ctx, spec.Bind)
		if err != nil {
			for _, l := range out {
				l.Listeners.Close()
			}
			return nil, fmt.Errorf("-L %s: %w", spec, err)
		}
		out = append(out, Local{spec, ls})
	}
	return out, nil
}

// ServeLocals carries the connections of -L until ctx ends. Those that come
// while there is no session wait for one, 30 seconds at most.
func (c *Connector) ServeLocals(ctx context.Context, locals []Local) error {
	done := make(chan error, len(locals))
	rec := c.env.cfg.Trace.ForPeer(c.name)
	all := forward.NewShares(session.MaxConnections)
	var shares []*forward.Share // all of them before the first connection
	for range locals {
		shares = append(shares, all.Add())
	}
	for i, l := range locals {
		go func() {
			done <- l.Listeners.Serve(ctx, session.Header{Kind: session.KindDial, Target: l.Spec.Target}, c.openLocal, shares[i], rec)
		}()
	}
	var first error
	for range locals {
		if err := <-done; err != nil && ctx.Err() == nil && first == nil {
			first = err
		}
	}
	return first
}

// Open opens a stream to the peer, as soon as there is a session whose path works.
func (c *Connector) Open(ctx context.Context, h session.Header) (forward.Opened, error) {
	return c.open(ctx, h, func() {})
}

// open is Open, and calls late when it has waited for tellAfter.
func (c *Connector) open(ctx context.Context, h session.Header, late func()) (forward.Opened, error) {
	timer := time.NewTimer(tellAfter)
	defer timer.Stop()
	for {
		changed := c.env.change()
		if s := c.session(); s != nil {
			return openStream(ctx, s, h)
		}
		select {
		case <-changed:
		case <-timer.C:
			late()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// session is the one that the peer is reached by now; nil: none. One that is silent is
// none: its peer may be asleep, for minutes.
func (c *Connector) session() *session.Session {
	for _, l := range c.env.live() {
		if s := l.session.Load(); s != nil && l.works() {
			return s
		}
	}
	return nil
}

// tellAfter is how long a connection waits for a session before that is told: a
// link that comes up takes less.
const tellAfter = time.Second

// openLocal is Open for a connection to a -L, whose program waits and whose user
// should know what for: it is told once for all that wait at the same time.
func (c *Connector) openLocal(ctx context.Context, h session.Header) (forward.Opened, error) {
	c.waiters.Add(1)
	s, err := c.open(ctx, h, func() {
		if c.waitTold.CompareAndSwap(false, true) {
			c.env.cfg.Trace.ForPeer(c.name).Emit(trace.StreamWaiting{Kind: h.Kind.String(), Target: h.Target, Why: c.missing()})
		}
	})
	if c.waiters.Add(-1) == 0 {
		c.waitTold.Store(false)
	}
	if errors.Is(err, forward.ErrNoAnswer) {
		return nil, fmt.Errorf("%w: %s: %s", err, c.name, c.missing())
	}
	return s, err
}

// missing says why there is no session that works.
func (c *Connector) missing() string {
	for _, l := range c.env.live() {
		if l.session.Load() != nil {
			return l.judged().at(time.Now()).Text
		}
	}
	for _, p := range c.env.waiting() {
		return strings.TrimSuffix(p.Verdict.Text, "; waiting")
	}
	return "there, linking"
}

// streamWithin is how long a peer may take to allow one more stream. It has room
// for more than all connections that a side may have, so it takes one round trip
// when many end and begin at once.
const streamWithin = 5 * time.Second

func openStream(ctx context.Context, s *session.Session, h session.Header) (forward.Opened, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, streamWithin, session.ErrNoStream)
	defer cancel()
	return s.Open(ctx, h)
}

// acceptedMost is how many connections of a peer are carried at once. It is a
// little more than the peer carries itself, which learns of an end earlier.
const acceptedMost = session.MaxConnections + 32

// remotes asks the peer to open the ports of all -R and answers the streams
// that come from them, for one session. A port that the peer does
// not open is traced, and does not end the session.
func (c *Connector) remotes(ctx context.Context, l *link, s *session.Session, specs []forward.Spec) {
	byID := make(map[string]forward.Spec)
	for i, spec := range specs {
		byID[fmt.Sprintf("r%d-%s", i, l.id.String()[:8])] = spec
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	for id, spec := range byID {
		asking.Go(func() {
			refused := func(err error) {
				e := trace.StreamRefused{Kind: session.KindReverse.String(), Target: spec.Target, Port: spec.Bind, Why: err.Error()}
				var unopened *unopenedError
				if errors.As(err, &unopened) {
					e.Code, e.Why = ErrRefused.Error(), unopened.reason
				}
				l.trace.Emit(e)
			}
			if _, err := c.env.askBind(ctx, l, id, spec.Bind, refused); err != nil && ctx.Err() == nil {
				refused(err)
			}
		})
	}
	shares := forward.NewTargetShares(acceptedMost)
	s.Serve(ctx, func(ctx context.Context, h session.Header, stream *session.Stream) {
		spec, ok := byID[h.Target]
		if h.Kind != session.KindReverse || !ok {
			const why = "this side has no such forward"
			stream.Refuse(session.CodeNotAllowed, why)
			l.trace.Emit(trace.StreamRefused{Kind: h.Kind.String(), Target: h.Target, Remote: true, Why: why})
			return
		}
		forward.DialSpec(ctx, spec.Target, stream, shares, l.trace)
	})
}
