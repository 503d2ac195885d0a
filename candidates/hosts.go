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
}

// interfaceAddrs lists the addresses of the interfaces that are up, loopback and
// link-local ones left out.
func interfaceAddrs() ([]ifaceAddr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
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
			out = append(out, ifaceAddr{ifc.Name, netip.PrefixFrom(ip, p.Bits())})
		}
	}
	return out, nil
}

// LocalEnv describes this host for [Filter]: the prefixes of its interfaces. The
// caller adds what it knows of sockets, mappings and relays.
func LocalEnv() (Env, error) {
	addrs, err := interfaceAddrs()
	if err != nil {
		return Env{}, err
	}
	var e Env
	for _, a := range addrs {
		e.Prefixes = append(e.Prefixes, a.Prefix.Masked())
	}
	return e, nil
}

// hostCandidates lists the host candidates of a socket bound to local. A socket
// bound to one address has that one; a wildcard socket has the addresses of its
// family, the source of the default route first and container bridges last.
func hostCandidates(local netip.AddrPort, addrs []ifaceAddr, primary netip.Addr) []Candidate {
	if !local.Addr().IsUnspecified() {
		return []Candidate{{Host, local}}
	}
	addrs = slices.Clone(addrs)
	slices.SortStableFunc(addrs, func(a, b ifaceAddr) int {
		return cmp.Compare(hostRank(a, primary), hostRank(b, primary))
	})
	var out []Candidate
	for _, a := range addrs {
		ip := a.Prefix.Addr()
		c := Candidate{Host, netip.AddrPortFrom(ip, local.Port())}
		if ip.Is4() != local.Addr().Is4() || slices.Contains(out, c) {
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
// with, or the zero Addr when there is no route. Connecting a UDP socket makes
// the kernel choose; nothing is sent.
func defaultSource(v4 bool) netip.Addr {
	network, dst := "udp6", "[2001:db8::1]:9"
	if v4 {
		network, dst = "udp4", "192.0.2.1:9"
	}
	c, err := net.Dial(network, dst)
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}
