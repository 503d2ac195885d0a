package candidates

import (
	"net/netip"
	"slices"
)

// Bounds on a peer's candidates (RFC 8445 section 19.5.1: a list of candidates
// is an order to send packets, and may name victims).
const (
	maxTaken = 20   // looked at, of one list
	maxUsed  = 8    // sent to
	minPort  = 1024 // below it are services, not agents
)

// Env is what this host knows of its own place in the network, against which a
// peer's candidates are judged.
type Env struct {
	// Prefixes are those of our interfaces. A private address is believed to be
	// the peer's when it lies in one of them.
	Prefixes []netip.Prefix
	// Own are transport addresses of ours; a peer cannot be there.
	Own []netip.AddrPort
	// Mapped are our server-reflexive addresses. A peer that has one of them too
	// is behind the same NAT, and then its private addresses are believed.
	Mapped []netip.Addr
	// Servers are the addresses of relays that we were told of by signaling or by
	// the user. A relayed candidate there may be private.
	Servers []netip.Addr
	// Tunnels tells which addresses we would reach through a tunnel.
	Tunnels Tunnels
	// NoIPv4 and NoIPv6 say that no socket of ours has that family.
	NoIPv4, NoIPv6 bool
	// Loopback admits loopback addresses. It is for tests that run two agents on
	// one machine, and for nothing else.
	Loopback bool
}

// Refusal is a candidate that is not used, and the reason in a few words.
type Refusal struct {
	Candidate Candidate
	Why       string
}

// Filter judges a peer's candidates. Those in direct may be sent to, best
// first, those through tunnels last, and at most 8; relayed are the peer's relayed candidates, for relayed
// pairs and not for direct attempts, at most 8; refused are the others. Every
// entry of remote is in exactly one of the three. In direct and relayed, Tunnel
// says that either side knows of a tunnel on the way.
//
// It holds for addresses learned from packets (peer-reflexive) as much as for
// announced ones. It is pure, so that the same lists get the same answer.
func Filter(remote []Candidate, env Env) (direct, relayed []Candidate, refused []Refusal) {
	refuse := func(c Candidate, why string) { refused = append(refused, Refusal{c, why}) }
	sameSite := env.sharesNAT(remote)
	seen := make(map[netip.AddrPort]bool)
	for i, c := range remote {
		if i >= maxTaken {
			refuse(c, "too many candidates")
			continue
		}
		c = c.canonical()
		if err := c.Validate(); err != nil {
			refuse(c, err.Error())
			continue
		}
		if seen[c.Addr] {
			refuse(c, "named twice")
			continue
		}
		if why := env.judge(c, sameSite); why != "" {
			refuse(c, why)
			continue
		}
		seen[c.Addr] = true
		c.Tunnel = c.Tunnel || env.Tunnels.To(c.Addr.Addr()) != ""
		if c.Type == Relayed {
			relayed = append(relayed, c)
		} else {
			direct = append(direct, c)
		}
	}
	slices.SortStableFunc(direct, func(a, b Candidate) int { return env.rank(a) - env.rank(b) })
	direct, surplus := atMost(direct, maxUsed)
	relayed, surplusRelayed := atMost(relayed, maxUsed)
	for _, c := range slices.Concat(surplus, surplusRelayed) {
		refuse(c, "too many candidates")
	}
	return direct, relayed, refused
}

func atMost(cs []Candidate, n int) (kept, surplus []Candidate) {
	n = min(n, len(cs))
	return cs[:n:n], cs[n:]
}

// sharesNAT reports whether a server-reflexive candidate of the peer has an
// address that we were seen with ourselves.
func (e Env) sharesNAT(remote []Candidate) bool {
	return slices.ContainsFunc(remote, func(c Candidate) bool {
		return c.Type == ServerReflexive && slices.Contains(e.Mapped, c.Addr.Addr().Unmap())
	})
}

// judge says why c must not be sent to, or "".
func (e Env) judge(c Candidate, sameSite bool) string {
	a := c.Addr.Addr()
	switch {
	case a.Is4() && e.NoIPv4:
		return "no IPv4 socket here"
	case a.Is6() && e.NoIPv6:
		return "no IPv6 socket here"
	case c.Addr.Port() < minPort:
		return "port below 1024"
	case slices.Contains(e.Own, c.Addr):
		return "our own address"
	}
	if a.IsLoopback() && e.Loopback {
		return ""
	}
	if why := never(a); why != "" {
		return why
	}
	if why := e.broadcast(a); why != "" {
		return why
	}
	if !private(a) || e.onLink(a) {
		return ""
	}
	if c.Type == Relayed {
		if slices.Contains(e.Servers, a) {
			return ""
		}
		return "private address that is no relay we know"
	}
	if sameSite {
		return ""
	}
	return "private address of another network"
}

// rank orders candidates for the cap: neighbours, then what STUN servers saw,
// then the rest, then what leads through a tunnel.
func (e Env) rank(c Candidate) int {
	switch {
	case c.Tunnel:
		return 4
	case c.Type == Host && e.onLink(c.Addr.Addr()):
		return 0
	case c.Type == ServerReflexive:
		return 1
	case c.Type == PeerReflexive:
		return 2
	}
	return 3
}

func (e Env) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(e.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// broadcast refuses the first and last address of a subnet of ours, which
// reach every host of it.
func (e Env) broadcast(a netip.Addr) string {
	if !a.Is4() {
		return ""
	}
	for _, p := range e.Prefixes {
		if !p.Addr().Is4() || p.Bits() > 30 || !p.Contains(a) {
			continue
		}
		if a == p.Masked().Addr() || a == lastAddr(p) {
			return "broadcast address"
		}
	}
	return ""
}

// lastAddr returns the highest IPv4 address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}
