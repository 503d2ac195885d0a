package relay

import (
	"fmt"
	"net/netip"
)

// A Policy says which peers a client may reach through the relay. It is a
// value of facts only; what it answers depends on nothing else.
//
// A TURN server stands inside somebody's network, and whoever holds a
// credential can make it send UDP from there. So a peer must be a public
// unicast address; everything on the deny matrix below is refused, in every
// spelling IPv6 has for an IPv4 address.
type Policy struct {
	// Allow opens ranges of the deny matrix, for labs and for relays that
	// serve a private network on purpose. See [ParseAllow].
	Allow []netip.Prefix

	// Own lists the addresses of this machine. They are refused, except Relay
	// at the port of a live allocation: two peers on one relay must be able to
	// reach each other.
	Own []netip.Addr

	// Relay is the address that relayed transport addresses have.
	Relay netip.Addr
}

// A Denial says why a peer is refused. Clients see it as error 403 and learn
// no more; the reason is for the operator.
type Denial struct {
	Peer netip.Addr
	Why  string
}

func (d *Denial) Error() string { return fmt.Sprintf("peer %s: %s", d.Peer, d.Why) }

// CheckAddr judges a permission, which has no port: nil, or a *[Denial]. For
// the relay's own address it answers nil, since [Policy.Check] judges that
// one again with the port of every packet.
func (p *Policy) CheckAddr(peer netip.Addr) error {
	if peer.Is4() && peer == p.Relay {
		return nil
	}
	return p.checkRange(peer)
}

// Check judges one destination. live tells whether a port belongs to a live
// allocation of this relay.
func (p *Policy) Check(peer netip.AddrPort, live func(port uint16) bool) error {
	switch {
	case peer.Port() == 0:
		return &Denial{peer.Addr(), "port 0"}
	case peer.Addr() == p.Relay:
		if !live(peer.Port()) && !p.allowed(peer.Addr()) {
			return &Denial{peer.Addr(), "the relay itself, at a port without an allocation"}
		}
		return nil
	}
	return p.checkRange(peer.Addr())
}

func (p *Policy) checkRange(peer netip.Addr) error {
	if peer.Zone() != "" {
		return &Denial{peer, "zoned address"}
	}
	spelled, n := spellings(peer)
	for _, a := range spelled[:n] {
		for _, own := range p.Own {
			if a == own && !p.allowed(a) {
				return &Denial{peer, "an address of this machine"}
			}
		}
		if r, ok := deniedRange(a); ok && !p.allowed(a) {
			return &Denial{peer, r.what}
		}
	}
	return nil
}

func (p *Policy) allowed(a netip.Addr) bool {
	for _, allow := range p.Allow {
		if allow.Contains(a) {
			return true
		}
	}
	return false
}

// ParseAllow reads one CIDR (or a bare address) to open. It refuses to open
// everything: a relay without a policy is an open door into its network.
func ParseAllow(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil {
			return netip.Prefix{}, fmt.Errorf("allow peer %q: not a CIDR such as 10.0.0.0/8", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("allow peer %q: write it as an IPv4 CIDR", s)
	}
	if p.Bits() == 0 {
		return netip.Prefix{}, fmt.Errorf("allow peer %q: would open the whole internet and this machine's network with it", s)
	}
	return p.Masked(), nil
}

type denied struct {
	prefix netip.Prefix
	what   string
}

// The deny matrix: the IANA special-purpose registries, and what has proved
// dangerous beside them.
var (
	denied4 = ranges(
		"0.0.0.0/8", "this network",
		"10.0.0.0/8", "private use",
		"100.64.0.0/10", "shared address space",
		"127.0.0.0/8", "loopback",
		"169.254.0.0/16", "link-local and cloud metadata",
		"172.16.0.0/12", "private use",
		"192.0.0.0/24", "IETF protocol assignments",
		"192.0.2.0/24", "documentation",
		"192.31.196.0/24", "AS112",
		"192.52.193.0/24", "AMT",
		"192.88.99.0/24", "6to4 relay anycast",
		"192.168.0.0/16", "private use",
		"192.175.48.0/24", "AS112",
		"198.18.0.0/15", "benchmarking",
		"198.51.100.0/24", "documentation",
		"203.0.113.0/24", "documentation",
		"224.0.0.0/4", "multicast",
		"240.0.0.0/4", "reserved and broadcast",
	)
	denied6 = ranges(
		"::/96", "IPv4-compatible, unspecified or loopback",
		"::ffff:0:0/96", "IPv4-mapped",
		"::ffff:0:0:0/96", "IPv4-translated",
		"64:ff9b::/96", "NAT64",
		"64:ff9b:1::/48", "local NAT64",
		"100::/64", "discard only",
		"2001::/23", "IETF protocol assignments, Teredo",
		"2001:db8::/32", "documentation",
		"2002::/16", "6to4",
		"3fff::/20", "documentation",
		"5f00::/16", "segment routing",
		"fc00::/7", "unique local, cloud metadata",
		"fe80::/10", "link-local",
		"fec0::/10", "site-local",
		"ff00::/8", "multicast",
	)
)

// ranges reads pairs of CIDR and description.
func ranges(pairs ...string) []denied {
	var out []denied
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, denied{netip.MustParsePrefix(pairs[i]), pairs[i+1]})
	}
	return out
}

func deniedRange(a netip.Addr) (denied, bool) {
	table := denied6
	if a.Is4() {
		table = denied4
	}
	for _, d := range table {
		if d.prefix.Contains(a) {
			return d, true
		}
	}
	return denied{}, false
}

// Prefixes under which an IPv6 address holds an IPv4 address.
var (
	compatible = netip.MustParsePrefix("::/96")
	mapped     = netip.MustParsePrefix("::ffff:0:0/96")
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// maxSpellings is the address itself, one embedded address, and for Teredo
// both the server and the client.
const maxSpellings = 3

// spellings returns the address and every IPv4 address it can stand for:
// mapped, compatible, translated, NAT64 (RFC 6052), 6to4, Teredo, ISATAP. All
// of them must be acceptable. Most embedding prefixes are denied as such; the
// extraction holds where --allow-peer opens one of them, and for ISATAP,
// which has no prefix.
func spellings(a netip.Addr) (out [maxSpellings]netip.Addr, n int) {
	out[0], n = a, 1
	if a.Is4() {
		return out, n
	}
	b := a.As16()
	add := func(v [4]byte) { out[n] = netip.AddrFrom4(v); n++ }
	tail := [4]byte(b[12:16])
	switch {
	case mapped.Contains(a), translated.Contains(a), nat64.Contains(a):
		add(tail)
	case compatible.Contains(a) && a != netip.IPv6Unspecified() && a != netip.IPv6Loopback():
		add(tail)
	case localNAT64.Contains(a): // RFC 6052: either a /96 inside it, or a /48 with bits 64 to 71 skipped
		add(tail)
		add([4]byte{b[6], b[7], b[9], b[10]})
	case sixToFour.Contains(a):
		add([4]byte(b[2:6]))
	case teredo.Contains(a): // Teredo: the server, and the client's address inverted
		add([4]byte(b[4:8]))
		add([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case b[8]&0xfd == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP
		add(tail)
	}
	return out, n
}
