package path

import (
	"slices"
	"time"
)

const (
	probeEvery  = time.Second      // per path in use or warm
	coldEvery   = 10 * time.Second // per other path: NATs and relays do not forget it meanwhile
	lonelyEvery = time.Second / 2  // per dead path, while none lives
	restEvery   = 5 * time.Second  // per dead path, while another one lives
	restAfter   = 30 * time.Second // of being dead

	activeFullEvery = 10 * time.Second // full-size probes of a path in use that carries nothing
	warmFullEvery   = 30 * time.Second // and of a warm one

	openers   = 3                     // fast probes of a new path that padded ones go with
	openerGap = 30 * time.Millisecond // between these

	keepCold    = 4               // cold paths that are kept however long
	unneededFor = 5 * time.Minute // after which one more than these is closed

	// jitterShare of a pause is the longest by which it is cut short, so that
	// the probes of many links do not fall into step.
	jitterShare = 20
)

// A care is how much a path is worth to us.
type care int

// The degrees of care.
const (
	cold    care = iota // one of many: kept, but hardly probed
	watched             // probed as if in use, while what is in use is in doubt
	warm                // ready to take over; larger sizes are tried one by one
	active              // in use; larger sizes are tried all at once
)

// cares decides how much care each path gets: what is in use is active, the
// best other relayed path and the best other direct one are warm. The rest is
// cold, but watched while the path in use is not certain to live: then it must
// be known at once which of them does.
func cares(pol policy, facts []fact, cur choice) []care {
	out := make([]care, len(facts))
	relayed, direct := -1, -1
	rest := watched
	for i := range facts {
		f := &facts[i]
		best := &relayed
		if f.hops == 0 {
			best = &direct
		}
		switch {
		case f.id == cur.primary || f.id == cur.duplicate:
			out[i] = active
			if f.id == cur.primary && f.state == Alive {
				rest = cold
			}
		case f.state == Probing || !pol.permits(f.hops):
		case *best < 0 || better(f, &facts[*best]):
			*best = i
		}
	}
	for i := range out {
		switch {
		case i == relayed || i == direct:
			out[i] = warm
		case out[i] == cold:
			out[i] = rest
		}
	}
	return out
}

// pause decides how long to wait between two small probes of a path that has
// been in a state for a while.
func pause(s State, c care, forSo time.Duration, anyAlive bool) time.Duration {
	switch {
	case s == Dead && !anyAlive:
		return lonelyEvery
	case c == cold && (s == Alive || s == Dead):
		return coldEvery
	case s == Dead && forSo > restAfter:
		return restEvery
	}
	return probeEvery
}

// surplus decides which paths to close: of those that neither side has needed
// for minutes, all but the best few.
func surplus(facts []fact, now time.Duration) (ids []int) {
	var unneeded []*fact
	for i := range facts {
		if f := &facts[i]; f.care == cold && f.state != Probing {
			unneeded = append(unneeded, f)
		}
	}
	if len(unneeded) <= keepCold {
		return nil
	}
	slices.SortFunc(unneeded, func(a, b *fact) int {
		if better(a, b) {
			return -1
		}
		return 1
	})
	for _, f := range unneeded[keepCold:] {
		if now-f.neededAt >= unneededFor {
			ids = append(ids, f.id)
		}
	}
	return ids
}

// treat changes the care that a path gets. One that was cold has not been
// heard of for a while, and is asked at once.
func (p *track) treat(now time.Duration, c care) {
	was := p.care
	p.care = c
	switch {
	case c == was:
		return
	case was == cold && p.state != Probing:
		if now-p.answeredAt >= probeEvery {
			p.probeSoon(now)
		} else {
			p.nextAt = min(p.nextAt, p.answeredAt+probeEvery)
		}
	case c == cold:
		p.neededAt = now
	}
	if c == warm {
		p.size.sweepLater(now)
	}
}

// opens reports whether a padded probe should go along with the next small one
// because the path is new: with both answered it is usable. That is so at the
// beginning of each fast series, for when it goes on there is mostly nothing
// that would answer.
func (p *track) opens(now time.Duration) bool {
	return p.state == Probing && p.size.proven == 0 && p.fast <= openers &&
		(p.fullAt == 0 || now-p.fullAt >= openerGap)
}

// fullDue reports whether a probe of the proved size should go along with the
// next small one.
func (p *track) fullDue(now time.Duration) bool {
	switch since := now - p.fullAt; {
	case p.size.proven == 0 || p.care < warm:
		return false
	case p.size.misses > 0:
		return true
	case p.care == active:
		return p.loaded || since >= activeFullEvery
	default:
		return since >= warmFullEvery
	}
}

// climbsTo is how far the sizes of a path are probed all at once: to QUIC's
// smallest, which any path must carry, or to the largest.
func (p *track) climbsTo() int {
	if p.care == active {
		return p.size.max
	}
	return min(sizeBase, p.size.max)
}
