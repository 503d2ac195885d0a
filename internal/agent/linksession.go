package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// runSession brings the session up as soon as a path works and carries it to
// its end. It returns why it ended.
func (l *link) runSession(ctx context.Context) error {
	s, err := l.establish(ctx)
	if errors.Is(err, ErrNoPath) {
		return l.noPath()
	}
	if err != nil {
		return err
	}
	l.post.open(viaControl, func(_ context.Context, b []byte) error { return s.Control().Send(b) })
	l.session.Store(s)
	l.wasUp.Store(true)
	l.env.notify()

	users := make(chan struct{})
	using, unused := context.WithCancelCause(ctx) // what waits for more than a stream ends with the session
	go func() {
		defer close(users)
		if l.onSession != nil {
			l.onSession(using, l, s)
		}
	}()
	control := make(chan struct{})
	go func() {
		defer close(control)
		for {
			b, err := s.Control().Receive()
			if err != nil {
				s.Close(session.CodeProtocol, "control stream: "+clip(err.Error(), 200)) // or it has ended
				return
			}
			l.receive(viaControl, b)
		}
	}()

	select {
	case <-s.Done():
		err = s.Err()
	case <-ctx.Done():
		err = endOf(ctx)
	}
	l.session.Store(nil)
	l.post.close(viaControl)
	code, reason := session.CodeShutdown, "ended"
	if err != nil {
		reason = clip(err.Error(), 200)
	}
	switch {
	case errors.Is(err, ErrForgotten):
		code = session.CodeForgotten
	case errors.Is(err, errPairedAnew):
		code = session.CodePairedAnew // one that does not know it tries again
	}
	s.Close(code, reason)
	unused(err)
	<-control
	<-users
	l.env.notify()
	return fmt.Errorf("session with %s: %w", l.peer.Name, err)
}

// establish opens the session over whatever path there is. A handshake that
// fails because its path went away is tried again on the next one.
func (l *link) establish(ctx context.Context) (*session.Session, error) {
	l.trace.Emit(trace.SessionState{State: "dialing"})
	deadline := time.Now().Add(sessionTimeout)
	if l.requireDirect() {
		deadline = time.Now().Add(10 * sessionTimeout) // retries of attempts decide, not we
	}
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, ErrNoPath)
	defer cancel()
	cfg := session.Config{Conn: l.conn, Peer: l.conn.PeerAddr(), Trace: l.trace}
	if l.role == listener {
		cfg.TLS = identity.ServerTLS(l.env.cfg.Key, l.peer.Fingerprint)
		s, err := session.Accept(ctx, cfg)
		return s, causeOf(ctx, err)
	}
	cfg.TLS = identity.ClientTLS(l.env.cfg.Key, l.peer.Fingerprint)
	for {
		if err := l.conn.WaitUsable(ctx); err != nil {
			return nil, causeOf(ctx, err)
		}
		s, err := session.Dial(ctx, cfg)
		var wrong identity.ErrWrongPeer
		if err == nil || ctx.Err() != nil || errors.As(err, &wrong) {
			return s, causeOf(ctx, err)
		}
		l.trace.Emit(trace.Failure{Where: "dial session", Err: err.Error()})
		select {
		case <-time.After(redialPause):
		case <-ctx.Done():
		}
	}
}

// causeOf puts the reason of ctx's end in place of "deadline exceeded" or "canceled".
func causeOf(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return endOf(ctx)
	}
	return err
}
