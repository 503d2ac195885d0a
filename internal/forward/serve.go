package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/trouble"
	"github.com/p2pagent/p2pagent/internal/units"
)

// An Accepting stream is one that the peer opened and that waits for an answer.
type Accepting interface {
	Stream
	ID() int64
	Accept() error
	Refuse(session.Code, string)
}

// Dial answers a stream that asks for a target on this side: it checks the
// list, dials what the list returned, and carries the connection to its end. It
// counts among shares, which are divided by target.
func Dial(ctx context.Context, allow *AllowList, target string, s Accepting, shares *Shares, rec *trace.Recorder) {
	answer(ctx, session.KindDial, target, func(ctx context.Context) ([]netip.AddrPort, session.Code, error) {
		addrs, err := allow.Dialable(ctx, target)
		if errors.Is(err, ErrUnresolved) {
			return nil, session.CodeUnreachable, err
		}
		return addrs, session.CodeNotAllowed, err
	}, s, shares, rec)
}

// DialSpec answers a stream of -R, whose target this side chose itself.
func DialSpec(ctx context.Context, target string, s Accepting, shares *Shares, rec *trace.Recorder) {
	answer(ctx, session.KindReverse, target, func(ctx context.Context) ([]netip.AddrPort, session.Code, error) {
		addrs, err := resolve(ctx, target, 1)
		return addrs, session.CodeUnreachable, err
	}, s, shares, rec)
}

// errTakenBack is the end of a dial for a stream whose opener has gone.
var errTakenBack = errors.New("the peer has taken it back")

// answer carries a stream to the addresses that find returns, or refuses it.
func answer(ctx context.Context, kind session.Kind, target string, find func(context.Context) ([]netip.AddrPort, session.Code, error), s Accepting, shares *Shares, rec *trace.Recorder) {
	waiting, revoke := context.WithCancelCause(ctx)
	defer revoke(nil)
	slot, err := shares.TakeFor(ctx, target, revoke)
	if err != nil {
		refuse(s, session.CodeLimit, kind, target, err, rec)
		return
	}
	defer slot.Free()
	var conn *net.TCPConn
	addrs, code, err := find(waiting)
	if err == nil {
		code = session.CodeUnreachable
		conn, err = dialWhileWanted(waiting, addrs, s)
	}
	if !slot.Answered() {
		if conn != nil {
			conn.Close()
		}
		code, err = session.CodeLimit, context.Cause(waiting)
	}
	if err != nil {
		refuse(s, code, kind, target, err, rec)
		return
	}
	markAbortive(conn)
	s.Accept() // an error is a peer that takes no more; what it has sent is carried all the same
	relay(ctx, s.ID(), kind, target, false, conn, s, rec)
}

// takenBackFor is how much longer a target is dialed for a program that has sent
// something and reset. What it has sent is to arrive.
const takenBackFor = time.Second

// dialWhileWanted gives a dial up when the peer has given the stream up: a target
// that does not answer holds its place for nobody.
func dialWhileWanted(ctx context.Context, addrs []netip.AddrPort, s Accepting) (*net.TCPConn, error) {
	ctx, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-s.Stopped():
			select {
			case <-time.After(takenBackFor):
				stop(errTakenBack)
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	})
	defer watching.Wait()
	defer stop(nil)
	return dialTarget(ctx, addrs)
}

func refuse(s Accepting, c session.Code, kind session.Kind, target string, err error, rec *trace.Recorder) {
	s.Refuse(c, err.Error())
	rec.Emit(trace.StreamRefused{Kind: kind.String(), Target: target, Remote: true, Why: err.Error()})
}

// relay carries one connection between its two events.
func relay(ctx context.Context, id int64, kind session.Kind, target string, local bool, conn Near, s Stream, rec *trace.Recorder) error {
	rec.Emit(trace.StreamOpened{ID: id, Kind: kind.String(), Target: target, Local: local})
	totals, err := splice(ctx, conn, s)
	closed := trace.StreamClosed{ID: id, BytesIn: totals.In, BytesOut: totals.Out}
	if err != nil {
		closed.Cause = err.Error()
	}
	rec.Emit(closed)
	return err
}

// answerWithin is how long a connection may wait for the peer and its target,
// from when it was accepted: a program is better told than kept, and a target is
// dialed for ten seconds at most.
const answerWithin = 30 * time.Second

// ErrNoAnswer is why the wait of a connection for its target is over.
var ErrNoAnswer = fmt.Errorf("no answer within %s", units.Duration(answerWithin))

// An Opener opens a stream to the peer. It may wait for a session, within ctx,
// whose cause may be [ErrNoAnswer].
type Opener func(ctx context.Context, h session.Header) (Opened, error)

// Opened is a stream that this side opened; *session.Stream is one.
type Opened interface {
	Stream
	ID() int64
	Accepted() error
}

// Serve carries each connection that ln accepts over a stream with header h,
// until ctx ends or ln is closed; then it closes ln, waits for the connections
// to end, and returns why. A connection beyond its share is reset, see [Shares].
func Serve(ctx context.Context, ln net.Listener, h session.Header, open Opener, share *Share, rec *trace.Recorder) error {
	where := "accept on " + ln.Addr().String()
	ln = trouble.Listener(ln, func(why string) { rec.Emit(trace.Trouble{Where: where, Why: why}) })
	local := ln.Addr().String()
	crowd := trouble.NewEpisode(func(why string) {
		rec.Emit(trace.StreamsLimited{Kind: h.Kind.String(), Target: h.Target, Local: local, Why: why})
	})
	defer crowd.Stop()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer ln.Close()
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			markAbortive(conn)
			conns.Go(func() {
				err := serveConn(ctx, conn.(Near), local, h, open, share, rec)
				if full := (*FullError)(nil); errors.As(err, &full) {
					crowd.Failed(full) // what it says to rest is for whoever tries again
				}
			})
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			return err
		}
	}
}

// asked is a stream whose target is waited for.
type asked struct {
	Opened
	answered func()
}

func (a *asked) Read(b []byte) (int, error) {
	if a.answered != nil && a.Opened.Accepted() == nil { // it waits for that
		a.answered()
		a.answered = nil
	}
	return a.Opened.Read(b)
}

// serveConn carries a connection that came to a port of this side. The error is a
// *[FullError], which is not traced, or why the stream was not opened.
func serveConn(ctx context.Context, conn Near, port string, h session.Header, open Opener, share *Share, rec *trace.Recorder) error {
	revocable, revoke := context.WithCancelCause(ctx)
	defer revoke(nil)
	slot, err := share.Take(ctx, revoke)
	if err != nil {
		abort(conn)
		return err
	}
	defer slot.Free()
	waiting, stop := context.WithTimeoutCause(revocable, answerWithin, ErrNoAnswer)
	defer stop()
	refused := func(why error) { rec.Emit(refusal(h, port, why)) }
	s, err := open(waiting, h)
	if err != nil {
		abort(conn)
		if why := revoked(waiting); why != nil {
			return why
		}
		refused(err)
		return err
	}
	late := context.AfterFunc(waiting, func() {
		if ctx.Err() == nil {
			if revoked(waiting) == nil {
				refused(ErrNoAnswer)
			}
			s.Reset(session.CodeReset)
		}
	})
	defer late()
	pipe(ctx, conn, port, h, &asked{s, func() { slot.Answered(); late() }}, rec)
	return revoked(waiting)
}

// revoked is the *[FullError] that ended ctx, or nil.
func revoked(ctx context.Context) error {
	var full *FullError
	if errors.As(context.Cause(ctx), &full) {
		return full
	}
	return nil
}

// refusal is what is told of a stream that this side opened for a port, and why there
// is no connection through it.
func refusal(h session.Header, port string, why error) trace.StreamRefused {
	e := trace.StreamRefused{Kind: h.Kind.String(), Target: h.Target, Port: port, Why: why.Error()}
	var refused *session.RefusedError
	if errors.As(why, &refused) {
		e.Code, e.Why = refused.Code.String(), cmp.Or(refused.Reason, refused.Code.String())
	}
	return e
}

// Pipe carries one near connection over a stream that has been opened, and
// returns why it ended: nil for a clean end both ways, a *[session.RefusedError]
// for a stream that the peer did not accept.
func Pipe(ctx context.Context, near Near, h session.Header, s Opened, rec *trace.Recorder) error {
	return pipe(ctx, near, "", h, s, rec)
}

func pipe(ctx context.Context, near Near, port string, h session.Header, s Opened, rec *trace.Recorder) error {
	err := relay(ctx, s.ID(), h.Kind, h.Target, true, near, s, rec)
	var refused *session.RefusedError
	if err != nil && errors.As(s.Accepted(), &refused) {
		rec.Emit(refusal(h, port, refused))
		return refused
	}
	return err
}
