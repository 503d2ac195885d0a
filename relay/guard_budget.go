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

// A budget limits answers to whoever has not proved who it is, per source
// address and in all. Source addresses of UDP can be forged, so whatever is
// answered may hit somebody else: past the budget there is silence.
type budget struct {
	perSource, total float64 // answers per second; the burst is the same

	mu      sync.Mutex
	all     bucket
	sources map[netip.Prefix]*bucket
}

// maxSources bounds the memory of a budget. When more sources than that are
// active at once, unknown ones share the last place.
const maxSources = 4096

func newBudget(perSource, total float64) *budget {
	return &budget{perSource: perSource, total: total, sources: make(map[netip.Prefix]*bucket)}
}

func (b *budget) allow(from netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sourceLocked(from, now).take(1, b.perSource, b.perSource, now) &&
		b.all.take(1, b.total, b.total, now)
}

func (b *budget) sourceLocked(from netip.Addr, now time.Time) *bucket {
	key := sourceKey(from)
	if s := b.sources[key]; s != nil {
		return s
	}
	if len(b.sources) >= maxSources {
		for k, s := range b.sources {
			if s.full(b.perSource, b.perSource, now) {
				delete(b.sources, k)
			}
		}
	}
	if len(b.sources) >= maxSources {
		key = netip.Prefix{} // shared by all who come too late
		if s := b.sources[key]; s != nil {
			return s
		}
	}
	s := new(bucket)
	b.sources[key] = s
	return s
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
