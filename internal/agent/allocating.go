package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
)

// An allocationTry is one race for an allocation, with the credentials of its
// beginning.
type allocationTry struct {
	servers servers
	stale   bool  // the credentials had expired by then
	sofar   error // what has become of it
	cancel  context.CancelCauseFunc
}

// errNewCredentials ends a try whose credentials were the old ones.
var errNewCredentials = errors.New("new credentials have come")

// allocate gets an allocation: of all servers over all transports whichever is
// there first, and after one over a stream, one over UDP. Nothing happens when
// payload may not be relayed.
//
// Credentials that have expired are tried as well, while new ones are asked for:
// not every server minds, and signaling may be out of reach.
func (l *link) allocate() {
	r := &l.relaying
	if l.requireDirect() || r.try != nil || r.alloc != nil {
		return
	}
	if len(l.servers.turnURIs) == 0 {
		if l.servers.minted { // else signaling has not said yet
			l.noRelay(errNoServers)
		}
		return
	}
	r.retryAt = time.Time{}
	l.startTry(l.servers)
}

// startTry begins a try with given servers.
func (l *link) startTry(s servers) {
	ctx, cancel := context.WithCancelCause(l.ctx)
	try := &allocationTry{servers: s, stale: s.expired(time.Now()), cancel: cancel}
	l.relaying.try = try
	if try.stale {
		l.renewCredentials()
	}
	if l.relaying.failures > 0 && len(s.turn) > 0 { // the names may lead elsewhere by now; the next try knows
		l.work(func(ctx context.Context) {
			found := l.env.resolve(ctx, s)
			l.do(func() { l.useAddresses(found) })
		})
	}
	l.work(func(context.Context) {
		defer cancel(nil)
		if len(s.turn) == 0 {
			s = l.env.resolve(ctx, s)
			l.do(func() { l.useAddresses(s) })
		}
		ctx, stop := context.WithTimeout(ctx, allocateTimeout)
		defer stop()
		err := l.race(ctx, try, s)
		l.do(func() { l.tried(try, err) })
	})
}

// useAddresses takes what the names of servers led to, unless they are no longer
// the ones in use.
func (l *link) useAddresses(s servers) {
	if !s.sameCredentials(l.servers) || !slices.Equal(s.turnURIs, l.servers.turnURIs) {
		return
	}
	had := len(l.servers.stun)
	l.servers.stun, l.servers.turn, l.servers.unresolved = s.stun, s.turn, s.unresolved
	if had == 0 && len(s.stun) > 0 {
		l.gather(l.announce)
	}
}

// race runs a try with the servers' addresses, and hands over what it brings.
func (l *link) race(ctx context.Context, try *allocationTry, s servers) error {
	return runRace(ctx, newRace(s), func(ctx context.Context, t turnServer) (*relay.Allocation, error) {
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
	}, func(err error) {
		l.do(func() {
			if l.relaying.try == try && err != nil {
				try.sofar = err
			}
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
		l.lookForUDP()
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
	if r.try != try || l.requireDirect() { // the peer may have said so meanwhile
		l.work(func(context.Context) { alloc.Close() }) // its farewell may take a second
		return
	}
	if err := l.conn.AddCarrier(alloc, path.Relayed, nil); err != nil {
		alloc.Close() // the link is ending
		return
	}
	l.retire(r.alloc)
	r.failures, r.err, r.told = 0, nil, ""
	l.work(func(ctx context.Context) {
		select {
		case <-alloc.Done():
			l.do(func() { l.allocationLost(alloc, alloc.Err()) })
		case <-ctx.Done():
		}
	})
	l.whileUDP(func() { l.announceAllocation(alloc) })
}

// announceAllocation makes an allocation the one that the peer is told of.
func (l *link) announceAllocation(alloc *relay.Allocation) {
	r := &l.relaying
	r.alloc, r.permitted, r.denied = alloc, make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	l.permitPeer()
	l.tryRelays()
}

// tried is the end of a try. One that brought nothing, or nothing over UDP, is
// followed by another: at once when it was refused for credentials that have been
// replaced meanwhile.
func (l *link) tried(try *allocationTry, err error) {
	r := &l.relaying
	if r.try != try {
		return
	}
	r.try = nil
	if r.alloc != nil {
		l.planUDP()
		return
	}
	r.failures++
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
	r.err = err
	if !r.asked { // else that is not the last word
		l.noRelay(err)
	}
	l.reviewVerdict()
	wait := allocationBackoff(r.failures)
	var none *noRelayError
	if errors.As(err, &none) && none.unreachable() {
		wait = allocationBackoff(1) // it costs nobody anything to find out
	}
	r.retryAt = time.Now().Add(wait)
}

// allocationBackoff grows from one second to half a minute.
func allocationBackoff(failures int) time.Duration {
	return min(time.Second<<min(failures-1, 5), 30*time.Second)
}

// overStream reports an allocation on a server that is reached over TCP or TLS.
func overStream(alloc *relay.Allocation) bool { return alloc != nil && alloc.Transport() != "udp" }

// overUDP reports that there is an allocation on a server that answers over UDP.
func (r *relaying) overUDP() bool { return r.alloc != nil && !overStream(r.alloc) }

// planUDP plans the next try over UDP when the allocation is over a stream: UDP
// may have been out of order for a moment only.
func (l *link) planUDP() {
	r := &l.relaying
	if r.overUDP() {
		r.udpAt, r.udpTries = time.Time{}, 0
		return
	}
	r.udpTries++
	r.udpAt = time.Now().Add(udpBackoff(r.udpTries))
}

// udpBackoff grows from five seconds to a minute.
func udpBackoff(tries int) time.Duration {
	return min(5*time.Second<<min(tries-1, 4), time.Minute)
}

// lookForUDP tries for an allocation over UDP, beside the one over a stream.
func (l *link) lookForUDP() {
	r := &l.relaying
	r.udpAt = time.Time{}
	if r.try != nil || !overStream(r.alloc) {
		return
	}
	s := l.servers
	s.turnURIs = slices.DeleteFunc(slices.Clone(s.turnURIs), func(u candidates.URI) bool { return u.Transport != "udp" })
	s.turn = slices.DeleteFunc(slices.Clone(s.turn), func(t turnServer) bool { return t.rank() > 0 })
	if len(s.turn) > 0 {
		l.startTry(s)
	}
}

// retire keeps an allocation that a better one replaces, until payload has left
// it: its paths work while those over the new one are being proved.
func (l *link) retire(alloc *relay.Allocation) {
	r := &l.relaying
	if alloc == nil {
		return
	}
	if r.old != nil {
		l.giveBack(r.old)
	}
	r.old, r.oldIn, r.oldAt = alloc, 0, time.Now().Add(retireCheck)
}

// retireDue gives the old allocation back when neither side has used it for
// payload since the last look. The peer moves by itself, a little later than we.
func (l *link) retireDue(now time.Time) {
	r := &l.relaying
	r.oldAt = time.Time{}
	if r.old == nil {
		return
	}
	in, used := uint64(0), false
	for _, p := range l.conn.Status() {
		if p.Local == r.old.LocalAddr() {
			in += p.In.Payload + p.In.Fragments
			used = used || p.Active || p.Duplicate
		}
	}
	if used || in != r.oldIn {
		r.oldIn, r.oldAt = in, now.Add(retireCheck)
		return
	}
	l.giveBack(r.old)
	r.old = nil
}

func (l *link) allocationLost(alloc *relay.Allocation, err error) {
	r := &l.relaying
	switch {
	case alloc == r.old:
		r.old = nil
		l.giveBack(alloc)
	case alloc == r.alloc && r.old != nil:
		l.giveBack(alloc)
		old := r.old
		r.old = nil
		l.announceAllocation(old)
		l.planUDP()
	case alloc == r.alloc:
		r.err = err
		l.dropAllocation()
		l.allocate()
	}
}

// allocationAt finds the allocation with a relayed address, nil if none has it.
func (l *link) allocationAt(relayed netip.AddrPort) *relay.Allocation {
	for _, a := range []*relay.Allocation{l.relaying.alloc, l.relaying.old} {
		if a != nil && a.LocalAddr() == relayed {
			return a
		}
	}
	return nil
}

// dropAllocation gives back what there is, and ends the try for a better one.
func (l *link) dropAllocation() {
	r := &l.relaying
	if r.old != nil {
		l.giveBack(r.old)
	}
	if r.alloc != nil {
		l.stopTrying(net.ErrClosed)
		l.giveBack(r.alloc)
	}
	r.alloc, r.old, r.udpAt = nil, nil, time.Time{}
}

// giveBack closes an allocation in a worker: its farewell may wait for a server
// that cannot be reached.
func (l *link) giveBack(alloc *relay.Allocation) {
	l.work(func(context.Context) { l.conn.RemoveCarrier(alloc) })
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
