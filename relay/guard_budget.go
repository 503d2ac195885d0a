package relay

import (
	"net/netip"
	"sync"
	"time"
)

// A bucket is a token bucket: up to burst tokens, rate more each second. Time
// is passed in. The zero bucket is full at its first use.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) fill(rate, burst float64, now time.Time) {
	if b.last.IsZero() {
		b.tokens = burst
	} else if d := now.Sub(b.last); d > 0 {
		b.tokens = min(burst, b.tokens+d.Seconds()*rate)
	}
	b.last = now
}

func (b *bucket) take(n, rate, burst float64, now time.Time) bool {
	b.fill(rate, burst, now)
	if b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}

// full tells whether the bucket can be forgotten.
func (b *bucket) full(rate, burst float64, now time.Time) bool {
	return b.tokens+now.Sub(b.last).Seconds()*rate >= burst
}

// buckets are one for each key, all alike.
type buckets[K comparable] struct {
	rate, burst float64
	byKey       map[K]*bucket
}

// maxBuckets bounds their memory. When more keys than that are active at once,
// unknown ones share the last place.
const maxBuckets = 4096

func newBuckets[K comparable](rate, burst float64) buckets[K] {
	return buckets[K]{rate, burst, make(map[K]*bucket)}
}

func (b *buckets[K]) take(key K, now time.Time) bool {
	return b.of(key, now).take(1, b.rate, b.burst, now)
}

func (b *buckets[K]) of(key K, now time.Time) *bucket {
	if s := b.byKey[key]; s != nil {
		return s
	}
	if len(b.byKey) >= maxBuckets {
		for k, s := range b.byKey {
			if s.full(b.rate, b.burst, now) {
				delete(b.byKey, k)
			}
		}
	}
	if len(b.byKey) >= maxBuckets {
		var rest K // shared by all who come too late
		if s := b.byKey[rest]; s != nil {
			return s
		}
		key = rest
	}
	s := new(bucket)
	b.byKey[key] = s
	return s
}

// A userRate limits the requests of each user, all its allocations together.
// They are handled where everybody's data is moved, and one costs as much as
// many packets.
type userRate struct {
	mu    sync.Mutex
	users buckets[string] // guarded by mu
}

func newUserRate(perSecond float64) *userRate {
	// What 32 allocations begin with and renew at once, with a permission and a
	// channel for each of a dozen peers, is in the burst.
	const burst = 10 // seconds
	return &userRate{users: newBuckets[string](perSecond, burst*perSecond)}
}

func (r *userRate) allow(user string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.users.take(user, now)
}

// A budget limits answers to whoever has not proved who it is, per source
// address and in all. Source addresses of UDP can be forged, so whatever is
// answered may hit somebody else: past the budget there is silence.
type budget struct {
	total float64 // answers per second; the burst is the same, as with each source

	mu      sync.Mutex
	all     bucket
	sources buckets[netip.Prefix]
}

func newBudget(perSource, total float64) *budget {
	return &budget{total: total, sources: newBuckets[netip.Prefix](perSource, perSource)}
}

func (b *budget) allow(from netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sources.take(sourceKey(from), now) && b.all.take(1, b.total, b.total, now)
}

// sourceKey is the unit that one party controls: an IPv4 address, an IPv6 /64.
func sourceKey(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// seats counts connections, per source and in all.
type seats struct {
	perSource, total int

	mu   sync.Mutex
	all  int
	from map[netip.Prefix]int
}

func newSeats(perSource, total int) *seats {
	return &seats{perSource: perSource, total: total, from: make(map[netip.Prefix]int)}
}

func (s *seats) take(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sourceKey(a)
	if s.all >= s.total || s.from[key] >= s.perSource {
		return false
	}
	s.all++
	s.from[key]++
	return true
}

func (s *seats) leave(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sourceKey(a)
	s.all--
	if s.from[key]--; s.from[key] == 0 {
		delete(s.from, key)
	}
}

func (s *seats) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}
