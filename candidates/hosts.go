package candidates

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// maxHosts caps the host candidates of one socket: a machine with a dozen
// container bridges must not fill its peer's list with them.
const maxHosts = 6

// ifaceAddr is one address of one interface that is up.
type ifaceAddr struct {
	Iface  string
	Prefix netip.Prefix // the address itself, with the subnet's length
	Tunnel bool         // the interface leads into a tunnel
}

// interfaceAddrs lists the addresses of the interfaces that are up, loopback and
// link-local ones left out.
func interfaceAddrs() ([]ifaceAddr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	tunnel := tunnelIfaces()
	var out []ifaceAddr
	for _, ifc := range ifaces {
		if ifc.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := ifc.Addrs()
		if err != nil {
			continue // it went away in between
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue // not an IP network
			}
			ip := p.Addr().Unmap()
			if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
				continue
			}
			out = append(out, ifaceAddr{ifc.Name, netip.PrefixFrom(ip, p.Bits()), tunnel(ifc)})
		}
	}
	return out, nil
}

// LocalEnv describes this host for [Filter]: the prefixes of its interfaces, and
// which of them are tunnels. The caller adds what it knows of sockets, mappings
// and relays.
func LocalEnv() (Env, error) {
	addrs, err := interfaceAddrs()
	if err != nil {
		return Env{}, err
	}
	e := Env{Tunnels: tunnelsOf(addrs)}
	for _, a := range addrs {
		e.Prefixes = append(e.Prefixes, a.Prefix.Masked())
	}
	return e, nil
}

// hostCandidates lists the host candidates of a socket bound to local. A socket
// bound to one address has that one; a wildcard socket has the addresses of its
// family: the source of the default route first, container bridges behind the
// others, tunnels last.
func hostCandidates(local netip.AddrPort, addrs []ifaceAddr, primary netip.Addr) []Candidate {
	if !local.Addr().IsUnspecified() {
		on := func(a ifaceAddr) bool { return a.Tunnel && a.Prefix.Addr() == local.Addr() }
		return []Candidate{{Type: Host, Addr: local, Tunnel: slices.ContainsFunc(addrs, on)}}
	}
	addrs = slices.Clone(addrs)
	slices.SortStableFunc(addrs, func(a, b ifaceAddr) int {
		return cmp.Compare(hostRank(a, primary), hostRank(b, primary))
	})
	var out []Candidate
	for _, a := range addrs {
		ip := a.Prefix.Addr()
		c := Candidate{Type: Host, Addr: netip.AddrPortFrom(ip, local.Port()), Tunnel: a.Tunnel}
		named := func(o Candidate) bool { return o.Addr == c.Addr }
		if ip.Is4() != local.Addr().Is4() || slices.ContainsFunc(out, named) {
			continue
		}
		if out = append(out, c); len(out) == maxHosts {
			break
		}
	}
	return out
}

func hostRank(a ifaceAddr, primary netip.Addr) int {
	switch {
	case a.Tunnel:
		return 3
	case a.Prefix.Addr() == primary:
		return 0
	case virtual(a.Iface):
		return 2
	}
	return 1
}

// virtual guesses by its name that an interface leads to containers or virtual
// machines of this host only.
func virtual(iface string) bool {
	return slices.ContainsFunc([]string{"docker", "br-", "veth", "virbr", "cni", "podman", "lxc", "lxdbr", "vmnet", "vboxnet"},
		func(prefix string) bool { return strings.HasPrefix(iface, prefix) })
}

// defaultSource returns the address that packets to the public network leave
// with, or the zero Addr when there is no route.
func defaultSource(v4 bool) netip.Addr {
	if v4 {
		return sourceFor(netip.AddrFrom4([4]byte{192, 0, 2, 1}))
	}
	return sourceFor(netip.MustParseAddr("2001:db8::1"))
}

// sourceFor returns the address that packets to dst leave with, or the zero Addr
// when there is no route. Connecting a UDP socket makes the kernel choose;
// nothing is sent.
func sourceFor(dst netip.Addr) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst.Unmap(), 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
