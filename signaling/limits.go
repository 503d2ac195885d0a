package signaling

import (
	"cmp"
	"net/netip"
	"time"
)

// Limits are the bounds of a server. The zero value of every field means its
// default.
type Limits struct {
	Messages  int // messages per second of one connection, bursts of twice that; 100: a listener's one connection carries the meetings of all its peers
	Bytes     int // bytes per second of one connection, bursts of twice that; 256 KiB
	Mailboxes int // mailboxes per connection; 1024: a listener has one for each peer it knows
	Guests    int // guests per opaque mailbox; 16

	// Joins bounds how often one source address (IPv6: one /64) may try a
	// nameplate: guessing is what it prevents. A classroom shares an address.
	// Opaque mailboxes cannot be guessed and are not counted.
	Joins  Rate // 60 per minute, burst 30
	Claims Rate // likewise, for claims

	// FailedJoins is how many failed tries of nameplates per minute, from all
	// addresses together, raise the alarm in Stats; 120.
	FailedJoins int

	Connections           int // that have said hello, at the same time; 16384
	ConnectionsPerAddress int // likewise of one source address; 1024
	Pending               int // connections that have not, at the same time: beyond, the oldest make way; 2048
	Nameplates            int // in use or resting; 20000
	OpaqueMailboxes       int // at the same time; 131072
	SeatsPerAddress       int // likewise of one source address, in all mailboxes; 16384: several listeners share one, each with some hundred peers

	NameplateTTL time.Duration // 10 min
	HelloTimeout time.Duration // 10 s
	PingInterval time.Duration // 25 s
	PongTimeout  time.Duration // silence after a ping; 10 s
	WriteTimeout time.Duration // 5 s

	QueueMessages int // waiting for one slow reader; 256, more than one client says in a burst
	QueueBytes    int // likewise; 256 KiB

	// How much of that may wait in one mailbox because of its other members.
	// Two agents that meet say some twenty messages of a few KiB at most, our
	// clients say no more at once than fits, and what the kernel buffers comes
	// on top.
	MailboxQueueMessages int // 64
	MailboxQueueBytes    int // 64 KiB

	DrainSpread time.Duration // over which Drain closes connections; 10 s
}

// A Rate is a token bucket.
type Rate struct {
	PerMinute int
	Burst     int
}

func (l Limits) withDefaults() Limits {
	def := func(p *int, v int) { *p = cmp.Or(*p, v) }
	dur := func(p *time.Duration, v time.Duration) { *p = cmp.Or(*p, v) }
	def(&l.Messages, 100)
	def(&l.Bytes, 256<<10)
	l.Messages, l.Bytes = min(l.Messages, maxInt), min(l.Bytes, maxInt) // what welcome can say
	def(&l.Mailboxes, 1024)
	def(&l.Guests, 16)
	l.Joins = cmp.Or(l.Joins, Rate{PerMinute: 60, Burst: 30})
	l.Claims = cmp.Or(l.Claims, Rate{PerMinute: 60, Burst: 30})
	def(&l.FailedJoins, 120)
	def(&l.Connections, 16384)
	def(&l.ConnectionsPerAddress, 1024)
	def(&l.Pending, 2048)
	def(&l.Nameplates, 20000)
	l.Nameplates = min(l.Nameplates, 1_000_000) // of the nine million there are
	def(&l.OpaqueMailboxes, 128<<10)
	def(&l.SeatsPerAddress, 16<<10)
	dur(&l.NameplateTTL, 10*time.Minute)
	dur(&l.HelloTimeout, 10*time.Second)
	dur(&l.PingInterval, 25*time.Second)
	dur(&l.PongTimeout, 10*time.Second)
	dur(&l.WriteTimeout, 5*time.Second)
	def(&l.QueueMessages, 256)
	def(&l.QueueBytes, 256<<10)
	def(&l.MailboxQueueMessages, 64)
	def(&l.MailboxQueueBytes, 64<<10)
	dur(&l.DrainSpread, 10*time.Second)
	return l
}

// A bucket is a token bucket that is told the time. The zero bucket is full.
type bucket struct {
	used float64 // tokens missing, as of last
	last time.Time
}

// take takes n tokens, refilled at rate per second up to burst, and returns 0;
// or it takes none and returns how long to wait for them.
func (b *bucket) take(now time.Time, n, rate, burst float64) time.Duration {
	n = min(n, burst)
	b.refill(now, rate)
	if missing := b.used + n - burst; missing > 0 {
		return max(1, time.Duration(missing/rate*float64(time.Second)))
	}
	b.used += n
	return 0
}

func (b *bucket) refill(now time.Time, rate float64) {
	if passed := now.Sub(b.last).Seconds(); passed > 0 {
		b.used = max(0, b.used-passed*rate)
		b.last = now
	}
}

// A meter bounds messages and bytes of one connection.
type meter struct {
	messages, bytes bucket
}

// take counts one frame, or returns how long to wait before it may be sent.
// Bursts are two seconds' worth; share scales both, so that a client that
// paces itself stays clear of the border.
func (m *meter) take(now time.Time, size int, rate, byteRate, share float64) time.Duration {
	rate, byteRate = rate*share, byteRate*share
	return m.takeOf(now, size, rate, byteRate, 2*rate, 2*byteRate)
}

// takeOf is take with the bursts given.
func (m *meter) takeOf(now time.Time, size int, rate, byteRate, burst, byteBurst float64) time.Duration {
	before := m.messages
	if wait := m.messages.take(now, 1, rate, burst); wait > 0 {
		return wait
	}
	wait := m.bytes.take(now, float64(size), byteRate, byteBurst)
	if wait > 0 {
		m.messages = before
	}
	return wait
}

// perAddress is one bucket per source address.
type perAddress struct {
	rate    Rate
	most    int // addresses remembered
	buckets map[netip.Addr]*bucket
}

func newPerAddress(r Rate) *perAddress {
	return &perAddress{rate: r, most: 1 << 16, buckets: make(map[netip.Addr]*bucket)}
}

// take counts one try of addr, or returns how long to wait. When there are too
// many addresses to remember, the further ones share one bucket.
func (p *perAddress) take(now time.Time, addr netip.Addr) time.Duration {
	perSecond := float64(p.rate.PerMinute) / 60
	b := p.buckets[addr]
	if b == nil {
		if len(p.buckets) >= p.most {
			p.forget(now, perSecond)
		}
		if len(p.buckets) >= p.most {
			addr = netip.Addr{}
		}
		if b = p.buckets[addr]; b == nil {
			b = &bucket{last: now}
			p.buckets[addr] = b
		}
	}
	return b.take(now, 1, perSecond, float64(p.rate.Burst))
}

// forget drops the addresses whose bucket is full again.
func (p *perAddress) forget(now time.Time, perSecond float64) {
	for addr, b := range p.buckets {
		if b.refill(now, perSecond); b.used == 0 {
			delete(p.buckets, addr)
		}
	}
}

// An alarm counts failures from everywhere within the current minute.
type alarm struct {
	threshold int
	start     time.Time
	count     int
}

// add counts one failure; raised is true for the one that crosses the border.
func (a *alarm) add(now time.Time) (raised bool) {
	a.turn(now)
	a.count++
	return a.count == a.threshold
}

func (a *alarm) ringing(now time.Time) bool {
	a.turn(now)
	return a.count >= a.threshold
}

func (a *alarm) turn(now time.Time) {
	if now.Sub(a.start) >= time.Minute {
		a.start, a.count = now, 0
	}
}
