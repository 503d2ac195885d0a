package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// dutyKind is what has to be renewed.
type dutyKind int

const (
	keepAllocation dutyKind = iota
	keepPermission
	keepChannel
)

// A duty is one thing that the server forgets unless it is renewed.
type duty struct {
	kind dutyKind
	peer netip.AddrPort // a permission's has port 0
}

// A deadline is when a duty is to be done, and when it is too late.
type deadline struct{ due, expires time.Time }

// duties is the schedule of an allocation.
type duties struct {
	wake chan struct{} // holds one: something is due earlier than before

	mu   sync.Mutex
	open map[duty]deadline // guarded by mu
}

// add begins or renews a duty that was done at now.
func (d *duties) add(k duty, now time.Time, period, life time.Duration) {
	d.set(k, deadline{now.Add(min(period, life*4/5)), now.Add(life)})
}

func (d *duties) set(k duty, at deadline) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = make(map[duty]deadline)
	}
	d.open[k] = at
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *duties) drop(k duty) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, k)
}

// current reports a duty that was done and is not due again.
func (d *duties) current(k duty, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.open[k]
	return ok && now.Before(at.due)
}

// at returns a duty's deadline.
func (d *duties) at(k duty) (deadline, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.open[k]
	return at, ok
}

// next returns what is due at now and, when nothing is, how long it is until
// something will be.
func (d *duties) next(now time.Time) (due []duty, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = time.Hour
	for k, at := range d.open {
		if !now.Before(at.due) {
			due = append(due, k)
		}
		wait = min(wait, at.due.Sub(now))
	}
	return due, wait
}

// keepUp does what is due until ctx or the allocation ends.
func (a *Allocation) keepUp(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-a.duties.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.done:
			return a.err
		}
		due, _ := a.duties.next(time.Now())
		// One that is not answered takes seconds; those due with it do not wait.
		var all sync.WaitGroup
		for _, k := range due {
			all.Go(func() { a.renew(ctx, k) })
		}
		all.Wait()
		_, wait := a.duties.next(time.Now())
		timer.Reset(wait)
	}
}

// renew does one duty and decides when it is due again.
func (a *Allocation) renew(ctx context.Context, k duty) {
	var err error
	switch k.kind {
	case keepAllocation:
		err = a.refresh(ctx)
	case keepPermission:
		err = a.createPermission(ctx, k.peer.Addr())
	case keepChannel:
		err = a.channelBind(ctx, k.peer)
	}
	if err == nil || ctx.Err() != nil || a.ended() {
		return // renewed, or no longer ours to renew
	}
	at, ok := a.duties.at(k)
	if !ok {
		return
	}
	now := time.Now()
	step := afterFailure(k.kind, err, now, at)
	if k.kind == keepChannel && (step == giveUp || !now.Before(at.expires)) {
		a.channels.unbind(k.peer) // back to Send indications
	}
	switch {
	case step == tryAgain:
		a.duties.set(k, deadline{now.Add(a.cfg.times.again), at.expires})
	case k.kind == keepAllocation:
		a.end(err)
	default:
		a.duties.drop(k)
	}
}

type nextStep int

const (
	tryAgain nextStep = iota
	giveUp
)

// afterFailure decides about a duty that could not be done. A refusal stands.
// Silence and errors of the server itself may pass: an allocation is given up when
// its time is over, a permission or channel not before the allocation.
func afterFailure(kind dutyKind, err error, now time.Time, at deadline) nextStep {
	var refused *RequestError
	switch {
	case kind == keepAllocation && !now.Before(at.expires):
		return giveUp
	case errors.As(err, &refused) && refused.Final():
		return giveUp
	case errors.Is(err, ErrGone), errors.Is(err, ErrDenied), errors.Is(err, errUnsigned):
		return giveUp
	}
	return tryAgain
}

// refresh makes the Refresh request. Some servers answer none for an allocation
// that they do not have; so when there is no answer but the server is there, and
// still there is none, the allocation is gone.
func (a *Allocation) refresh(ctx context.Context) error {
	_, err := a.refreshOnce(ctx)
	if !errors.Is(err, ErrNoAnswer) || a.binding(ctx) != nil {
		return err
	}
	if _, err = a.refreshOnce(ctx); errors.Is(err, ErrNoAnswer) && ctx.Err() == nil && !a.ended() {
		return &RequestError{What: "refresh", Server: a.cfg.name(), Err: fmt.Errorf("%w: the server answers, but not to this", ErrGone)}
	}
	return err
}

func (a *Allocation) refreshOnce(ctx context.Context) (*stunmsg.Message, error) {
	m, err := a.request(ctx, "refresh", "", stunmsg.MethodRefresh, func(b *stunmsg.Builder) { b.Lifetime(a.life) })
	if err != nil {
		return nil, err
	}
	life, ok := m.Lifetime()
	if !ok {
		life = a.life
	}
	if life == 0 {
		return nil, &RequestError{What: "refresh", Server: a.cfg.name(), Err: fmt.Errorf("%w: the server granted no more time", ErrGone)}
	}
	a.duties.add(duty{kind: keepAllocation}, time.Now(), a.cfg.times.refresh, life)
	return m, nil
}

// binding asks the server for a sign of life, which needs no allocation.
func (a *Allocation) binding(ctx context.Context) error {
	_, err := a.tx.roundTrip(ctx, stunmsg.NewRequest(stunmsg.MethodBinding).Fingerprint().Bytes())
	return err
}

// Nudge makes the allocation look at once whether it is still there, as after a
// change of the network. What it finds is told by Done.
func (a *Allocation) Nudge() {
	k := duty{kind: keepAllocation}
	if at, ok := a.duties.at(k); ok {
		a.duties.set(k, deadline{time.Now(), at.expires})
	}
}

// maxAtOnce is how many requests Permit has under way.
const maxAtOnce = 8

// Permit asks the server to let peers at addrs send to us and us to them, with
// one request per address, so that one that is denied does not take the others
// with it. They are renewed until the allocation ends. The error joins those of
// the addresses; a denied one is [ErrDenied].
func (a *Allocation) Permit(ctx context.Context, addrs ...netip.Addr) error {
	var todo []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		if slices.Contains(todo, addr) || a.duties.current(permission(addr), time.Now()) {
			continue
		}
		todo = append(todo, addr)
	}
	errs := make([]error, len(todo))
	var all sync.WaitGroup
	slots := make(chan struct{}, maxAtOnce)
	for i, addr := range todo {
		slots <- struct{}{}
		all.Go(func() {
			errs[i] = a.createPermission(ctx, addr)
			<-slots
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func permission(addr netip.Addr) duty {
	return duty{kind: keepPermission, peer: netip.AddrPortFrom(addr, 0)}
}

func (a *Allocation) createPermission(ctx context.Context, addr netip.Addr) error {
	_, err := a.request(ctx, "permission", addr.String(), stunmsg.MethodCreatePermission, func(b *stunmsg.Builder) {
		b.XORPeerAddress(netip.AddrPortFrom(addr, 0)) // the port means nothing here
	})
	if err == nil {
		a.duties.add(permission(addr), time.Now(), a.cfg.times.renew, permissionLife)
	}
	return err
}

// Bind binds a channel to peer, so that each datagram costs four bytes on the way
// to the server instead of about forty. It gives a permission too, and is renewed
// like one until the allocation ends.
func (a *Allocation) Bind(ctx context.Context, peer netip.AddrPort) error {
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	if a.duties.current(duty{keepChannel, peer}, time.Now()) {
		return nil
	}
	return a.channelBind(ctx, peer)
}

func (a *Allocation) channelBind(ctx context.Context, peer netip.AddrPort) error {
	n, err := a.channels.number(peer)
	if err != nil {
		return &RequestError{What: "channel", Peer: peer.String(), Server: a.cfg.name(), Err: err}
	}
	_, err = a.request(ctx, "channel", peer.String(), stunmsg.MethodChannelBind, func(b *stunmsg.Builder) {
		b.ChannelNumber(n).XORPeerAddress(peer)
	})
	if err == nil {
		a.channels.bind(peer)
		a.duties.add(duty{keepChannel, peer}, time.Now(), a.cfg.times.renew, channelLife)
	}
	return err
}
