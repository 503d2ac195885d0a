package lab

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// RouterConfig says what a router is to be that is no node of a lab, such as a
// container.
type RouterConfig struct {
	Kind Kind
	// LAN and WAN are each an interface, or a network that one of the machine's
	// interfaces has an address in: where names are given by chance, as in a
	// container with two networks, addresses are sure.
	LAN, WAN string
	// Host is the machine on the LAN that unsolicited packets go to where the kind
	// lets them in. Zero means the first address of the LAN's network that is not
	// the router's.
	Host netip.Addr
	// Verbose gets every command that is run; nil for none.
	Verbose io.Writer
}

// attachment is an interface with its addresses.
type attachment struct {
	name  string
	addrs []netip.Prefix
}

// findInterface returns the interface that is meant by a name or by a network.
func findInterface(all []attachment, want string) (attachment, error) {
	network, err := netip.ParsePrefix(want)
	var names []string
	for _, a := range all {
		names = append(names, a.name)
		if err != nil && a.name == want {
			return a, nil
		}
		for _, p := range a.addrs {
			if err == nil && network.Contains(p.Addr()) {
				return a, nil
			}
		}
	}
	return attachment{}, fmt.Errorf("no interface is %s or has an address in it; there are %s", want, strings.Join(names, ", "))
}

// router works out what the recipe has to know.
func (c RouterConfig) router(all []attachment) (Router, error) {
	lan, err := findInterface(all, c.LAN)
	if err != nil {
		return Router{}, fmt.Errorf("lan: %w", err)
	}
	wan, err := findInterface(all, c.WAN)
	if err != nil {
		return Router{}, fmt.Errorf("wan: %w", err)
	}
	if lan.name == wan.name {
		return Router{}, fmt.Errorf("lan and wan are both %s", lan.name)
	}
	host := c.Host
	if !host.IsValid() {
		if host, err = firstHost(lan); err != nil {
			return Router{}, err
		}
	}
	return Router{LAN: lan.name, WAN: wan.name, Hosts: []Host{{host, allPorts()}}}, nil
}

func firstHost(lan attachment) (netip.Addr, error) {
	for _, p := range lan.addrs {
		if !p.Addr().Is4() || p.Bits() > 30 {
			continue
		}
		first := p.Masked().Addr().Next()
		if first == p.Addr() {
			first = first.Next()
		}
		return first, nil
	}
	return netip.Addr{}, fmt.Errorf("lan: %s has no IPv4 network with room for a host", lan.name)
}

// foreignRules finds rules of others in what `iptables -S CHAIN` prints: they would
// be asked before ours.
func foreignRules(list string) error {
	for line := range strings.Lines(list) {
		if strings.HasPrefix(line, "-A ") {
			return errors.New(strings.TrimSpace(line))
		}
	}
	return nil
}
