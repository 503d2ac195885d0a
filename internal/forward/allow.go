package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Resolver turns a host name into addresses; net.DefaultResolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// An AllowList says which targets a peer may reach through this side, and
// which ports it may have opened here. The zero value allows nothing.
//
// Names are resolved once, when the list is made, and pinned: a name that
// changes its address later (DNS rebinding) does not take the permission with
// it. A name that the peer sends is never looked up; it must equal one on the
// list.
type AllowList struct {
	dial   []dialRule
	listen []listenRule
}

type dialRule struct {
	name     string         // lower case; empty for a rule by address
	addrs    []netip.Prefix // pinned addresses of the name, or the prefix
	low, top uint16
}

type listenRule struct {
	addr     netip.Addr // zero: every loopback address
	any      bool       // every address
	low, top uint16
}

// never is refused whatever the list says, because nobody means it: cloud
// metadata services and link-local addresses.
var never = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
	netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("ff00::/8"),
}

// listenWord starts an entry that lets the peer open a port here with -R.
const listenWord = "listen:"

// ParseAllow reads the entries of --allow, each one of
//
//	HOST:PORT           a name or address and one port
//	HOST:LOW-HIGH       a range of ports
//	HOST:*              every port of a host
//	PREFIX:PORT         every address of a CIDR prefix, for example 10.1.0.0/24:22
//	listen:PORT         the peer may open this port here, on both loopbacks (-R)
//	listen:HOST:PORT    on this address; * for every address
//
// Names are resolved with r within ctx; one that does not resolve is an error.
func ParseAllow(ctx context.Context, r Resolver, entries []string) (*AllowList, error) {
	list := new(AllowList)
	for _, e := range entries {
		var err error
		if rest, ok := strings.CutPrefix(e, listenWord); ok {
			err = list.addListen(rest)
		} else {
			err = list.addDial(ctx, r, e)
		}
		if err != nil {
			return nil, fmt.Errorf("--allow %q: %w", e, err)
		}
	}
	return list, nil
}

func (l *AllowList) addDial(ctx context.Context, r Resolver, entry string) error {
	cut := strings.LastIndexByte(entry, ':')
	if cut < 0 {
		return fmt.Errorf("no port; write HOST:PORT, HOST:LOW-HIGH or HOST:*")
	}
	low, top, err := parsePorts(entry[cut+1:])
	if err != nil {
		return err
	}
	host := strings.TrimSuffix(strings.TrimPrefix(entry[:cut], "["), "]")
	rule := dialRule{low: low, top: top}
	switch prefix, err := parseNet(host); {
	case host == "" || host == "*":
		return fmt.Errorf("every host would be reachable; name a host or a prefix, for example 10.1.0.0/24:22")
	case err == nil && prefix.Bits() == 0:
		return fmt.Errorf("every host would be reachable; name a smaller prefix")
	case err == nil:
		rule.addrs = []netip.Prefix{prefix}
	default:
		rule.name = strings.ToLower(host)
		addrs, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return fmt.Errorf("resolve %s: %w", host, err)
		}
		for _, a := range addrs {
			a = a.Unmap()
			rule.addrs = append(rule.addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	l.dial = append(l.dial, rule)
	return nil
}

// parseNet reads a prefix, or an address as the prefix of just that address.
func parseNet(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parsePorts(s string) (low, top uint16, err error) {
	if s == "*" {
		return 1, 65535, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err := parsePort(from, 1)
	if err != nil {
		return 0, 0, err
	}
	b, err := parsePort(to, 1)
	if err != nil {
		return 0, 0, err
	}
	if a > b {
		return 0, 0, fmt.Errorf("port range %s runs backwards", s)
	}
	return uint16(a), uint16(b), nil
}

func (l *AllowList) addListen(s string) error {
	var rule listenRule
	port := s
	if cut := strings.LastIndexByte(s, ':'); cut >= 0 {
		host := strings.TrimSuffix(strings.TrimPrefix(s[:cut], "["), "]")
		port = s[cut+1:]
		switch {
		case host == "*":
			rule.any = true
		case strings.EqualFold(host, "localhost"): // as without a host
		default:
			addr, err := netip.ParseAddr(host)
			if err != nil {
				return fmt.Errorf("%q is not an address to listen on; write listen:PORT, listen:ADDRESS:PORT or listen:*:PORT", host)
			}
			rule.addr = addr.Unmap().WithZone("")
		}
	}
	var err error
	rule.low, rule.top, err = parsePorts(port)
	l.listen = append(l.listen, rule)
	return err
}

// Empty reports whether the list allows nothing at all.
func (l *AllowList) Empty() bool { return len(l.dial) == 0 && len(l.listen) == 0 }

// Dialable returns the addresses that a target HOST:PORT may be dialed at, in
// the order to try them, or an error for the peer. What it returns must be
// dialed as it is, never resolved again.
func (l *AllowList) Dialable(target string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(target)
	if err != nil {
		return nil, fmt.Errorf("target %q is not HOST:PORT", target)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("target %q has no valid port", target)
	}
	var out []netip.AddrPort
	addr, addrErr := netip.ParseAddr(host)
	for _, rule := range l.dial {
		if uint16(port) < rule.low || uint16(port) > rule.top {
			continue
		}
		if addrErr == nil {
			a := addr.Unmap().WithZone("")
			if containsAddr(rule.addrs, a) && !containsAddr(never, a) {
				return []netip.AddrPort{netip.AddrPortFrom(a, uint16(port))}, nil
			}
			continue
		}
		if rule.name == "" || rule.name != strings.ToLower(host) {
			continue
		}
		for _, p := range rule.addrs {
			if !containsAddr(never, p.Addr()) {
				out = append(out, netip.AddrPortFrom(p.Addr(), uint16(port)))
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s is not on this side's --allow list", target)
	}
	return out, nil
}

// Listenable returns the addresses to listen on for a peer's -R bind HOST:PORT,
// those of its addresses that the list has, or an error for the peer.
func (l *AllowList) Listenable(bind string) ([]netip.AddrPort, error) {
	wanted, err := bindAddrs(bind)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, want := range wanted {
		want = netip.AddrPortFrom(want.Addr().WithZone(""), want.Port())
		if slices.ContainsFunc(l.listen, func(r listenRule) bool { return r.allows(want) }) {
			out = append(out, want)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("listening on %s is not on this side's --allow list; it needs --allow listen:%s", bind, listenEntry(bind))
	}
	return out, nil
}

func (r listenRule) allows(a netip.AddrPort) bool {
	return a.Port() >= r.low && a.Port() <= r.top &&
		(r.any || r.addr == a.Addr() || !r.addr.IsValid() && a.Addr().IsLoopback())
}

// listenEntry is what stands behind "listen:" in an entry for a bind that
// bindAddrs takes.
func listenEntry(bind string) string {
	host, port, _ := net.SplitHostPort(bind)
	switch {
	case strings.EqualFold(host, "localhost"):
		return port
	case host == "":
		return "*:" + port
	}
	return bind
}

func containsAddr(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
