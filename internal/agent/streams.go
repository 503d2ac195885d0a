package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// serveSession answers the streams that a connected peer opens, until the
// session ends, and closes the ports that it had opened here.
func (e *environment) serveSession(ctx context.Context, l *link, s *session.Session) {
	defer e.binds.closeAll(l)
	measuring := e.measuring(l, s)
	shares := forward.NewTargetShares(acceptedMost)
	err := s.Serve(ctx, func(ctx context.Context, h session.Header, stream *session.Stream) {
		allow := e.cfg.Allow
		if allow == nil {
			allow = new(forward.AllowList)
		}
		switch h.Kind {
		case session.KindDial:
			forward.Dial(ctx, allow, h.Target, stream, shares, l.trace)
		case session.KindMeasure:
			measuring.Serve(ctx, h.Target, stream)
		default:
			why := "this side does not know streams of " + h.Kind.String()
			stream.Refuse(session.CodeUnsupported, why)
			l.trace.Emit(trace.StreamRefused{Kind: h.Kind.String(), Target: h.Target, Remote: true, Why: why})
		}
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		var closed *session.PeerClosedError
		if !errors.As(err, &closed) {
			l.trace.Emit(trace.Failure{Where: "serve streams", Err: err.Error()})
		}
	}
}

// bindTable holds the ports that peers have opened here with -R, and on the
// other side the requests that wait for an answer.
type bindTable struct {
	mu      sync.Mutex
	open    map[*link]map[string]forward.Listeners // by the address that was asked for
	waiting map[string]chan bindAnswer
}

const (
	maxBinds = 32              // ports of one link
	askAgain = 5 * time.Second // for a port that is not open yet
)

// bind answers a peer's request for a port. It runs on the link's loop; a
// request that comes too early, and one that fails for now, is made again by the
// peer.
func (e *environment) bind(l *link, r *bindRequest) {
	s := l.session.Load()
	if s == nil || !validRef(r.ID) {
		return
	}
	ls, fresh, err := e.listenFor(l, r.Bind)
	if err != nil {
		l.bindFailed(r.Bind, err)
		l.post.send(&message{Bound: &bindAnswer{ID: r.ID, Err: err.Error(), Final: errors.Is(err, errNotAllowed)}})
		return
	}
	delete(l.bindRefused, r.Bind)
	l.post.send(&message{Bound: &bindAnswer{ID: r.ID, Addr: ls.Addr().String()}})
	if !fresh {
		return // asked again, the answer was lost
	}
	share := l.bound.Add()
	l.work(func(ctx context.Context) {
		defer share.Remove()
		open := func(ctx context.Context, h session.Header) (forward.Opened, error) { return openStream(ctx, s, h) }
		ls.Serve(ctx, session.Header{Kind: session.KindReverse, Target: r.ID}, open, share, l.trace)
	})
}

// bindFailed traces why a port is not opened, once for all the times that the
// peer asks.
func (l *link) bindFailed(bind string, err error) {
	if l.bindRefused[bind] == err.Error() {
		return
	}
	if l.bindRefused == nil || len(l.bindRefused) >= maxBinds {
		l.bindRefused = make(map[string]string)
	}
	l.bindRefused[bind] = err.Error()
	l.trace.Emit(trace.StreamRefused{Kind: session.KindReverse.String(), Target: bind, Port: bind, Remote: true, Why: err.Error()})
}

// errNotAllowed is a port that asking again does not open.
var errNotAllowed = errors.New("not allowed")

// notAllowed is an error of the allow-list, whose text is enough.
type notAllowed struct{ error }

func (notAllowed) Is(target error) bool { return target == errNotAllowed }

// listenFor opens a port, or finds the one that is open for this request. A
// port that an older link of the same peer still holds is taken over when that
// one is silent or its process has left signaling: the peer has restarted, and
// the link only waits for its end.
func (e *environment) listenFor(l *link, bind string) (ls forward.Listeners, fresh bool, err error) {
	allow := e.cfg.Allow
	if allow == nil {
		allow = new(forward.AllowList)
	}
	addrs, err := allow.Listenable(bind)
	if err != nil {
		return nil, false, notAllowed{err}
	}
	e.binds.mu.Lock()
	defer e.binds.mu.Unlock()
	if ls := e.binds.open[l][bind]; ls != nil {
		return ls, false, nil
	}
	if len(e.binds.open[l]) >= maxBinds {
		return nil, false, fmt.Errorf("%d ports are open already", maxBinds)
	}
	for other, open := range e.binds.open {
		if other == l || other.peer.Fingerprint != l.peer.Fingerprint || !other.deserted() {
			continue
		}
		for asked, old := range open {
			if old.Clash(addrs) {
				old.Close()
				delete(open, asked)
			}
		}
	}
	if ls, err = forward.ListenOn(l.ctx, addrs); err != nil {
		return nil, false, err
	}
	if e.binds.open == nil {
		e.binds.open = make(map[*link]map[string]forward.Listeners)
	}
	if e.binds.open[l] == nil {
		e.binds.open[l] = make(map[string]forward.Listeners)
	}
	e.binds.open[l][bind] = ls
	return ls, true, nil
}

// deserted tells of a link whose peer's process may have ended without a word.
func (l *link) deserted() bool { return l.left.Load() || !l.post.alive.Load() }

// closeAll closes the ports of a link whose session has ended.
func (t *bindTable) closeAll(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ls := range t.open[l] {
		ls.Close()
	}
	delete(t.open, l)
}

// bound hands the peer's answer to whoever asked.
func (e *environment) bound(_ *link, a *bindAnswer) {
	e.binds.mu.Lock()
	defer e.binds.mu.Unlock()
	if c := e.binds.waiting[a.ID]; c != nil {
		select {
		case c <- *a:
		default: // one that was not read yet
		}
	}
}

// An unopenedError is the peer's answer to a request for a port that it does not open.
type unopenedError struct {
	reason string // the peer's words; quoted by Error
}

func (e *unopenedError) Error() string {
	return fmt.Sprintf("%v by the peer: %q", ErrRefused, e.reason)
}
func (e *unopenedError) Unwrap() error { return ErrRefused }

// askBind asks the peer to open a port until it has, or has refused for good.
// It tells of each new reason why it has not.
func (e *environment) askBind(ctx context.Context, l *link, id, bind string, told func(error)) (string, error) {
	answer := make(chan bindAnswer, 1)
	e.binds.mu.Lock()
	if e.binds.waiting == nil {
		e.binds.waiting = make(map[string]chan bindAnswer)
	}
	e.binds.waiting[id] = answer
	e.binds.mu.Unlock()
	defer func() {
		e.binds.mu.Lock()
		delete(e.binds.waiting, id)
		e.binds.mu.Unlock()
	}()
	again := time.NewTicker(askAgain)
	defer again.Stop()
	ask := func() { l.post.send(&message{Bind: &bindRequest{ID: id, Bind: bind}}) }
	ask()
	for last := ""; ; {
		select {
		case a := <-answer:
			if a.Err == "" {
				return a.Addr, nil
			}
			err := &unopenedError{clip(a.Err, 300)}
			if a.Final {
				return "", err
			}
			if a.Err != last {
				last = a.Err
				told(err)
			}
		case <-again.C:
			ask()
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-l.ended:
			return "", errors.New("the link ended")
		}
	}
}
