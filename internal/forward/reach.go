package forward

import (
	"net/netip"
	"slices"
)

// A reach is how far out an address leads, as seen from this machine.
type reach int

const (
	nowhere   reach = iota // never dialed, whatever the list says
	inMachine              // loopback
	inSite                 // an address of private use, which means a host only here
	anywhere               // the rest
)

// never is what nobody means: cloud metadata services, link-local addresses, and
// what is no address of a host.
var never = prefixes(
	"169.254.0.0/16", "fe80::/10", // metadata of most clouds is in here
	"fd00:ec2::254/128", "fd20:ce::254/128", "fd00:a9fe:a9fe::254/128",
	"100.100.100.200/32", "168.63.129.16/32",
	"0.0.0.0/8", "::/128", "224.0.0.0/3", "ff00::/8",
)

var private = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", // RFC 1918, RFC 4193
	"100.64.0.0/10", "198.18.0.0/15", "fec0::/10", // RFC 6598, RFC 2544, RFC 3879
)

// Prefixes of IPv6 addresses that lead to an IPv4 address, and where it is in them.
var embeds = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},     // RFC 3056
	{netip.MustParsePrefix("::/96"), 12},        // RFC 4291, deprecated
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// reachOf judges an address by where packets to it end.
func reachOf(a netip.Addr) reach {
	a = a.Unmap().WithZone("")
	contains := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case !a.IsValid(), slices.ContainsFunc(never, contains):
		return nowhere
	case a.IsLoopback():
		return inMachine
	case slices.ContainsFunc(private, contains):
		return inSite
	}
	for _, e := range embeds {
		if e.prefix.Contains(a) {
			b := a.As16()
			return reachOf(netip.AddrFrom4([4]byte(b[e.at:])))
		}
	}
	return anywhere
}

// sift parts an answer for a name into the addresses that may be dialed and those
// that may not, with the reason. A name leads no further in than floor, where its
// first addresses were: who can change a public name reaches nothing behind this
// machine with it, and a name of the site does not become this machine itself.
// A floor of nowhere is that of a name that has had no address yet.
func sift(answer []netip.Addr, floor reach) (use []netip.Addr, refused map[netip.Addr]string) {
	refused = make(map[netip.Addr]string)
	for _, a := range answer {
		a = a.Unmap().WithZone("")
		switch r := reachOf(a); {
		case r == nowhere:
			refused[a] = "link-local, of a metadata service, or of no host"
		case r < floor:
			refused[a] = "further inside than where the name led when this program started"
		case !slices.Contains(use, a):
			use = append(use, a)
		}
	}
	return use, refused
}

// innermost is the floor that the first addresses of a name set.
func innermost(addrs []netip.Addr) reach {
	floor := anywhere
	for _, a := range addrs {
		floor = min(floor, reachOf(a))
	}
	return floor
}
