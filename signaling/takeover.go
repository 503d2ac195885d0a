package signaling

import "time"

// takeovers slows two hosts down that take one seat from each other, as two machines
// with one key do that each restart an agent that ends. The first newcomer wins at
// once; each further one waits for longer, and the one that is there stays meanwhile.
type takeovers struct {
	n    int // since the last long rest
	last time.Time
}

const (
	takeoverPause  = 5 * time.Second // after the first one; doubled with each
	takeoverMost   = time.Minute
	takeoverMemory = 10 * time.Minute // without one: all is forgotten
)

// wait is how long the next one has to wait. Where there was none, t may be nil.
func (t *takeovers) wait(now time.Time) time.Duration {
	if t == nil || t.n == 0 || now.Sub(t.last) >= takeoverMemory {
		return 0
	}
	pause := min(takeoverPause<<min(t.n-1, 10), takeoverMost)
	return max(0, t.last.Add(pause).Sub(now))
}

// add notes one that happened.
func (t *takeovers) add(now time.Time) {
	if now.Sub(t.last) >= takeoverMemory {
		t.n = 0
	}
	t.n++
	t.last = now
}
