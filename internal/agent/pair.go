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

// pairResend is when the connector sends its first message again.
const pairResend = 2 * time.Second

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
	err = e.exchange(ctx, p, box, "")
	return p.Spent(), err
}

// Pair redeems a code that the other machine shows, and returns the peer as it
// is stored now. as is the name to store it under; empty: what it calls
// itself. With a name of another peer it fails before the code is spent
// ([identity.ErrNameTaken]), and with this machine's own code as well
// ([identity.ErrSelf]). It ends when ctx does.
func Pair(ctx context.Context, cfg Config, code identity.Code, as string) (identity.Peer, error) {
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
	g.Go(func() error {
		box := e.client.Join(code.Nameplate(), signaling.RoleGuest)
		defer box.Close()
		err := e.exchange(gctx, p, box, as)
		if err != nil {
			return err
		}
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
	case ctx.Err() != nil:
		if connected, _, last := e.client.State(); !connected {
			return peer, Unreachable(last, time.Since(began))
		}
		return peer, withHint(fmt.Errorf("%w: nobody answered for the code's number %s", ErrPeerAbsent, code.Nameplate()), "run `p2pagent listen --pair` on the other machine and use the new code")
	}
	return peer, err
}

// exchange runs one pairing in a mailbox and stores the peer, under a name that the
// user chose or, when that is empty, the peer did.
func (e *environment) exchange(ctx context.Context, p *identity.Pairing, box *signaling.Mailbox, as string) error {
	resend := time.NewTicker(pairResend)
	defer resend.Stop()
	var to signaling.Seat
	present := false
	send := func(b []byte) {
		if b == nil {
			return
		}
		if err := box.Send(ctx, to, b); err != nil {
			e.cfg.Trace.Emit(trace.Failure{Where: "pairing", Err: err.Error()})
		}
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-resend.C:
			if present && !p.Spent() {
				send(p.Start())
			}
		case ev, open := <-box.Events():
			if !open {
				return box.Err()
			}
			switch ev.Kind {
			case signaling.Failed:
				return pairingEnd(ev.Err)
			case signaling.PeerHere:
				to, present = ev.From, true
				send(p.Start())
			case signaling.PeerGone:
				present = false
				if p.Spent() {
					return withHint(fmt.Errorf("%w: the other side left after the code was spent", ErrWrongCode), "make a new code with `p2pagent listen --pair`")
				}
			case signaling.Message:
				out, done, err := p.Step(ev.Body)
				send(out)
				switch {
				case done:
					return e.storePeer(p.Result(), as)
				case errors.Is(err, identity.ErrWrongCode):
					return withHint(fmt.Errorf("%w; it is spent now", ErrWrongCode), "use the new code that the other machine shows, or make one there with `p2pagent listen --pair`; if nobody mistyped it, somebody is guessing")
				case errors.Is(err, identity.ErrSelf):
					return withHint(fmt.Errorf("the code is this machine's own: %w", identity.ErrSelf), "run `p2pagent connect CODE` on the other machine; the code can still be used there")
				case errors.Is(err, identity.ErrFinished), errors.Is(err, identity.ErrNameTaken):
					return err
				case err != nil:
					e.cfg.Trace.Emit(trace.Failure{Where: "pairing", Err: err.Error()})
				}
			}
		}
	}
}

// storePeer keeps a peer, and says under which name.
func (e *environment) storePeer(peer identity.Peer, as string) error {
	before, err := e.cfg.Peers.ByFingerprint(peer.Fingerprint)
	if err != nil && !errors.Is(err, identity.ErrUnknownPeer) {
		return err
	}
	told := trace.Paired{Fingerprint: peer.Fingerprint.String(), Again: err == nil}
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
