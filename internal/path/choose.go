package path

import "time"

const (
	// A path of the same class takes over when its round trip has been
	// shorter by a fifth and by 5 ms for 3 s on end.
	betterShare = 0.8
	betterBy    = 5 * time.Millisecond
	betterFor   = 3 * time.Second
)

// A State is what is known of a path's life.
type State string

// The states of a path, best last but one.
const (
	Probing State = "probing" // nothing has crossed it both ways yet
	Suspect State = "suspect" // probes are missing; payload goes over a second path as well
	Dead    State = "dead"    // silent for seconds; probed on, used only when nothing else is left
	Alive   State = "alive"
)

// A policy says which paths may carry payload.
type policy struct {
	requireDirect bool
	relayOnly     bool
}

func (p policy) permits(hops int) bool {
	switch {
	case p.requireDirect:
		return hops == 0
	case p.relayOnly:
		return hops > 0
	}
	return true
}

// A fact is what choose knows of one path.
type fact struct {
	id        int
	hops      int  // relays crossed: 0 is direct
	stream    bool // one of these is reached over TCP or TLS
	tunnel    bool // through a tunnel, on either side
	uncleared bool // it is not known that our own packets do not carry it
	barred    bool // they are taken to carry it
	rtt       time.Duration
	state     State
	trusted   bool          // not in quarantine after having died before
	answered  time.Duration // when a probe was last answered
	care      care
	neededAt  time.Duration // when it was last more than cold, to either side
}

// A choice is where payload goes. Path 0 is none.
type choice struct {
	primary   int
	duplicate int // a second path for everything, while primary is suspect

	challenger int           // path that may become primary when it stays better for a while
	since      time.Duration // since when it has been better
}

// choose decides where payload goes from what is known now and what was chosen
// before. The reason is empty when the primary stays.
//
// In order: a path that is alive over one that is not, outside of tunnels over
// inside of one, direct over relayed, relays over UDP over one that is reached by
// TCP or TLS, one relay over two, the shorter round trip. A move that crosses no
// fewer relays has to be for the better for a while before payload makes it. A
// suspect primary stays for as long as it is not dead, doubled by the best other.
//
// A path that carries our own packets is never chosen. For one that may carry
// them, nothing is left that works; in a tunnel, it does not double anything
// either.
func choose(pol policy, facts []fact, now time.Duration, cur choice) (next choice, why string) {
	var current, best, other *fact // other: the best that is not current
	gone := "path closed"
	for i := range facts {
		f := &facts[i]
		if f.barred && f.id == cur.primary {
			gone = whyBarred
		}
		if f.state == Probing || f.barred || !pol.permits(f.hops) {
			continue
		}
		if f.id == cur.primary {
			current = f
		} else if other == nil || better(f, other) {
			other = f
		}
		if best == nil || better(f, best) {
			best = f
		}
	}

	switch {
	case best == nil:
		if cur.primary == 0 {
			return choice{}, ""
		}
		return choice{}, "no path left"
	case cur.primary == 0:
		return choice{primary: best.id}, "first path"
	case current == nil:
		return choice{primary: best.id}, gone
	case other == nil:
		return choice{primary: current.id}, ""
	case other.state == Alive && other.trusted && !other.uncleared && other.class() < current.class() && other.hops < current.hops:
		return choice{primary: other.id}, whyBetter(other, current)
	case current.state == Dead:
		if other.state == Dead {
			return choice{primary: current.id}, ""
		}
		return choice{primary: other.id}, "path dead"
	case current.state == Suspect:
		if other.state == Dead || other.tunnel && other.uncleared {
			return choice{primary: current.id}, ""
		}
		return choice{primary: current.id, duplicate: other.id}, ""
	}

	// Both work, and the other one crosses as many relays, or more.
	if other.state != Alive || !other.trusted || other.uncleared || other.class() > current.class() ||
		other.class() == current.class() && !clearlyShorter(other.rtt, current.rtt) {
		return choice{primary: current.id}, ""
	}
	if cur.challenger != other.id {
		return choice{primary: current.id, challenger: other.id, since: now}, ""
	}
	if now-cur.since < betterFor {
		return choice{primary: current.id, challenger: other.id, since: cur.since}, ""
	}
	return choice{primary: other.id}, whyBetter(other, current)
}

// whyBarred is why a path is not used, and left.
const whyBarred = "it carries this link's own packets"

// WhyHeld is the reason of a move for [Conn.Hold].
const WhyHeld = "held there"

// WhyClosed is the reason of a move from a path that was closed to none, as at the end
// of a link.
const WhyClosed = "path closed"

// heldTo leaves of the paths those of one kind, for as long as one of them
// works: to hold payload there must not cut the link. Without a kind, or with
// none that works, it leaves all.
func heldTo(kind Kind, pol policy, facts []fact) (left []fact, held bool) {
	if kind == "" {
		return facts, false
	}
	works := false
	for _, f := range facts {
		if kindOf(f.hops) != kind {
			continue
		}
		left = append(left, f)
		works = works || pol.permits(f.hops) && !f.barred && (f.state == Alive || f.state == Suspect)
	}
	if !works {
		return facts, false
	}
	return left, true
}

func kindOf(hops int) Kind {
	if hops == 0 {
		return Direct
	}
	return Relayed
}

// better orders paths without regard to what is in use.
func better(a, b *fact) bool {
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra < rb
	}
	if a.state == Dead { // the one that lived last is likeliest to come back
		return a.answered > b.answered
	}
	if ca, cb := a.class(), b.class(); ca != cb {
		return ca < cb
	}
	if wa, wb := a.care >= warm, b.care >= warm; wa != wb {
		// The warm one is better known; a few milliseconds do not change it.
		return wa && !clearlyShorter(b.rtt, a.rtt) || clearlyShorter(a.rtt, b.rtt)
	}
	if a.rtt != b.rtt {
		return a.rtt < b.rtt
	}
	return a.id < b.id
}

// behindStream is the class of a path with TCP or TLS to a relay: worse than any
// number of relays over UDP. Another relay costs a part of a round trip, and it
// is known how much. A stream costs nothing until a packet is lost; then all
// that follow wait for it, and QUIC's own recovery works against TCP's.
//
// behindRelays is that of a path in a tunnel: worse than any relay. A relay is
// known for what it is; what carries a tunnel is not known, and may be another
// relay, or this very link.
const (
	behindStream = 4
	behindRelays = 8
)

// class orders paths by what is on their way, the best first. Between paths of
// one class the round trip decides.
func (f *fact) class() int {
	class := f.hops
	if f.stream {
		class += behindStream
	}
	if f.tunnel {
		class += behindRelays
	}
	return class
}

// whyBetter says why payload moves to f.
func whyBetter(f, current *fact) string {
	switch {
	case f.hops == 0 && current.hops > 0:
		return "direct path"
	case current.tunnel && !f.tunnel:
		return "not in a tunnel"
	case current.stream && !f.stream:
		return "relay over UDP"
	case f.hops < current.hops:
		return "fewer relays"
	}
	return "shorter round trip"
}

func rank(f *fact) int {
	switch {
	case f.barred:
		return 4
	case f.state == Alive && f.trusted:
		return 0
	case f.state == Alive:
		return 1
	case f.state == Suspect:
		return 2
	}
	return 3
}

func clearlyShorter(a, b time.Duration) bool {
	return float64(a) < betterShare*float64(b) && a < b-betterBy
}
