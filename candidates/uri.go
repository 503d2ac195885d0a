package candidates

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// URI is a STUN or TURN server as RFC 7064 and RFC 7065 write it.
type URI struct {
	Scheme    string // stun, turn or turns
	Host      string // a name, or an address without brackets
	Port      uint16 // 3478, or 5349 for turns, where the URI says none
	Transport string // udp, tcp or tls; always udp for stun
}

// ParseURI reads stun:host[:port], turn:host[:port][?transport=udp|tcp] and
// turns:host[:port][?transport=tcp].
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		if _, after, ok := strings.Cut(s, "@"); ok { // never repeat a password
			s = "…@" + after
		}
		return URI{}, fmt.Errorf("server URI %.200q: %w", s, err)
	}
	return u, nil
}

func parseURI(s string) (URI, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return URI{}, errors.New("no scheme: write stun:host:port, turn:host:port or turns:host:port")
	}
	u := URI{Scheme: strings.ToLower(scheme), Port: 3478, Transport: "udp"}
	switch u.Scheme {
	case "stun", "turn":
	case "turns":
		u.Port, u.Transport = 5349, "tls"
	case "stuns":
		return URI{}, errors.New("STUN over TLS tells nothing about UDP, write stun:HOST")
	default:
		return URI{}, fmt.Errorf("scheme %q is not stun, turn or turns", scheme)
	}
	if strings.HasPrefix(rest, "//") {
		return URI{}, fmt.Errorf("no slashes here: write %s:%s", u.Scheme, strings.TrimLeft(rest, "/"))
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	if hasQuery {
		if err := u.parseTransport(query); err != nil {
			return URI{}, err
		}
	}
	if strings.Contains(rest, "@") {
		return URI{}, errors.New("credentials do not belong into the URI")
	}
	host, port, err := splitHostPort(rest)
	if err != nil {
		return URI{}, err
	}
	u.Host = host
	if port != "" {
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil || p == 0 {
			return URI{}, fmt.Errorf("port %q is not 1 to 65535", port)
		}
		u.Port = uint16(p)
	}
	return u, nil
}

func (u *URI) parseTransport(query string) error {
	transport, ok := strings.CutPrefix(query, "transport=")
	if !ok {
		return fmt.Errorf("%q: only ?transport= may follow", query)
	}
	switch {
	case u.Scheme == "stun":
		return errors.New("stun: takes no transport")
	case u.Scheme == "turns" && transport == "tcp":
	case u.Scheme == "turns" && transport == "udp":
		return errors.New("TURN over DTLS is not offered: leave ?transport=udp away for TLS over TCP")
	case u.Scheme == "turn" && (transport == "udp" || transport == "tcp"):
		u.Transport = transport
	default:
		return fmt.Errorf("transport %q is not udp or tcp", transport)
	}
	return nil
}

// splitHostPort cuts host[:port], with an IPv6 address in brackets.
func splitHostPort(s string) (host, port string, err error) {
	if s == "" {
		return "", "", errors.New("no host")
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		host, port, ok = strings.Cut(inner, "]")
		if !ok {
			return "", "", errors.New("bracket without its partner")
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return "", "", fmt.Errorf("%q in brackets is no IPv6 address", host)
		}
		if port == "" {
			return host, "", nil
		}
		if port[0] != ':' || port == ":" {
			return "", "", fmt.Errorf("%q after the address is no port", port)
		}
		return host, port[1:], nil
	}
	if strings.Count(s, ":") > 1 {
		return "", "", errors.New("an IPv6 address needs brackets")
	}
	host, port, colon := strings.Cut(s, ":")
	switch {
	case host == "":
		return "", "", errors.New("no host")
	case colon && port == "":
		return "", "", errors.New("colon without a port")
	case strings.ContainsAny(host, " /\\#%[]"):
		return "", "", fmt.Errorf("%q is no host name", host)
	}
	return host, port, nil
}

// String writes u as RFC 7064 and RFC 7065 do, always with the port.
func (u URI) String() string {
	s := u.Scheme + ":" + u.address()
	if u.Scheme == "turn" {
		s += "?transport=" + u.Transport
	}
	return s
}

func (u URI) address() string { return net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port))) }

// Resolve looks up u's addresses of one family; network is "ip4" or "ip6", as
// [net.Resolver.LookupNetIP] has them. The first one is to be preferred.
func (u URI) Resolve(ctx context.Context, network string) ([]netip.AddrPort, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, u.Host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", u, err)
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap(), u.Port)
	}
	return out, nil
}

// TakeTurns makes one list of several: the first of each, the second of each, and
// so on, each value once, at most so many. So no list keeps the others out.
func TakeTurns[T comparable](lists [][]T, most int) (out []T) {
	for i, more := 0, true; more && len(out) < most; i++ {
		more = false
		for _, l := range lists {
			if i >= len(l) || len(out) == most {
				continue
			}
			more = true
			if !slices.Contains(out, l[i]) {
				out = append(out, l[i])
			}
		}
	}
	return out
}
