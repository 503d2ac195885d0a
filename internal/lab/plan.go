package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// Topology is what a lab shall be.
type Topology struct {
	A, B         Kind
	SameNAT      bool // both peers behind nat-a; B is ignored
	LinkA, LinkB Link // the lines from the routers to the core
}

// The nodes. A lab with one NAT for both has no NatB.
const (
	PeerA  = "peer-a"
	PeerB  = "peer-b"
	NatA   = "nat-a"
	NatB   = "nat-b"
	Core   = "core"
	Signal = "signal"
	Server = "server"
)

// Nodes are all of them, from one side to the other.
func Nodes() []string { return []string{PeerA, NatA, Core, Signal, Server, NatB, PeerB} }

// Addresses on the public side, all from the networks that RFC 5737 keeps for
// documentation. The server has two as well: a foreign STUN server may want them.
func signalLink() link {
	return link{addr("192.0.2.1/25"), addrs("192.0.2.2/25", "192.0.2.3/25")}
}

func serverLink() link {
	return link{addr("192.0.2.129/25"), addrs("192.0.2.130/25", "192.0.2.131/25")}
}

// PublicNetworks are the networks of the lab's public side.
func PublicNetworks() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"),
	}
}

// link is a network between a node nearer to the core and those behind it.
type link struct {
	near netip.Prefix
	far  []netip.Prefix
}

// site is a router with its LAN.
type site struct {
	router string
	kind   Kind
	line   Link
	wan    link // core to router
	lan    link // router to hosts
	hosts  []string
}

// sites lays out the two sites of a topology, or the only one.
func (t Topology) sites() []site {
	a := site{router: NatA, kind: t.A, line: t.LinkA, hosts: []string{PeerA},
		wan: link{addr("198.51.100.1/25"), addrs("198.51.100.2/25")},
		lan: link{addr("10.1.0.1/24"), addrs("10.1.0.2/24", "10.1.0.3/24")}}
	if !t.A.Translated {
		a.lan = link{addr("198.51.100.129/25"), addrs("198.51.100.130/25", "198.51.100.131/25")}
	}
	if t.SameNAT {
		a.hosts = append(a.hosts, PeerB)
		return []site{a}
	}
	b := site{router: NatB, kind: t.B, line: t.LinkB, hosts: []string{PeerB},
		wan: link{addr("203.0.113.1/25"), addrs("203.0.113.2/25")},
		lan: link{addr("10.2.0.1/24"), addrs("10.2.0.2/24")}}
	if !t.B.Translated {
		b.lan = link{addr("203.0.113.129/25"), addrs("203.0.113.130/25")}
	}
	return []site{a, b}
}

// publicAddr is the address under which the world sees the site's first host.
func (s site) publicAddr() netip.Addr {
	if !s.kind.Translated {
		return s.lan.far[0].Addr()
	}
	return s.wan.far[0].Addr()
}

// localPorts are the ports that the i-th host of a LAN takes for its sockets. They
// do not meet, so a NAT that keeps source ports keeps those of both hosts, and a
// port alone tells whose it is.
func localPorts(i int) PortRange {
	if i == 0 {
		return PortRange{20000, 39999}
	}
	return PortRange{40000, 59999}
}

// rulesRouter is the site as its recipe sees it.
func (s site) rulesRouter() Router {
	r := Router{LAN: lanInterface, WAN: wanInterface}
	if len(s.hosts) == 1 {
		r.Hosts = []Host{{s.lan.far[0].Addr(), allPorts()}}
		return r
	}
	for i := range s.hosts {
		r.Hosts = append(r.Hosts, Host{s.lan.far[i].Addr(), localPorts(i)})
	}
	return r
}

// Interface names, the same in every router and every host.
const (
	lanInterface  = "lan"
	wanInterface  = "wan"
	hostInterface = "eth0"
)

// Validate says what is wrong with the topology.
func (t Topology) Validate() error {
	if t.A.rules == nil || !t.SameNAT && t.B.rules == nil {
		return errors.New("a lab needs a NAT for each side")
	}
	if t.SameNAT && t.LinkB != (Link{}) {
		return errors.New("with one NAT for both there is no second line to the core")
	}
	return nil
}

// String names the topology for people.
func (t Topology) String() string {
	if t.SameNAT {
		return fmt.Sprintf("both behind one %s", t.A.Name)
	}
	return fmt.Sprintf("%s × %s", t.A.Name, t.B.Name)
}

func addr(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addrs(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(s))
	for i := range s {
		out[i] = addr(s[i])
	}
	return out
}

// DefaultName is the name of a lab that was given none.
const DefaultName = "lab"
