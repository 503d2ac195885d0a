package relay

import (
	"crypto/rand"
	"net/netip"
	"sync"
	"time"
)

// A fiveTuple is who talks to us over what: the client's address and the
// listener it came to, which stands for our address and the protocol.
type fiveTuple struct {
	listener int
	client   netip.AddrPort
}

// A ledger knows the live allocations by 5-tuple and by relayed port, and how
// many each user and each address has. It opens and closes nothing.
type ledger struct {
	maxTotal, maxPerUser, maxPerSource int

	mu         sync.RWMutex
	byTuple    map[fiveTuple]*relayConn
	byPort     map[uint16]*relayConn
	held       map[uint16]reservation // by port
	users      map[string]int
	sources    map[netip.Prefix]int
	total      int // places taken: allocations, and requests for one under way
	whenEmpty  chan struct{}
	reserveFor time.Duration
}

// A reservation is a port kept for who holds the token (RFC 8656 section
// 7.1): RTCP beside RTP. It ends with the allocation it was made with, so that
// the quotas of allocations hold for reservations too.
type reservation struct {
	token [8]byte
	owner *relayConn
	until time.Time
}

func newLedger(l Limits) *ledger {
	return &ledger{
		maxTotal: l.Allocations, maxPerUser: l.AllocationsPerUser, maxPerSource: l.AllocationsPerIP,
		byTuple: make(map[fiveTuple]*relayConn), byPort: make(map[uint16]*relayConn),
		held: make(map[uint16]reservation), users: make(map[string]int), sources: make(map[netip.Prefix]int),
		reserveFor: 30 * time.Second, // RFC 8656 section 7.2
	}
}

// admit takes a place for one more allocation, to be given back with leave. It
// returns 0 or the error code: 486 when the user has too many, 508 when the
// server has.
func (l *ledger) admit(user string, from netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.total >= l.maxTotal:
		return codeInsufficientCapacity
	case l.users[user] >= l.maxPerUser, l.sources[sourceKey(from)] >= l.maxPerSource:
		return codeQuotaReached
	}
	l.total++
	l.users[user]++
	l.sources[sourceKey(from)]++
	return 0
}

func (l *ledger) leave(user string, from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	decrement(l.users, user)
	decrement(l.sources, sourceKey(from))
	if l.total == 0 && l.whenEmpty != nil {
		close(l.whenEmpty)
		l.whenEmpty = nil
	}
}

func decrement[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}

// claim enters c under its relayed port unless the port is taken or kept for
// somebody else.
func (l *ledger) claim(c *relayConn, port uint16, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.freeLocked(port, now) {
		return false
	}
	l.byPort[port] = c
	return true
}

func (l *ledger) freeLocked(port uint16, now time.Time) bool {
	if l.byPort[port] != nil {
		return false
	}
	r, held := l.held[port]
	if held && now.After(r.until) {
		delete(l.held, port)
		held = false
	}
	return !held
}

// reserve keeps the port after that of c for c's user and returns the token.
func (l *ledger) reserve(c *relayConn, now time.Time) (token [8]byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for port, r := range l.held {
		if now.After(r.until) {
			delete(l.held, port)
		}
	}
	port := c.relayed.Port() + 1
	if !l.freeLocked(port, now) {
		return token, false
	}
	rand.Read(token[:])
	l.held[port] = reservation{token, c, now.Add(l.reserveFor)}
	return token, true
}

// redeem ends the reservation and returns its port.
func (l *ledger) redeem(token [8]byte, user string, now time.Time) (port uint16, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for port, r := range l.held {
		if r.token == token && r.owner.user == user {
			delete(l.held, port)
			return port, !now.After(r.until)
		}
	}
	return 0, false
}

// enter makes c the allocation of its 5-tuple.
func (l *ledger) enter(t fiveTuple, c *relayConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byTuple[t] = c
}

// strike removes c and its reservation; what has taken its place meanwhile
// stays.
func (l *ledger) strike(t fiveTuple, port uint16, c *relayConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byTuple[t] == c {
		delete(l.byTuple, t)
	}
	if l.byPort[port] == c {
		delete(l.byPort, port)
	}
	if l.held[port+1].owner == c {
		delete(l.held, port+1)
	}
}

func (l *ledger) find(t fiveTuple) *relayConn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byTuple[t]
}

func (l *ledger) atPort(port uint16) *relayConn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byPort[port]
}

func (l *ledger) livePort(port uint16) bool { return l.atPort(port) != nil }

func (l *ledger) live() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.byTuple)
}

// empty returns a channel that is closed once no place is taken.
func (l *ledger) empty() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if l.whenEmpty == nil {
		l.whenEmpty = make(chan struct{})
	}
	return l.whenEmpty
}
