package candidates

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"slices"
	"syscall"
)

// Attributes of a link (linux/if_link.h), which package syscall does not name.
const (
	iflaInfoKind = 1      // within IFLA_LINKINFO
	nlaTypeMask  = 0x3fff // without the flags "nested" and "network byte order"
)

// Hardware types of tunnels (linux/if_arp.h).
const (
	arphrdPPP     = 512
	arphrdTunnel  = 768
	arphrdTunnel6 = 769
	arphrdSIT     = 776
	arphrdGRE     = 778
	arphrdGRE6    = 823
)

// A linkKind is what the kernel says an interface is.
type linkKind struct {
	hardware uint16 // ARPHRD_*
	kind     string // of a virtual interface: "wireguard", "bridge"; "" for hardware
}

// tunnelKinds are the kinds that carry packets inside of others. TUN and TAP
// devices are both "tun". Interfaces of the kinds that are not listed lead to
// this host's containers (veth, bridge) or to its own wires (vlan, bond).
var tunnelKinds = []string{
	"tun", "wireguard", "amneziawg", "ovpn", "ovpn-dco", "ipip", "ip6tnl", "sit", "gre", "gretap", "ip6gre", "ip6gretap",
	"erspan", "ip6erspan", "vti", "vti6", "xfrm", "vxlan", "geneve", "bareudp", "gtp",
}

// tunnel decides by what the kernel says of an interface. A modem may have the
// hardware type of a tunnel device, "none", and no kind. PPP is a tunnel of
// PPTP, L2TP or SSTP, or else the way to a DSL provider: pppoe says so.
func (l linkKind) tunnel(pppoe bool) bool {
	switch {
	case l.hardware == arphrdPPP:
		return !pppoe
	case l.kind != "":
		return slices.Contains(tunnelKinds, l.kind)
	}
	return slices.Contains([]uint16{arphrdTunnel, arphrdTunnel6, arphrdSIT, arphrdGRE, arphrdGRE6}, l.hardware)
}

// tunnelIfaces tells which interfaces are tunnels. The kernel is asked over
// netlink and not by /sys, which shows the network namespace of whoever mounted
// it.
func tunnelIfaces() func(net.Interface) bool {
	kinds, err := linkKinds()
	if err != nil {
		return tunnelByName
	}
	pppoe := pppoeSession()
	return func(ifc net.Interface) bool {
		l, ok := kinds[ifc.Index]
		return ok && l.tunnel(pppoe)
	}
}

// linkKinds asks the kernel for all interfaces, by index.
func linkKinds() (map[int]linkKind, error) {
	raw, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("netlinkrib", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(raw)
	if err != nil {
		return nil, os.NewSyscallError("parsenetlinkmessage", err)
	}
	kinds := make(map[int]linkKind)
	for _, m := range msgs {
		if m.Header.Type != syscall.RTM_NEWLINK || len(m.Data) < syscall.SizeofIfInfomsg {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, os.NewSyscallError("parsenetlinkrouteattr", err)
		}
		// struct ifinfomsg: family, padding, type (2 bytes), index (4 bytes)
		l := linkKind{hardware: binary.NativeEndian.Uint16(m.Data[2:])}
		for _, a := range attrs {
			if a.Attr.Type&nlaTypeMask == syscall.IFLA_LINKINFO {
				l.kind = infoKind(a.Value)
			}
		}
		kinds[int(binary.NativeEndian.Uint32(m.Data[4:]))] = l
	}
	return kinds, nil
}

// infoKind finds IFLA_INFO_KIND among the attributes within IFLA_LINKINFO. Each
// is a length of two bytes, header included, a type of two bytes, and the value,
// padded to four bytes.
func infoKind(b []byte) string {
	for len(b) >= syscall.SizeofRtAttr {
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < syscall.SizeofRtAttr || n > len(b) {
			return ""
		}
		if typ&nlaTypeMask == iflaInfoKind {
			return string(bytes.TrimRight(b[syscall.SizeofRtAttr:n], "\x00"))
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return ""
}

// pppoeSession reports whether a PPPoE session runs in this network namespace.
// The first line of the file is a heading.
func pppoeSession() bool {
	b, err := os.ReadFile("/proc/net/pppoe")
	return err == nil && bytes.Count(bytes.TrimSpace(b), []byte("\n")) > 0
}
