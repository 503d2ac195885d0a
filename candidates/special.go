package candidates

import "net/netip"

// never says why an address is refused whoever names it, or "". The address is
// canonical: IPv4-mapped IPv6 has become IPv4.
func never(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.Zone() != "":
		return "address with a zone"
	case metadata(a):
		return "metadata service"
	case a.IsLoopback():
		return "loopback address"
	case a.IsUnspecified():
		return "unspecified address"
	case a.IsMulticast():
		return "multicast address"
	case a.IsLinkLocalUnicast():
		return "link-local address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast address"
	}
	for _, s := range [...]struct{ prefix, why string }{
		{"0.0.0.0/8", "this network (RFC 1122)"},
		{"192.0.0.0/24", "protocol assignments (RFC 6890)"},
		{"240.0.0.0/4", "reserved (RFC 1112)"},
		{"::/96", "IPv4 inside IPv6"},
		{"::ffff:0:0:0/96", "IPv4 inside IPv6"},
		{"64:ff9b::/96", "IPv4 inside IPv6"},
		{"64:ff9b:1::/48", "IPv4 inside IPv6"},
		{"2002::/16", "IPv4 inside IPv6"},
		{"2001::/32", "IPv4 inside IPv6"},
		{"100::/64", "discard-only (RFC 6666)"},
		{"fec0::/10", "site-local (RFC 3879)"},
	} {
		if netip.MustParsePrefix(s.prefix).Contains(a) {
			return s.why
		}
	}
	if a.Is6() && isatap(a) {
		return "IPv4 inside IPv6"
	}
	return ""
}

// isatap reports an interface identifier of RFC 5214, which a host with an
// ISATAP interface turns into an IPv4 destination.
func isatap(a netip.Addr) bool {
	b := a.As16()
	return b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// metadata reports the addresses at which clouds answer their instances with
// credentials or configuration.
func metadata(a netip.Addr) bool {
	switch a.String() {
	case "169.254.169.254", "169.254.170.2", "fd00:ec2::254", // Amazon and most others
		"168.63.129.16",       // Azure
		"100.100.100.200",     // Alibaba
		"fd20:ce::254",        // Google, IPv6
		"fd00:a9fe:a9fe::254": // Oracle, IPv6
		return true
	}
	return false
}

// private reports the addresses that many networks use at the same time: they
// mean a host only together with the network.
func private(a netip.Addr) bool {
	return a.IsPrivate() || // RFC 1918, RFC 4193
		netip.MustParsePrefix("100.64.0.0/10").Contains(a) || // RFC 6598
		netip.MustParsePrefix("198.18.0.0/15").Contains(a) // RFC 2544
}
