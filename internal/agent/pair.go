package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/signaling"
	"golang.org/x/sync/errgroup"
)

const (
	pairResend    = 2 * time.Second  // before the connector says again what was not answered
	settleTimeout = 20 * time.Second // from spending the code to the peer's last word
	lingerTimeout = 3 * time.Second  // for a peer that missed our last word
)

// errUnsettled is a pairing of which this side does not know whether the peer stored it.
var errUnsettled = errors.New("the other machine has not said that it stored the pairing")

func (e *environment) self() identity.Self {
	return identity.Self{Name: e.cfg.Name, Fingerprint: e.cfg.Key.Fingerprint()}
}

// maxCodes is how many codes one run of a listener lets be spent: each is one guess for
// whoever guesses.
const maxCodes = 5

// Why there is a new code.
const (
	whyWrong   = "somebody used a wrong code"
	whyExpired = "nobody used the last code in its time"
)

// A nextCode is what follows a code that did not lead to a pairing.
type nextCode struct {
	again bool // with a new code
	why   string
	spent int           // codes that served for a try, so far
	pause time.Duration // before the new one; it grows, as somebody may be guessing
}

// afterCode decides that from the error of a try, whether it spent the code, and how
// many were spent before. Errors that are not about the code are the end.
func afterCode(err error, spent bool, before int) nextCode {
	n := nextCode{spent: before}
	if spent {
		n.spent++
		n.pause = time.Second << (n.spent - 1)
	}
	switch {
	case !spent && errors.Is(err, signaling.ErrExpired):
		n.again, n.why = true, whyExpired
	case errors.Is(err, ErrWrongCode):
		n.again, n.why = n.spent < maxCodes, whyWrong
	case errors.As(err, new(identity.ErrNotStored)), errors.Is(err, errUnsettled):
		n.again, n.why = n.spent < maxCodes, err.Error()
	}
	return n
}

// pairAsListener claims a number, tells the code, and stores the peer that proves to
// know it. A code that did not serve is replaced by a new one.
func (e *environment) pairAsListener(ctx context.Context, tell func(code identity.Code, why string)) error {
	for next := (nextCode{}); ; {
		spent, err := e.tryCode(ctx, func(c identity.Code) { tell(c, next.why) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		next = afterCode(err, spent, next.spent)
		if !next.again {
			if next.spent >= maxCodes {
				err = withHint(fmt.Errorf("%w: %d codes in a row were spent", err, next.spent), "make a new one with `p2pagent listen --pair` when both machines are ready; if nobody mistyped them, somebody is guessing")
			}
			return err
		}
		e.cfg.Trace.Emit(trace.PairingFailed{Why: next.why})
		select {
		case <-time.After(next.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryCode makes one code and serves whoever uses it. spent tells whether it served.
func (e *environment) tryCode(ctx context.Context, tell func(identity.Code)) (spent bool, err error) {
	number, box, err := e.client.Claim(ctx)
	if err != nil {
		return false, err
	}
	defer box.Close()
	code, err := identity.NewCode(number)
	if err != nil {
		return false, err
	}
	p, err := identity.NewPairing(identity.Listener, code, e.self(), number)
	if err != nil {
		return false, err
	}
	tell(code)
	x := &exchange{env: e, p: p, role: listener, box: box}
	err = x.run(ctx)
	return p.Spent(), err
}

// Pair redeems a code that the other machine shows, and returns the peer as it
// is stored now. as is the name to store it under; empty: what it calls
// itself. With a name of another peer it fails before the code is spent
// ([identity.ErrNameTaken]), and with this machine's own code as well
// ([identity.ErrSelf]). It ends when ctx does.
func Pair(ctx context.Context, cfg Config, code identity.Code, as string) (identity.Peer, error) {
	if n := code.Nameplate(); !signaling.IsNameplate(n) {
		return identity.Peer{}, withHint(fmt.Errorf("%w: its number %s is none: 4 to 7 digits, of which the first is not 0", identity.ErrBadCode, n), "compare it with the code that the other machine shows")
	}
	e, err := newEnvironment(cfg, true)
	if err != nil {
		return identity.Peer{}, err
	}
	if as != "" {
		if err := identity.ValidateName(as); err != nil {
			return identity.Peer{}, fmt.Errorf("--as: %w", err)
		}
	}
	p, err := identity.NewPairing(identity.Connector, code, e.self(), code.Nameplate())
	if err != nil {
		return identity.Peer{}, err
	}
	if as != "" {
		p.Vet(func(f identity.Fingerprint) error {
			if err := e.cfg.Peers.NameFree(as, f); err != nil {
				return withHint(fmt.Errorf("--as %s: %w", as, err), "choose another name; the code can still be used")
			}
			return nil
		})
	}
	began := time.Now()
	var peer identity.Peer
	paired := errors.New("paired")
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return fatalSignaling(e.client.Run(gctx)) })
	x := &exchange{env: e, p: p, role: connector, as: as}
	g.Go(func() error {
		x.box = e.client.Join(code.Nameplate(), signaling.RoleGuest)
		defer x.box.Close()
		if x.end = x.run(gctx); x.end != nil {
			return x.end
		}
		var err error
		peer, err = e.cfg.Peers.ByFingerprint(p.Result().Fingerprint)
		return errors.Join(err, paired)
	})
	err = g.Wait()
	if errors.Is(err, paired) {
		if peer.Fingerprint.IsZero() {
			return peer, err
		}
		return peer, nil
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return peer, ctx.Err() // interrupted
	case errors.Is(x.end, errUnsettled), errors.Is(x.end, ErrWrongCode):
		return peer, x.end // time is over, but it says more
	case ctx.Err() != nil:
		if !x.joined {
			_, _, last := e.client.State()
			return peer, Unreachable(last, time.Since(began))
		}
		return peer, withHint(fmt.Errorf("%w: nobody answered for the code's number %s", ErrPeerAbsent, code.Nameplate()), "run `p2pagent listen --pair` on the other machine and use the new code")
	}
	return peer, err
}

// An exchange is one pairing in a mailbox.
type exchange struct {
	env  *environment
	p    *identity.Pairing
	role identity.Role
	box  *signaling.Mailbox
	as   string // the user's name for the peer; empty: the peer's own

	to       signaling.Seat
	joined   bool // the server has let us in once
	present  bool
	proposed identity.Peer // the connector's, stored and not confirmed; zero: none
	newer    bool          // told of a peer with another version
	end      error         // of run
}

// run pairs and stores the peer. It returns nil when both sides have stored it.
func (x *exchange) run(ctx context.Context) error {
	resend := time.NewTicker(pairResend)
	defer resend.Stop()
	var settle <-chan time.Time
	for {
		if settle == nil && x.p.Spent() {
			late := time.NewTimer(settleTimeout)
			defer late.Stop()
			settle = late.C
		}
		select {
		case <-ctx.Done():
			return x.broken(context.Cause(ctx))
		case <-settle:
			return x.broken(fmt.Errorf("%w: the other side fell silent after the code was spent", ErrWrongCode))
		case <-resend.C:
			if x.present {
				x.send(ctx, x.p.Start())
			}
		case ev, open := <-x.box.Events():
			if !open {
				return x.broken(x.box.Err())
			}
			if paired, err := x.event(ctx, ev); paired || err != nil {
				return err
			}
		}
	}
}

func (x *exchange) send(ctx context.Context, b []byte) {
	if b == nil {
		return
	}
	if err := x.box.Send(ctx, x.to, b); err != nil {
		x.env.cfg.Trace.Emit(trace.Failure{Where: "pairing", Err: err.Error()})
	}
}

// event is one thing that happened in the mailbox.
func (x *exchange) event(ctx context.Context, ev signaling.Event) (paired bool, err error) {
	switch ev.Kind {
	case signaling.Failed:
		return false, x.broken(pairingEnd(ev.Err))
	case signaling.Joined:
		x.joined = true
	case signaling.PeerHere:
		x.to, x.present = ev.From, true
		x.send(ctx, x.p.Start())
	case signaling.PeerGone:
		x.present = false
		// Between the last words it may come back; before, its part of the run is lost.
		if x.p.Spent() && !x.p.Proved() {
			return false, withHint(fmt.Errorf("%w: the other side left after the code was spent", ErrWrongCode), "make a new code with `p2pagent listen --pair`")
		}
	case signaling.Message:
		out, next, err := x.p.Step(ev.Body)
		x.send(ctx, out)
		switch {
		case err != nil:
			return false, x.refused(err)
		case next == identity.NextStore:
			return x.store(ctx)
		case next == identity.NextPaired:
			return true, x.confirm()
		}
	}
	return false, nil
}

// refused gives the error of a message its meaning. Most are of no meaning: somebody
// sent what does not belong here, and the pairing waits for something better.
func (x *exchange) refused(err error) error {
	var version identity.ErrVersion
	var not identity.ErrNotStored
	switch {
	case errors.Is(err, identity.ErrWrongCode):
		return withHint(fmt.Errorf("%w; it is spent now", ErrWrongCode), "use the new code that the other machine shows, or make one there with `p2pagent listen --pair`; if nobody mistyped it, somebody is guessing")
	case errors.As(err, &not):
		return x.notStored(not)
	case errors.Is(err, identity.ErrSelf):
		return withHint(fmt.Errorf("the code is this machine's own: %w", identity.ErrSelf), "run `p2pagent connect CODE` on the other machine; the code can still be used there")
	case errors.Is(err, identity.ErrFinished), errors.Is(err, identity.ErrNameTaken):
		return err
	case errors.As(err, &version) && x.role == connector:
		return withHint(version, "update it and use the same code, while it is shown")
	case errors.As(err, &version) && !x.newer:
		x.newer = true
		x.env.cfg.Trace.Emit(trace.PairingFailed{Why: version.Error(), Valid: true})
	default:
		x.env.cfg.Trace.Emit(trace.Failure{Where: "pairing", Err: err.Error()})
	}
	return nil
}

// store keeps the peer, in the way that suits the role, and tells it. The listener is
// paired then.
func (x *exchange) store(ctx context.Context) (paired bool, err error) {
	if x.role == connector {
		peer, err := x.env.cfg.Peers.Propose(x.p.Result(), x.as)
		if err == nil {
			x.proposed = peer
		}
		out, _ := x.p.Stored(err)
		x.send(ctx, out)
		return false, keptNothing(err)
	}
	err = x.env.storePeer(x.p.Result(), "")
	out, _ := x.p.Stored(err)
	x.send(ctx, out)
	if err != nil {
		return false, keptNothing(err)
	}
	x.linger(ctx, out)
	return true, nil
}

// keptNothing says what follows from an error of the store: the other side is told.
func keptNothing(err error) error {
	if err == nil {
		return nil
	}
	return withHint(fmt.Errorf("the pairing could not be stored, so neither machine keeps it: %w", err), "make room for it, then pair with a new code")
}

// linger says the last word again to a peer that missed it, until it leaves.
func (x *exchange) linger(ctx context.Context, last []byte) {
	over := time.NewTimer(lingerTimeout)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-over.C:
			return
		case ev, open := <-x.box.Events():
			switch {
			case !open, ev.Kind == signaling.Failed, ev.Kind == signaling.PeerGone:
				return
			case ev.Kind == signaling.Message:
				x.send(ctx, last)
			}
		}
	}
}

// confirm makes the connector's record count: the listener has stored this side.
func (x *exchange) confirm() error {
	if err := x.env.storePeer(x.p.Result(), x.as); err != nil {
		return x.unconfirmed(err)
	}
	return nil
}

// notStored takes back what the connector has stored, as the listener could not.
func (x *exchange) notStored(not identity.ErrNotStored) error {
	why := withHint(fmt.Errorf("%w; nothing of it is kept here", not), "make room there, then pair with a new code")
	if x.proposed.Fingerprint.IsZero() {
		return why
	}
	if err := x.env.cfg.Peers.Withdraw(x.proposed.Fingerprint, x.proposed.Proposed); err != nil {
		return x.unconfirmed(errors.Join(why, err))
	}
	return why
}

// broken is the end of an exchange in the middle. What it means depends on how far it
// came.
func (x *exchange) broken(err error) error {
	switch {
	case errors.Is(err, context.Canceled): // by our own will, and yet no success
		return err
	case !x.proposed.Fingerprint.IsZero():
		return x.unconfirmed(err)
	case x.role == listener && x.p.Proved():
		return fmt.Errorf("%w; nothing of it is kept here", errUnsettled)
	}
	return err
}

// unconfirmed is the end of a pairing that the connector has stored, and perhaps the
// listener too.
func (x *exchange) unconfirmed(err error) error {
	return withHint(fmt.Errorf("%w; it is remembered here as %s, unconfirmed: %w", errUnsettled, x.proposed.Name, err),
		"`p2pagent connect %s`, which works if that machine has stored it; if not, pair again with a new code", x.proposed.Name)
}

// storePeer keeps a peer, and says under which name.
func (e *environment) storePeer(peer identity.Peer, as string) error {
	before, err := e.cfg.Peers.ByFingerprint(peer.Fingerprint)
	if err != nil && !errors.Is(err, identity.ErrUnknownPeer) {
		return err
	}
	told := trace.Paired{Fingerprint: peer.Fingerprint.String(), Again: err == nil && before.Confirmed()}
	var stored identity.Peer
	if as != "" {
		stored, err = e.cfg.Peers.PutAs(peer, as)
		if told.Again && stored.Name != before.Name {
			told.Was = before.Name
		}
	} else {
		stored, err = e.cfg.Peers.Put(peer)
		if stored.Name != peer.Name {
			told.Calls = peer.Name
		}
	}
	if err != nil {
		return err
	}
	select {
	case e.paired <- struct{}{}:
	default:
	}
	told.Name = stored.Name
	e.cfg.Trace.Emit(told)
	return nil
}

// confirm makes the record of a peer count that has shown to have its proposed secret.
// The zero Peer is what it returns when that cannot be stored; the secret serves anyway.
func (e *environment) confirm(peer identity.Peer) identity.Peer {
	stored, fresh, err := e.cfg.Peers.Confirm(peer.Fingerprint, peer.Secret)
	if err != nil {
		e.cfg.Trace.Emit(trace.Failure{Where: "confirm the pairing with " + peer.Name, Err: err.Error()})
		return identity.Peer{}
	}
	if fresh {
		e.cfg.Trace.Emit(trace.Paired{Name: stored.Name, Fingerprint: stored.Fingerprint.String()})
	}
	return stored
}

// pairingEnd gives the server's errors about a nameplate their meaning.
func pairingEnd(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err // by our own will, and yet no success
	case errors.Is(err, signaling.ErrUnknown):
		return withHint(fmt.Errorf("%w: no such code is waiting: %w", ErrPeerAbsent, err), "check the number, or make a new code with `p2pagent listen --pair`")
	case errors.Is(err, signaling.ErrTaken):
		return withHint(fmt.Errorf("%w: %w", ErrWrongCode, err), "somebody else is using the code at this moment; make a new one with `p2pagent listen --pair`")
	}
	return fatalSignaling(err)
}
