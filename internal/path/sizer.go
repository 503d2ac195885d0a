package path

import "time"

const (
	// sizeFloor is what every IPv4 host must be able to take in one piece
	// (RFC 791), less the headers. A path that cannot carry it is not used.
	sizeFloor = 548

	// sizeBase is what QUIC begins with (RFC 9000 section 14): with it proved,
	// a path can be used without splitting until QUIC finds larger ones.
	sizeBase = 1200

	// missesToShrink full-size probes in a row must be lost, while smaller
	// ones are answered, before the size is lowered.
	missesToShrink = 3

	sweepAfter = 5 * time.Second // of being warm the first sweep begins
	sweepPause = 2 * time.Second // between its probes
	sweepEvery = time.Minute     // between sweeps
)

// sizes are the sizes of padded probes, in bytes of UDP payload: the IPv4
// minimum, QUIC's minimum, QUIC's usual start, a tunnel in a tunnel, a tunnel,
// a relay or PPPoE over IPv6, and all that quic-go ever sends.
var sizes = [...]int{sizeFloor, sizeBase, 1280, 1360, 1400, 1444, 1452}

// raiseWaits are the pauses between attempts to prove a larger size: at first
// for the case that probes were lost, later for the case that the path changed.
var raiseWaits = [...]time.Duration{
	100 * time.Millisecond, 300 * time.Millisecond, time.Second,
	10 * time.Second, 20 * time.Second, 40 * time.Second, 60 * time.Second,
}

// firstSlowRaise is where in raiseWaits a size that was lowered begins.
const firstSlowRaise = 3

// A sizer knows how large a datagram a path is proved to carry, in the
// direction from here to the peer: the peer answers a probe of that size. It
// says which sizes to probe next; sending and waiting are the engine's.
type sizer struct {
	max    int // largest size worth proving
	proven int // largest size answered; 0: none yet

	misses int // lost probes of the proven size since one was answered
	below  int // largest smaller size answered meanwhile

	target  int // how far has been tried to raise
	raises  int // attempts made, an index into raiseWaits
	raiseAt time.Duration

	swept   int // size tried last in the sweep under way; 0: none is
	sweepAt time.Duration
}

// between returns the sizes larger than low, up to high.
func between(low, high int) (out []int) {
	for _, size := range sizes {
		if size > low && size <= high {
			out = append(out, size)
		}
	}
	return out
}

// complete reports whether there is nothing larger to prove, up to a size.
func (s *sizer) complete(upTo int) bool { return len(between(s.proven, upTo)) == 0 }

// raise returns the sizes to try now, when an attempt at more is due: all up
// to a size at once. It waits for patience at least before it tries again.
func (s *sizer) raise(now time.Duration, upTo int, patience time.Duration) []int {
	if upTo > s.target {
		s.target, s.raises, s.raiseAt = upTo, 0, now
	}
	if now < s.raiseAt || s.complete(upTo) {
		return nil
	}
	s.raiseAt = now + max(raiseWaits[s.raises], patience)
	s.raises = min(s.raises+1, len(raiseWaits)-1)
	return between(s.proven, upTo)
}

// sweepLater puts off the next sweep.
func (s *sizer) sweepLater(now time.Duration) { s.swept, s.sweepAt = 0, now+sweepAfter }

// sweeps reports whether there is anything to sweep.
func (s *sizer) sweeps() bool { return s.proven >= sizeBase && !s.complete(s.max) }

// sweep returns the size to try now, or 0. It is the thrifty way to raise: one
// probe at a time, the largest first, since mostly that is answered and spares
// the others.
func (s *sizer) sweep(now time.Duration) int {
	if now < s.sweepAt || !s.sweeps() {
		return 0
	}
	high := s.max
	if s.swept > 0 {
		high = s.swept - 1
	}
	left := between(s.proven, high)
	if len(left) == 0 {
		s.swept, s.sweepAt = 0, now+sweepEvery
		return 0
	}
	s.swept, s.sweepAt = left[len(left)-1], now+sweepPause
	return s.swept
}

// answered takes the size of a probe that was answered.
func (s *sizer) answered(size int) {
	switch {
	case size >= s.proven:
		s.proven, s.misses, s.below = size, 0, 0
	case s.misses > 0:
		s.below = max(s.below, size)
	}
}

// missed takes the size of a probe that was lost although the path was alive.
// It returns what to probe at once to find out whether the path has shrunk.
func (s *sizer) missed(now time.Duration, size, upTo int) []int {
	if size != s.proven {
		return nil
	}
	s.misses++
	if s.misses < missesToShrink {
		return between(0, min(s.proven, upTo))
	}
	s.shrink(now, s.below)
	return nil
}

// refused takes a size that cannot even leave this host.
func (s *sizer) refused(now time.Duration, size int) {
	if fits := between(0, size-1); size <= s.proven && len(fits) > 0 {
		s.shrink(now, fits[len(fits)-1])
	}
}

// shrink lowers the proven size. It is a while until more is tried again.
func (s *sizer) shrink(now time.Duration, to int) {
	s.proven, s.misses, s.below = max(to, sizeFloor), 0, 0
	later := now + raiseWaits[firstSlowRaise]
	s.raises, s.raiseAt = firstSlowRaise+1, later
	s.swept, s.sweepAt = 0, later
}
