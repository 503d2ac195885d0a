package forward

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// An AllowList says which targets a peer may reach through this side, and
// which ports it may have opened here. The zero value allows nothing.
//
// A name that the peer sends is never looked up; it must equal one on the list,
// whose addresses are what [AllowList.Watch] found last. What was found and
// judged is what is dialed.
type AllowList struct {
	resolver Resolver
	dial     []dialRule
	listen   []listenRule

	mu    sync.Mutex
	names map[string]*pin // by the name in lower case; the map itself does not change
}

type dialRule struct {
	name     string       // lower case; empty for a rule by address
	prefix   netip.Prefix // of a rule by address
	low, top uint16
}

type listenRule struct {
	addr     netip.Addr // zero: every loopback address
	any      bool       // every address
	low, top uint16
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
// It looks nothing up: names are resolved with r while [AllowList.Watch] runs.
func ParseAllow(r Resolver, entries []string) (*AllowList, error) {
	list := &AllowList{resolver: r, names: make(map[string]*pin)}
	for _, e := range entries {
		var err error
		if rest, ok := strings.CutPrefix(e, listenWord); ok {
			err = list.addListen(rest)
		} else {
			err = list.addDial(e)
		}
		if err != nil {
			return nil, fmt.Errorf("--allow %q: %w", e, err)
		}
	}
	return list, nil
}

func (l *AllowList) addDial(entry string) error {
	if strings.Contains(entry, "://") {
		return fmt.Errorf("a URL; write HOST:PORT%s", hostPortOf(entry))
	}
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
		rule.prefix = prefix
	default:
		if err := checkName(host); err != nil {
			return err
		}
		rule.name = strings.ToLower(host)
		if l.names[rule.name] == nil {
			l.names[rule.name] = newPin(rule.name)
		}
	}
	l.dial = append(l.dial, rule)
	return nil
}

// hostPortOf is an example made of a URL's host and port, where it has both.
func hostPortOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443", "ssh": "22"}[u.Scheme])
	if port == "" {
		return ""
	}
	return ", for example " + net.JoinHostPort(u.Hostname(), port)
}

// checkName refuses what cannot be the name of a host, so that it is an error
// here and not a name that never resolves.
func checkName(host string) error {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	last := labels[len(labels)-1]
	switch {
	case strings.ContainsRune(host, '/'):
		return fmt.Errorf("%q is not a prefix; write one such as 10.1.0.0/24:22", host)
	case strings.ContainsRune(host, ':'):
		return fmt.Errorf("%q is not an address; write IPv6 as [2001:db8::1]:22", host)
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || strings.ContainsRune("@#?\\[]*,;\"'", r) }),
		slices.Contains(labels, ""), len(host) > 253:
		return fmt.Errorf("%q is not the name of a host", host)
	case strings.Trim(last, "0123456789") == "":
		return fmt.Errorf("%q is not an address", host) // and no name ends in a number
	}
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

// Dialable returns the addresses that a target HOST:PORT may be dialed at, or an
// error for the peer, which wraps ErrUnresolved for a name on the list that has no
// address yet. What it returns must be dialed as it is, never resolved again.
// When a name on the list is due to be looked up again it waits for that a while,
// within ctx.
func (l *AllowList) Dialable(ctx context.Context, target string) ([]netip.AddrPort, error) {
	addr, name, port, err := l.listed(target)
	if err != nil {
		return nil, err
	}
	if name == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr, port)}, nil
	}
	var out []netip.AddrPort
	for _, a := range l.fresh(ctx, name) {
		out = append(out, netip.AddrPortFrom(a, port))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s is on this side's --allow list, but %w", target, ErrUnresolved)
	}
	return out, nil
}

// Allows reports whether a target is on the list, whether or not it can be reached.
// It looks nothing up.
func (l *AllowList) Allows(target string) bool {
	if l == nil {
		return false
	}
	_, _, _, err := l.listed(target)
	return err == nil
}

// NeverDialed reports a target whose address is dialed by no list.
func NeverDialed(target string) bool {
	host, _, err := net.SplitHostPort(target)
	a, notAddr := netip.ParseAddr(host)
	return err == nil && notAddr == nil && reachOf(a) == nowhere
}

// listed finds a target on the list: an address, or one of the list's names.
func (l *AllowList) listed(target string) (addr netip.Addr, name *pin, port uint16, err error) {
	host, portText, err := net.SplitHostPort(target)
	if err != nil {
		return addr, nil, 0, fmt.Errorf("target %q is not HOST:PORT", target)
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return addr, nil, 0, fmt.Errorf("target %q has no valid port", target)
	}
	port = uint16(n)
	parsed, notAddr := netip.ParseAddr(host)
	addr = parsed.Unmap().WithZone("")
	for _, r := range l.dial {
		switch {
		case port < r.low || port > r.top:
		case notAddr != nil:
			if r.name != "" && r.name == strings.ToLower(host) {
				return addr, l.names[r.name], port, nil
			}
		case r.name != "" && l.has(r.name, addr),
			r.name == "" && r.prefix.Contains(addr) && reachOf(addr) != nowhere:
			return addr, nil, port, nil
		}
	}
	return addr, nil, 0, fmt.Errorf("%s is not on this side's --allow list", target)
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
