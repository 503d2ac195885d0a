package relay

import (
	"net/netip"
	"sync"
	"time"
)

// A session is what one user has on this relay: its allocations, one after the
// other or at once, share a rate in each direction. So who allocates anew gets
// no fresh budget.
type session struct {
	up, down shaper

	allocations int // guarded by sessions.mu, like what is below
	left        time.Time
}

// sessions are those of all users. Without a rate there are none.
type sessions struct {
	rate int64 // bits per second
	drop func(packets int)

	mu     sync.Mutex
	byUser map[string]*session
	idle   int // sessions without an allocation
}

// sessionKept is how long a session outlives its last allocation: long enough
// for its budget to be full again.
const sessionKept = time.Second

func (t *sessions) join(user string, now time.Time) *session {
	if t.rate == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byUser[user]
	switch {
	case s == nil:
		t.sweepLocked(now)
		s = &session{up: newShaper(t.rate, t.drop), down: newShaper(t.rate, t.drop)}
		t.byUser[user] = s
	case s.allocations == 0:
		t.idle--
	}
	s.allocations++
	return s
}

// sweepLocked forgets idle sessions, once they are the greater part.
func (t *sessions) sweepLocked(now time.Time) {
	if t.idle <= len(t.byUser)/2 {
		return
	}
	for user, s := range t.byUser {
		if s.allocations == 0 && now.Sub(s.left) > sessionKept {
			delete(t.byUser, user)
			t.idle--
		}
	}
}

func (t *sessions) leave(user string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byUser[user]; s != nil {
		s.left = now
		if s.allocations--; s.allocations == 0 {
			t.idle++
		}
	}
}

// close drops what still waits.
func (t *sessions) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byUser {
		s.up.close()
		s.down.close()
	}
}

const (
	// shapeBurst is how much may pass at once, in time of the rate: what timers
	// may be late.
	shapeBurst = 10 * time.Millisecond

	// shapeDelay is how much may wait, likewise.
	shapeDelay = 100 * time.Millisecond

	// shapeTick is the least time between two looks at what waits.
	shapeTick = time.Millisecond
)

// A parcel is a batch on its way to send.
type parcel struct {
	send func(data []byte, seg int, peer netip.AddrPort)
	peer netip.AddrPort
	data []byte
	seg  int

	// empty is one datagram of no bytes. Here it has one, so that it waits its
	// turn and is not free.
	empty bool
}

func (p *parcel) deliver() {
	if p.empty {
		p.data = nil
	}
	p.send(p.data, p.seg, p.peer)
}

// split takes the datagrams off p that fit in budget bytes.
func (p *parcel) split(budget int) (head parcel) {
	n := len(p.data)
	if n > budget {
		n = max(0, budget) / p.seg * p.seg
	}
	head = *p
	head.data, p.data = p.data[:n], p.data[n:]
	return head
}

// A shaper holds one direction of a session to its rate. What is too early
// waits, in order, and what would wait too long is dropped.
type shaper struct {
	rate  float64 // bytes per second
	burst float64 // bytes
	limit int     // bytes that may wait
	drop  func(packets int)

	mu     sync.Mutex
	budget bucket
	queue  []parcel // copies
	queued int      // bytes
	timer  *time.Timer
	closed bool
}

func newShaper(bits int64, drop func(int)) shaper {
	rate := float64(bits) / 8
	inTime := func(d time.Duration) float64 { return max(1500, rate*d.Seconds()) }
	return shaper{rate: rate, burst: inTime(shapeBurst), limit: int(inTime(shapeDelay)), drop: drop}
}

// pass sends p now, later, or in part not at all.
func (s *shaper) pass(p parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.data) == 0 {
		p.data, p.empty = make([]byte, 1), true
	}
	if p.seg <= 0 {
		p.seg = len(p.data)
	}
	if len(s.queue) == 0 {
		s.budget.fill(s.rate, s.burst, time.Now())
		s.sendLocked(&p)
	}
	wait := p.split(s.limit - s.queued)
	if len(p.data) > 0 || s.closed {
		s.drop(packets(len(p.data), p.seg))
	}
	if len(wait.data) == 0 || s.closed {
		return
	}
	wait.data = append([]byte(nil), wait.data...)
	s.queue = append(s.queue, wait)
	s.queued += len(wait.data)
	if len(s.queue) == 1 {
		s.wakeLocked()
	}
}

// sendLocked sends what the budget allows of p.
func (s *shaper) sendLocked(p *parcel) {
	allowed := int(s.budget.tokens)
	if s.budget.tokens >= s.burst {
		allowed = max(allowed, min(p.seg, len(p.data))) // a datagram longer than the burst is paid afterwards
	}
	if head := p.split(allowed); len(head.data) > 0 {
		s.budget.tokens -= float64(len(head.data))
		head.deliver()
	}
}

// release sends what has waited long enough.
func (s *shaper) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The timer may be late, which takes nothing from who waits.
	s.budget.fill(s.rate, s.burst+float64(s.limit), time.Now())
	for len(s.queue) > 0 && !s.closed {
		p := &s.queue[0]
		before := len(p.data)
		s.sendLocked(p)
		s.queued -= before - len(p.data)
		if len(p.data) > 0 {
			s.wakeLocked()
			return
		}
		s.queue[0] = parcel{}
		s.queue = s.queue[1:]
	}
	s.queue = nil
}

// wakeLocked sees to it that the next datagram leaves when it may.
func (s *shaper) wakeLocked() {
	next := min(float64(min(s.queue[0].seg, len(s.queue[0].data))), s.burst)
	wait := time.Duration((next - s.budget.tokens) / s.rate * float64(time.Second))
	wait = max(wait, shapeTick)
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.release)
	} else {
		s.timer.Reset(wait)
	}
}

func (s *shaper) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.queue = true, nil
	if s.timer != nil {
		s.timer.Stop()
	}
}
