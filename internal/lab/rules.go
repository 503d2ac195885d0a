package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rule is one step in making a router: a command, and the one that undoes it.
type Rule struct {
	Do, Undo []string // Undo is nil where another rule's undoes this one too
}

// rule is an iptables rule at the end of its chain.
func rule(table, chain string, spec ...string) Rule {
	command := func(verb string) []string {
		return append([]string{"iptables", "-w", "-t", table, verb, chain}, spec...)
	}
	return Rule{command("-A"), command("-D")}
}

// Router is what a recipe needs to know of the machine it is for.
type Router struct {
	LAN, WAN string // interfaces
	// Hosts are the machines on the LAN to which unsolicited packets may go. Their
	// ports must not meet.
	Hosts []Host
}

// Host is a machine behind a router.
type Host struct {
	Addr  netip.Addr
	Ports PortRange // local ports it uses
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

func (p PortRange) String() string { return fmt.Sprintf("%d-%d", p.First, p.Last) }

// allPorts is for a host that is alone.
func allPorts() PortRange { return PortRange{1, 65535} }

// mappingLifetime is how long after a packet to an address the address-restricted
// NAT lets packets from there in (RFC 4787 REQ-5: at least two minutes).
const mappingLifetime = "2m"

// Rules returns what makes a router of this kind.
func (k Kind) Rules(r Router) []Rule { return k.rules(r) }

// The recipes share this frame: the router drops what comes for itself from
// outside, forwards what the LAN sends, and lets in only what a rule before the
// last one accepts.

func guardRouter(r Router) []Rule {
	return []Rule{
		rule("filter", "INPUT", "-i", r.WAN, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"),
		rule("filter", "INPUT", "-i", r.WAN, "-j", "DROP"),
	}
}

func forward(r Router, states string) []Rule {
	return []Rule{
		rule("filter", "FORWARD", "-i", r.LAN, "-j", "ACCEPT"),
		rule("filter", "FORWARD", "-i", r.WAN, "-o", r.LAN, "-m", "conntrack", "--ctstate", states, "-j", "ACCEPT"),
		rule("filter", "FORWARD", "-j", "DROP"),
	}
}

const replies = "ESTABLISHED,RELATED"

// masquerade keeps the source port of a host where it is free, so one socket has
// one mapping whatever it sends to.
func masquerade(r Router) Rule {
	return rule("nat", "POSTROUTING", "-o", r.WAN, "-j", "MASQUERADE")
}

// routeOnly translates and filters nothing. The rule is there because the kernel
// counts connections only where a rule looks at them.
func routeOnly(r Router) []Rule {
	return []Rule{rule("filter", "FORWARD", "-m", "conntrack", "--ctstate", "NEW,"+replies, "-j", "ACCEPT")}
}

func fullCone(r Router) []Rule {
	rules := append(guardRouter(r), masquerade(r))
	rules = append(rules, toHosts(r)...)
	return append(rules, forward(r, "NEW,"+replies)...)
}

// addressRestricted keeps a set of (destination address, source port), one entry
// for each address that a mapping has sent to. iptables has no such memory: its
// "recent" lists know addresses alone, so one socket would open the filter of all.
func addressRestricted(r Router) []Rule {
	nft := func(args ...string) Rule { return Rule{Do: append([]string{"nft"}, args...)} }
	table := nft("add", "table", "ip", nftTable)
	table.Undo = []string{"nft", "delete", "table", "ip", nftTable}
	rules := append(guardRouter(r), masquerade(r), table,
		nft("add", "set", "ip", nftTable, nftPeers, "{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout "+mappingLifetime+"; }"),
		nft("add", "chain", "ip", nftTable, "out", "{ type filter hook forward priority mangle; }"),
		nft("add", "rule", "ip", nftTable, "out", "iifname", r.LAN, "oifname", r.WAN,
			"meta l4proto udp update", "@"+nftPeers, "{ ip daddr . udp sport }"),
		nft("add", "chain", "ip", nftTable, "in", "{ type nat hook prerouting priority dstnat; }"))
	for _, h := range r.Hosts {
		rules = append(rules, nft("add", "rule", "ip", nftTable, "in", "iifname", r.WAN,
			"udp dport", h.Ports.String(), "ip saddr . udp dport", "@"+nftPeers, "dnat to", h.Addr.String()))
	}
	return append(rules, forward(r, replies+",DNAT")...)
}

// The nftables objects of the address-restricted NAT.
const (
	nftTable = "p2pagent"
	nftPeers = "peers"
)

func portRestricted(r Router) []Rule {
	return append(guardRouter(r), portRestrictedOpen(r)...)
}

func portRestrictedOpen(r Router) []Rule {
	return append([]Rule{masquerade(r)}, forward(r, replies)...)
}

// symmetric draws a new source port for every connection.
func symmetric(r Router) []Rule {
	rules := append(guardRouter(r),
		rule("nat", "POSTROUTING", "-o", r.WAN, "-p", "udp", "-j", "MASQUERADE", "--random-fully"),
		masquerade(r))
	return append(rules, forward(r, replies)...)
}

func udpBlocked(r Router) []Rule {
	blocked := rule("filter", "FORWARD", "-p", "udp", "-j", "DROP")
	return append([]Rule{blocked}, portRestricted(r)...)
}

// toHosts sends unsolicited UDP to the host that uses the port. Reply packets
// never come here.
func toHosts(r Router) []Rule {
	var rules []Rule
	for _, h := range r.Hosts {
		rules = append(rules, rule("nat", "PREROUTING", "-i", r.WAN, "-p", "udp", "--dport", strings.Replace(h.Ports.String(), "-", ":", 1),
			"-j", "DNAT", "--to-destination", h.Addr.String()))
	}
	return rules
}

// commandLine writes a command as one could type it.
func commandLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n'\"$&;|<>()*?#~`\\") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}
