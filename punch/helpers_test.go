package punch

import (
	"math/rand/v2"
	"net/netip"
	"slices"
)

func netipAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func netipPort(n *node, port uint16) netip.AddrPort { return netip.AddrPortFrom(n.addr.Addr(), port) }

// netipMapped is the same address as IPv4-mapped IPv6.
func netipMapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func contains(ps []sentPacket, dst string, ttl int) bool {
	return slices.ContainsFunc(ps, func(p sentPacket) bool { return p.dst.String() == dst && p.ttl == ttl })
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }
