package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
)

// An allocationTry is one race for an allocation, with the credentials of its
// beginning.
type allocationTry struct {
	servers servers
	stale   bool // the credentials had expired by then
	cancel  context.CancelCauseFunc
}

// errNewCredentials ends a try whose credentials were the old ones.
var errNewCredentials = errors.New("new credentials have come")

// allocate gets an allocation: of all servers over all transports whichever is
// there first. Nothing happens when payload may not be relayed.
//
// Credentials that have expired are tried as well, while new ones are asked for:
// not every server minds, and signaling may be out of reach.
func (l *link) allocate() {
	r := &l.relaying
	if l.requireDirect() || r.try != nil || r.alloc != nil || len(l.servers.turn) == 0 {
		return
	}
	r.retryAt = time.Time{}
	ctx, cancel := context.WithCancelCause(l.ctx)
	try := &allocationTry{servers: l.servers, stale: l.servers.expired(time.Now()), cancel: cancel}
	r.try = try
	if try.stale {
		l.renewCredentials()
	}
	l.work(func(context.Context) {
		defer cancel(nil)
		ctx, stop := context.WithTimeout(ctx, allocateTimeout)
		defer stop()
		err := l.race(ctx, try)
		l.do(func() { l.tried(try, err) })
	})
}

// race runs a try, and hands over what it brings.
func (l *link) race(ctx context.Context, try *allocationTry) error {
	s := try.servers
	return runRace(ctx, newRace(s.turn, s.minted), func(ctx context.Context, t turnServer) (*relay.Allocation, error) {
		return relay.Allocate(ctx, relay.ClientConfig{
			Server: t.addr, Transport: t.uri.Transport, ServerName: t.uri.Host,
			Username: s.user, Password: s.pass, Portable: l.env.cfg.Portable, Trace: l.trace,
		})
	}, func(alloc *relay.Allocation) {
		l.orphans.add(alloc)
		l.do(func() {
			l.orphans.remove(alloc)
			l.allocated(try, alloc)
		})
	})
}

// expired reports credentials that are too old for a new allocation.
func (s servers) expired(now time.Time) bool { return !s.expires.IsZero() && !now.Before(s.expires) }

// renewCredentials asks the signaling server for new credentials, which come with
// use. It does nothing while they are under way, or without a way to ask.
func (l *link) renewCredentials() {
	e := l.enc.Load()
	if e == nil || l.relaying.asked || !l.servers.minted {
		return
	}
	l.relaying.asked = true
	l.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		if _, err := e.box.Credentials(ctx); err != nil { // else they come as an event too
			l.trace.Emit(trace.Failure{Where: "credentials", Err: err.Error()})
			l.do(func() { l.relaying.asked = false })
		}
	})
}

// useServers takes servers, fresh credentials included. A try with credentials
// that had expired starts anew with them.
func (l *link) useServers(s servers) {
	r := &l.relaying
	l.servers, r.asked = s, false
	if t := r.try; t != nil && t.stale && !t.servers.sameCredentials(s) {
		l.stopTrying(errNewCredentials)
	}
	l.allocate()
}

func (s servers) sameCredentials(o servers) bool { return s.user == o.user && s.pass == o.pass }

// stopTrying ends the try under way; what it may still bring is closed.
func (l *link) stopTrying(why error) {
	if t := l.relaying.try; t != nil {
		l.relaying.try = nil
		t.cancel(why)
	}
}

// allocated takes an allocation that a try has brought.
func (l *link) allocated(try *allocationTry, alloc *relay.Allocation) {
	r := &l.relaying
	if r.try != try {
		l.work(func(context.Context) { alloc.Close() }) // too late; its farewell may take a second
		return
	}
	if err := l.conn.AddCarrier(alloc, path.Relayed, nil); err != nil {
		alloc.Close() // the link is ending
		return
	}
	r.alloc, r.failures, r.err = alloc, 0, nil
	r.permitted, r.denied = make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	l.work(func(ctx context.Context) {
		select {
		case <-alloc.Done():
			l.do(func() { l.allocationLost(alloc, alloc.Err()) })
		case <-ctx.Done():
		}
	})
	l.permitPeer()
	l.tryRelays()
}

// tried is the end of a try. One that brought nothing is followed by another:
// at once when it was refused for credentials that have been replaced meanwhile.
func (l *link) tried(try *allocationTry, err error) {
	r := &l.relaying
	if r.try != try {
		return
	}
	r.try = nil
	if r.alloc != nil {
		return
	}
	r.err = err
	r.failures++
	defer l.reviewVerdict()
	if errors.Is(err, relay.ErrCredentials) && try.servers.minted {
		if !try.servers.sameCredentials(l.servers) {
			l.allocate()
			return
		}
		l.servers.expires = time.Now() // whatever their time says
		if r.failures == 1 {
			l.renewCredentials() // else with the next try: they may all be refused
		}
	}
	r.retryAt = time.Now().Add(allocationBackoff(r.failures))
}

// allocationBackoff grows from one second to half a minute.
func allocationBackoff(failures int) time.Duration {
	return min(time.Second<<min(failures-1, 5), 30*time.Second)
}

func (l *link) allocationLost(alloc *relay.Allocation, err error) {
	r := &l.relaying
	if r.alloc != alloc {
		return
	}
	r.err = err
	l.dropAllocation()
	l.allocate()
}

// dropAllocation gives the allocation back, in a worker: its farewell may wait
// for a server that cannot be reached.
func (l *link) dropAllocation() {
	if alloc := l.relaying.alloc; alloc != nil {
		l.relaying.alloc = nil
		l.stopTrying(net.ErrClosed)
		l.work(func(context.Context) { l.conn.RemoveCarrier(alloc) })
	}
}

// orphans are allocations that a worker has made and the loop has not taken yet.
type orphans struct {
	mu    sync.Mutex
	known []*relay.Allocation
}

func (o *orphans) add(a *relay.Allocation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known = append(o.known, a)
}

func (o *orphans) remove(a *relay.Allocation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known = slices.DeleteFunc(o.known, func(k *relay.Allocation) bool { return k == a })
}

// close closes those that are left, when the loop has ended.
func (o *orphans) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.known {
		a.Close()
	}
	o.known = nil
}
