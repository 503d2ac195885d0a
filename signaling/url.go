package signaling

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// ParseURL splits the address of a signal server, ws://HOST[:PORT][#TOKEN] or
// wss://..., into the URL to connect to and the access token, which is never
// sent as part of a URL. See also [PlaintextWarning].
func ParseURL(s string) (address, token string, err error) {
	shown := s // without what may be secret
	if i := strings.IndexAny(shown, "#?"); i >= 0 {
		shown = shown[:i]
	}
	if i := strings.LastIndex(shown, "@"); i >= 0 {
		shown = shown[i+1:]
	}
	fail := func(why string) (string, string, error) {
		return "", "", fmt.Errorf("signal server %q: %s", printable(shown, 200), why)
	}
	if strings.TrimSpace(s) == "" {
		return "", "", errors.New("signal server: no address given, want ws://HOST:PORT#TOKEN as printed by signal")
	}
	if with := bracketed(shown); with != "" {
		return fail("an IPv6 address stands in brackets, write " + with)
	}
	u, err := url.Parse(strings.TrimSpace(s))
	switch {
	case err != nil, u.Scheme != "" && u.Host == "" && u.Scheme != "ws" && u.Scheme != "wss":
		// host:port alone looks like a scheme, or like nothing at all
		if !strings.Contains(shown, "://") {
			return fail("want ws:// or wss:// in front of it")
		}
		return fail("not a URL, want ws://HOST:PORT#TOKEN")
	case u.Scheme == "http":
		return fail("a signal server is reached by ws://, write that instead of http://")
	case u.Scheme == "https":
		return fail("a signal server is reached by wss://, write that instead of https://")
	case u.Scheme == "":
		return fail("want ws:// or wss:// in front of it")
	case u.Scheme != "ws" && u.Scheme != "wss":
		return fail("want ws:// or wss://, not " + printable(u.Scheme, 20) + "://")
	case u.Hostname() == "":
		return fail("the host is missing, want ws://HOST:PORT#TOKEN")
	case u.User != nil:
		return fail("no user name or password belongs here; an access token goes behind #")
	case u.RawQuery != "" || u.ForceQuery:
		return fail("no ? belongs here; an access token goes behind #")
	case len(u.Fragment) > maxToken:
		return fail(fmt.Sprintf("the access token behind # has more than %d bytes", maxToken))
	}
	token = u.Fragment
	u.Fragment, u.RawFragment = "", ""
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), Path)
	u.RawPath = ""
	return u.String(), token, nil
}

// bracketed is the URL that was meant by one with a bare IPv6 address, empty when s is
// no such URL. Where the last part could be a port, it is taken for one.
func bracketed(s string) string {
	scheme, rest, found := strings.Cut(strings.TrimSpace(s), "://")
	host, path, _ := strings.Cut(rest, "/")
	if !found || strings.Count(host, ":") < 2 || strings.HasPrefix(host, "[") {
		return ""
	}
	if path != "" {
		path = "/" + path
	}
	last := strings.LastIndex(host, ":")
	for _, c := range []struct{ addr, port string }{{host[:last], host[last+1:]}, {host, "8080"}} {
		addr, err := netip.ParseAddr(c.addr)
		port, bad := strconv.ParseUint(c.port, 10, 16)
		if err == nil && bad == nil && port > 0 {
			return scheme + "://" + net.JoinHostPort(addr.String(), c.port) + path
		}
	}
	return ""
}

// PlaintextWarning says what is wrong with sending an access token, and
// getting TURN credentials, over an address that ParseURL returned; it is
// empty when nothing is. The agents' messages are sealed either way.
func PlaintextWarning(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "ws" || nearby(u.Hostname()) {
		return ""
	}
	return "ws:// is not encrypted: who is on the way can take the access token"
}

// nearby reports whether a host is this machine or in a private network, as
// far as its name tells.
func nearby(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		return addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast()
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if !strings.Contains(host, ".") {
		return true // localhost, or the name of a container
	}
	for _, suffix := range []string{".localhost", ".local", ".internal", ".lan", ".home.arpa"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}
