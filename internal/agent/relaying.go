package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
)

// relaying is the link's own allocation and the peer's relayed address.
type relaying struct {
	alloc    *relay.Allocation // the one that the peer is told of
	try      *allocationTry    // under way; nil: none
	asked    bool              // signaling, for new credentials
	failures int
	retryAt  time.Time
	err      error  // why there is none
	told     string // of that

	old   *relay.Allocation // over a stream, which alloc has replaced; nil: none
	oldIn uint64            // payload that had come over it at the last look
	oldAt time.Time         // of the next look

	udpAt    time.Time // of the next try over UDP, while alloc is over a stream
	udpTries int       // in a row

	peer      netip.AddrPort
	peers     peerRelays
	waiting   netip.AddrPort      // the peer's newest, when that was one too many
	takeAt    time.Time           // and until when it waits
	permitted map[netip.Addr]bool // on this allocation
	denied    map[netip.Addr]bool // likewise, by the server
	permit    turn                // of the announced addresses
	pair      turn                // of relay to relay
}

// turn lets one worker of a kind run at a time for an allocation, whatever the
// peer sends meanwhile.
type turn struct {
	alloc *relay.Allocation // that a worker runs for
	again bool              // something has changed since it began
}

// begin reports whether a worker may start; else the one that runs is told that
// it is to be done again.
func (t *turn) begin(alloc *relay.Allocation) bool {
	if t.alloc == alloc {
		t.again = true
		return false
	}
	*t = turn{alloc: alloc}
	return true
}

// end reports whether it is to be done again.
func (t *turn) end(alloc *relay.Allocation) (again bool) {
	if t.alloc != alloc {
		return false // of an allocation before
	}
	again = t.again
	*t = turn{}
	return again
}

// Bounds on what a peer can make us do.
const (
	maxPeerRelays  = 16               // new relayed addresses at once,
	peerRelayEvery = 15 * time.Second // and one more in this time: heal makes no more of them
	maxPermits     = 32               // permissions of one allocation
)

// peerRelays is the relayed addresses that the peer has named lately, newest
// last.
type peerRelays struct {
	known []netip.AddrPort
	spent time.Time // when as many as possible are possible again
}

// take counts an address. When it is a new one too many, ready is when it will
// not be.
func (p *peerRelays) take(addr netip.AddrPort, now time.Time) (fresh bool, ready time.Time) {
	if slices.Contains(p.known, addr) {
		return false, time.Time{}
	}
	spent := p.spent
	if spent.Before(now) {
		spent = now
	}
	if ready := spent.Add(-(maxPeerRelays - 1) * peerRelayEvery); ready.After(now) {
		return false, ready
	}
	p.spent = spent.Add(peerRelayEvery)
	p.known = append(p.known, addr)
	p.known = slices.Clone(p.known[max(0, len(p.known)-maxPeerRelays):])
	return true, time.Time{}
}

// permitPeer lets the peer's announced addresses through our relay, and
// announces the relay when they are: earlier, its first packets would be lost.
func (l *link) permitPeer() {
	alloc := l.relaying.alloc
	if alloc == nil || l.remote.generation == 0 || !l.relaying.permit.begin(alloc) {
		return
	}
	direct, _, _ := candidates.Filter(l.remote.list, l.filterEnv())
	addrs := relayPeers(direct, alloc.LocalAddr().Addr())
	for _, a := range addrs {
		if len(l.relaying.permitted) < maxPermits {
			l.relaying.permitted[a] = true
		}
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !l.relaying.permitted[a] || l.relaying.denied[a] })
	l.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
		defer cancel()
		err := alloc.Permit(ctx, addrs...)
		l.do(func() {
			again := l.relaying.permit.end(alloc)
			if l.relaying.alloc != alloc {
				return
			}
			l.noteDenied(err)
			if err != nil && !errors.Is(err, relay.ErrDenied) {
				l.trace.Emit(trace.Failure{Where: "permit peer on relay", Err: err.Error()})
			}
			l.post.send(&message{Relay: &relayedAt{alloc.LocalAddr()}})
			if again {
				l.permitPeer()
			}
		})
	})
}

// noteDenied remembers whom the server does not let us reach, so that it is not
// asked again.
func (l *link) noteDenied(err error) {
	var refused *relay.RequestError
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			l.noteDenied(err)
		}
	} else if errors.Is(err, relay.ErrDenied) && errors.As(err, &refused) {
		if a, err := netip.ParseAddr(refused.Peer); err == nil && len(l.relaying.denied) < 2*maxPermits {
			l.relaying.denied[a] = true
		}
	}
}

// relayPeers picks the addresses that may send to us through the relay: the
// peer's public ones, and the relay itself for a peer that is on it too.
func relayPeers(list []candidates.Candidate, relayAddr netip.Addr) []netip.Addr {
	out := []netip.Addr{relayAddr}
	for _, c := range list {
		a := c.Addr.Addr().Unmap()
		if a.Is4() != relayAddr.Is4() || a.IsPrivate() || a.IsLoopback() != relayAddr.IsLoopback() || a.IsLinkLocalUnicast() || slices.Contains(out, a) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// peerRelay takes the peer's relayed address. One that comes too soon after many
// others waits for its time, unless the peer names another one before.
func (l *link) peerRelay(addr netip.AddrPort) {
	_, relayed, refused := candidates.Filter([]candidates.Candidate{{Type: candidates.Relayed, Addr: addr}}, l.filterEnv())
	for _, r := range refused {
		l.trace.Emit(trace.Candidate{Remote: true, Type: string(r.Candidate.Type), Addr: r.Candidate.Addr, Refused: r.Why})
	}
	r := &l.relaying
	if len(relayed) == 0 || l.requireDirect() {
		return
	}
	fresh, ready := r.peers.take(addr, time.Now())
	if r.waiting, r.takeAt = addr, ready; !ready.IsZero() {
		return
	}
	if fresh {
		l.trace.Emit(trace.Candidate{Remote: true, Type: string(candidates.Relayed), Addr: addr})
	}
	l.conn.Expect(addr)
	r.peer = addr
	l.tryRelays()
}

// tryRelays probes every relayed pair there is: our sockets to the peer's
// relay, and relay to relay. The pair of our relay and the peer's socket is
// tried by the peer; we answer it.
func (l *link) tryRelays() {
	r := &l.relaying
	if !r.peer.IsValid() || l.requireDirect() {
		return
	}
	if !l.relayOnly() {
		for _, s := range l.newest() {
			if s.LocalAddr().Addr().Is4() == r.peer.Addr().Is4() {
				l.try(s.Socket, r.peer, path.Relayed)
			}
		}
	}
	alloc, peer := r.alloc, r.peer
	if alloc == nil || r.denied[peer.Addr().Unmap()] || !r.pair.begin(alloc) {
		return
	}
	l.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
		defer cancel()
		err := alloc.Permit(ctx, peer.Addr()) // an error is traced by relay
		l.do(func() {
			again := r.pair.end(alloc)
			if r.alloc != alloc {
				return
			}
			l.noteDenied(err)
			if err == nil {
				l.try(alloc, peer, path.Relayed)
			}
			if again && (err == nil || r.peer != peer) {
				l.tryRelays()
			}
		})
	})
}

func (l *link) try(cr path.Carrier, remote netip.AddrPort, kind path.Kind) {
	if err := l.conn.Try(cr, remote, kind); err != nil {
		l.trace.Emit(trace.Failure{Where: "try " + remote.String(), Err: err.Error()})
	}
}

// bindChannel gives a relayed path its channel, which saves 32 bytes a packet
// and lets packets leave in batches.
func (l *link) bindChannel(p path.Status) {
	alloc := l.allocationAt(p.Local)
	if alloc == nil {
		return
	}
	l.work(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
		defer cancel()
		if err := alloc.Bind(ctx, p.Remote); err != nil {
			l.trace.Emit(trace.Failure{Where: "bind channel to " + p.Remote.String(), Err: err.Error()})
		}
	})
}
