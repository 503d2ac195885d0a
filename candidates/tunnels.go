package candidates

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Tunnels are this host's addresses on tunnel interfaces: VPNs and the like,
// whose packets travel inside of others. What carries them is not known; it may
// be a relay, or our own link.
type Tunnels struct {
	ifaces map[netip.Addr]string // address → name of its interface

	source func(dst netip.Addr) netip.Addr // what a route lookup gives; tests have theirs
}

// LocalTunnels lists the addresses that this host has on tunnel interfaces now.
func LocalTunnels() (Tunnels, error) {
	addrs, err := interfaceAddrs()
	return tunnelsOf(addrs), err
}

func tunnelsOf(addrs []ifaceAddr) Tunnels {
	t := Tunnels{source: sourceFor}
	for _, a := range addrs {
		if !a.Tunnel {
			continue
		}
		if t.ifaces == nil {
			t.ifaces = make(map[netip.Addr]string)
		}
		t.ifaces[a.Prefix.Addr()] = a.Iface
	}
	return t
}

// To returns the name of the tunnel interface by which packets to dst leave, or
// "" when they leave by none. The kernel says which source address it would take
// for dst, and with it the interface, whatever address our socket is bound to. A
// tunnel interface without an address of its own is not found out.
func (t Tunnels) To(dst netip.Addr) string {
	if len(t.ifaces) == 0 {
		return ""
	}
	return t.ifaces[t.source(dst)]
}

// tunnelNames are how the names of tunnel interfaces begin, in lower case:
// generic ones, those of VPN programs, and Apple's.
var tunnelNames = []string{
	"tun", "tap", "wg", "ppp", "ipsec", "gre", "gif", "stf", "utun", "feth", "zt", "tailscale", "wireguard",
	"zerotier", "openvpn", "nordlynx", "proton", "mullvad", "wintun",
}

// tunnelByName guesses by its flags and name whether an interface is a tunnel,
// where the system does not say what it is made of.
func tunnelByName(ifc net.Interface) bool {
	if ifc.Flags&net.FlagLoopback != 0 {
		return false
	}
	name := strings.ToLower(ifc.Name)
	return ifc.Flags&net.FlagPointToPoint != 0 || strings.Contains(name, "vpn") ||
		slices.ContainsFunc(tunnelNames, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
