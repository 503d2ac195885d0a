package punch

import (
	"net/netip"
	"slices"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
)

// Bounds on where one attempt may send.
const (
	// maxRemote is the backstop behind candidates.Filter, which keeps 8.
	maxRemote = 20
	// maxLearned bounds peer-reflexive addresses: a hostile peer can send
	// authenticated requests from forged sources.
	maxLearned = 8
)

// destination is an address that the attempt may send to.
type destination struct {
	typ   candidates.Type
	heard bool          // an authenticated request came from it
	next  time.Time     // the next ordinary check is not sent before
	rtt   time.Duration // shortest seen; 0 is none
}

// gate decides which packets of an attempt may leave and which sources may be
// learned. It is pure: no socket, and the time is an argument. Not safe for
// concurrent use.
type gate struct {
	allow    func(netip.AddrPort) bool // the caller's filter for learned addresses
	loopback bool                      // a socket of ours is on loopback, so peers may be
	pace     pacer
	dests    map[netip.AddrPort]*destination
	learned  int
}

func newGate(allow func(netip.AddrPort) bool, loopback bool, now time.Time) gate {
	return gate{allow: allow, loopback: loopback, pace: newPacer(now), dests: make(map[netip.AddrPort]*destination)}
}

// add admits a candidate that the peer announced. The answer is why not, or "".
func (g *gate) add(c candidates.Candidate) (why string) {
	if err := c.Validate(); err != nil {
		return err.Error()
	}
	if c.Type == candidates.Relayed {
		return "relayed, not for a direct attempt"
	}
	if why := g.insane(c.Addr.Addr()); why != "" {
		return why
	}
	if d, ok := g.dests[c.Addr]; ok {
		if d.typ == candidates.PeerReflexive { // learned before it was announced
			d.typ = c.Type
			g.learned--
		}
		return "named twice"
	}
	if len(g.dests)-g.learned >= maxRemote {
		return "too many candidates"
	}
	g.dests[c.Addr] = &destination{typ: c.Type}
	return ""
}

// learn admits the source of an authenticated request. new reports an address
// that was not announced.
func (g *gate) learn(src netip.AddrPort) (ok, isNew bool, why string) {
	if d, ok := g.dests[src]; ok {
		d.heard = true
		return true, false, ""
	}
	switch why := g.insane(src.Addr()); {
	case why != "":
		return false, false, why
	case src.Port() == 0:
		return false, false, "port 0"
	case g.allow != nil && !g.allow(src):
		return false, false, "refused by the caller's filter"
	case g.learned >= maxLearned:
		return false, false, "too many peer-reflexive candidates"
	}
	g.dests[src] = &destination{typ: candidates.PeerReflexive, heard: true}
	g.learned++
	return true, true, ""
}

// insane names addresses that are no peer's whatever any filter says.
func (g *gate) insane(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.IsUnspecified():
		return "unspecified address"
	case a.IsMulticast():
		return "multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast address"
	case a.IsLoopback() && !g.loopback:
		return "loopback address"
	case a.IsLinkLocalUnicast():
		return "link-local address"
	}
	return ""
}

// verdict is what becomes of a packet on its way out.
type verdict int

const (
	send    verdict = iota
	paced           // too soon; ICE will repeat it
	refused         // to nobody we were told of
)

// check decides on a Binding request to dst. A nomination goes ahead of the
// round, as does a check to an address that the peer is heard from: it is the
// triggered check of RFC 8445 section 7.3.1.4.
func (g *gate) check(dst netip.AddrPort, nomination bool, now time.Time) verdict {
	d, ok := g.dests[dst]
	if !ok {
		return refused
	}
	u := ordinary
	if d.heard || nomination {
		u = triggered
	}
	if u == ordinary && now.Before(d.next) {
		return paced
	}
	if !g.pace.take(u, now) {
		return paced
	}
	d.next = now.Add(checkGap(len(g.dests)))
	return send
}

// answer decides on a response to dst.
func (g *gate) answer(dst netip.AddrPort, now time.Time) verdict {
	if _, ok := g.dests[dst]; !ok {
		return refused
	}
	if !g.pace.take(triggered, now) {
		return paced
	}
	return send
}

// measured records one round trip to dst.
func (g *gate) measured(dst netip.AddrPort, rtt time.Duration) {
	if d := g.dests[dst]; d != nil && (d.rtt == 0 || rtt < d.rtt) {
		d.rtt = max(rtt, 1) // a simulated round trip may take no time at all
	}
}

// heard lists the addresses from which the peer's checks came, sorted.
func (g *gate) heard() []netip.AddrPort {
	var from []netip.AddrPort
	for a, d := range g.dests {
		if d.heard {
			from = append(from, a)
		}
	}
	slices.SortFunc(from, netip.AddrPort.Compare)
	return from
}
