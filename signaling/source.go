package signaling

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Whose connection it is: limits count by source, and behind a proxy that is
// not the address that the connection comes from.

// sourceOf is what counts as one source: an IPv4 address or an IPv6 /64, the
// least that one subscriber has to itself.
func sourceOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		p, _ := addr.Prefix(64) // 64 is within an IPv6 address
		return p.Addr()
	}
	return addr
}

// trusts reports whether addr is a proxy that is believed when it says for whom
// it speaks.
func (s *Server) trusts(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// clientAddr is where a request comes from that peer sent, with these headers
// X-Forwarded-For. Every proxy appends whom it got the request from. So the list
// is read from its end, for as long as it is a trusted one who wrote: the
// rightmost address that is not trusted is the client's. What stands before it,
// the client may have made up.
func clientAddr(peer netip.Addr, forwarded []string, trusted func(netip.Addr) bool) netip.Addr {
	for _, text := range slices.Backward(strings.Split(strings.Join(forwarded, ","), ",")) {
		if !trusted(peer) {
			break
		}
		from, ok := parseForwarded(strings.TrimSpace(text))
		if !ok {
			break
		}
		peer = from
	}
	return peer
}

// parseForwarded reads one address of X-Forwarded-For, to which some proxies
// add the port.
func parseForwarded(text string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr(), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return addr, err == nil
}

// adviseProxy says once what an operator with a proxy may have missed. A
// stranger can send the header as well, so it advises to trust only what is near.
func (s *Server) adviseProxy(peer netip.Addr, forwarded []string) {
	peer = peer.Unmap()
	switch trusted := s.trusts(peer); {
	case trusted && len(forwarded) == 0:
		s.lacksHeader.Do(func() {
			s.log.Warn("a trusted proxy does not say for whom it speaks: without X-Forwarded-For or a PROXY header all its users share the limits of one address", "proxy", peer)
		})
	case !trusted && len(forwarded) > 0 && (peer.IsLoopback() || peer.IsPrivate()):
		s.lacksTrust.Do(func() {
			s.log.Warn("all users of a proxy share the limits of one address; to tell them apart, start with --trusted-proxy "+peer.String(), "proxy", peer)
		})
	}
}

// addrOf is the IP address in a, the zero one when there is none.
func addrOf(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
