package signaling

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pires/go-proxyproto"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestClientAddr(t *testing.T) {
	s := &Server{cfg: ServerConfig{TrustedProxies: prefixes("10.0.0.0/8", "2001:db8:1::/48")}}
	tests := []struct {
		name      string
		peer      string
		forwarded []string
		want      string
	}{
		{name: "no proxy", peer: "198.51.100.7", want: "198.51.100.7"},
		{name: "a stranger is not believed", peer: "198.51.100.7", forwarded: []string{"203.0.113.9"}, want: "198.51.100.7"},
		{name: "a proxy is", peer: "10.0.0.1", forwarded: []string{"203.0.113.9"}, want: "203.0.113.9"},
		{name: "what the client made up is not", peer: "10.0.0.1", forwarded: []string{"192.0.2.1, 203.0.113.9"}, want: "203.0.113.9"},
		{name: "nor in a header of its own", peer: "10.0.0.1", forwarded: []string{"192.0.2.1", "203.0.113.9"}, want: "203.0.113.9"},
		{name: "proxies in a row", peer: "10.0.0.1", forwarded: []string{"192.0.2.1, 203.0.113.9,10.0.0.3, 10.0.0.2"}, want: "203.0.113.9"},
		{name: "an untrusted proxy in between", peer: "10.0.0.1", forwarded: []string{"203.0.113.9, 198.51.100.7, 10.0.0.2"}, want: "198.51.100.7"},
		{name: "a client that is a proxy", peer: "10.0.0.1", forwarded: []string{"10.0.0.9"}, want: "10.0.0.9"},
		{name: "a proxy that says nothing", peer: "10.0.0.1", want: "10.0.0.1"},
		{name: "a proxy that says what is no address", peer: "10.0.0.1", forwarded: []string{"203.0.113.9, unknown"}, want: "10.0.0.1"},
		{name: "an empty header", peer: "10.0.0.1", forwarded: []string{""}, want: "10.0.0.1"},
		{name: "with a port", peer: "10.0.0.1", forwarded: []string{"203.0.113.9:4711"}, want: "203.0.113.9"},
		{name: "IPv6", peer: "2001:db8:1::2", forwarded: []string{"2001:db8:2::1"}, want: "2001:db8:2::1"},
		{name: "IPv6 in brackets", peer: "10.0.0.1", forwarded: []string{"[2001:db8:2::1]"}, want: "2001:db8:2::1"},
		{name: "IPv6 with a port", peer: "10.0.0.1", forwarded: []string{"[2001:db8:2::1]:4711"}, want: "2001:db8:2::1"},
		{name: "a proxy on a socket for both families", peer: "::ffff:10.0.0.1", forwarded: []string{"::ffff:203.0.113.9"}, want: "::ffff:203.0.113.9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := clientAddr(netip.MustParseAddr(tt.peer), tt.forwarded, s.trusts); got.String() != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

// through is a dialer of WebSockets that says something before its request, as
// a proxy does.
func through(first []byte, overTLS bool) *websocket.Dialer {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = c.Write(first)
		}
		if overTLS && err == nil {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true}), nil
		}
		return c, err
	}
	return &websocket.Dialer{NetDialContext: dial}
}

func header(t *testing.T, version byte, source string) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80")))
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sources lists the sources of the connections that have said hello.
func (ts *testServer) sources() []string {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var out []string
	for _, a := range slices.SortedFunc(maps.Keys(ts.admitted), netip.Addr.Compare) {
		out = append(out, a.String())
	}
	return out
}

// TestProxies: a connection counts for whom a trusted proxy names, however it
// does, and for the proxy, or who passes himself off as one, otherwise.
func TestProxies(t *testing.T) {
	forwarded := func(list string) http.Header { return http.Header{"X-Forwarded-For": {list}} }
	tests := []struct {
		name    string
		trusted string
		first   []byte
		header  http.Header
		want    string // source; empty: refused
	}{
		{name: "PROXY version 2", trusted: "127.0.0.0/8", first: header(t, 2, "203.0.113.9:4711"), want: "203.0.113.9"},
		{name: "PROXY version 1", trusted: "127.0.0.0/8", first: header(t, 1, "203.0.113.9:4711"), want: "203.0.113.9"},
		{name: "PROXY with IPv6", trusted: "127.0.0.0/8", first: bytes.Replace(header(t, 1, "203.0.113.9:4711"), []byte("TCP4 203.0.113.9 192.0.2.1"), []byte("TCP6 2001:db8::9 2001:db8::1"), 1), want: "2001:db8::"},
		{name: "PROXY of a health check", trusted: "127.0.0.0/8", first: append(slices.Clone(proxyproto.SIGV2), 0x20, 0, 0, 0), want: "127.0.0.1"},
		{name: "PROXY from elsewhere", trusted: "10.0.0.0/8", first: header(t, 2, "203.0.113.9:4711")},
		{name: "PROXY that trusts nobody else", trusted: "127.0.0.0/8", first: header(t, 2, "203.0.113.9:4711"), header: forwarded("192.0.2.5"), want: "203.0.113.9"},
		{name: "PROXY for a trusted proxy", trusted: "127.0.0.0/8", first: header(t, 2, "127.0.0.2:4711"), header: forwarded("192.0.2.5"), want: "192.0.2.5"},
		{name: "PROXY that is broken", trusted: "127.0.0.0/8", first: []byte("PROXY TCP4 here there 1 2\r\n")},
		{name: "X-Forwarded-For", trusted: "127.0.0.1/32", header: forwarded("198.51.100.1, 203.0.113.9"), want: "203.0.113.9"},
		{name: "X-Forwarded-For from elsewhere", trusted: "10.0.0.0/8", header: forwarded("203.0.113.9"), want: "127.0.0.1"},
		{name: "neither", trusted: "127.0.0.1/32", want: "127.0.0.1"},
	}
	for _, tt := range tests {
		for _, secure := range []bool{false, true} {
			name := tt.name
			if secure {
				name += ", TLS"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ts := serveProxied(t, tt.trusted, secure)
				ws, resp, err := through(tt.first, secure).Dial(ts.address+Path, tt.header)
				if tt.want == "" {
					if err == nil {
						ws.Close()
						t.Fatal("taken")
					}
					return
				}
				if err != nil {
					t.Fatalf("dial: %v %v", err, resp)
				}
				defer ws.Close()
				r := &raw{ws, t}
				r.say(message{Type: typeHello, Version: Version})
				r.expect(typeWelcome)
				if got := ts.sources(); !slices.Equal(got, []string{tt.want}) {
					t.Errorf("counts for %v, want %s", got, tt.want)
				}
			})
		}
	}
}

// serveProxied is serve with a trusted proxy, and with TLS above what that says.
func serveProxied(t *testing.T, trusted string, secure bool) *testServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := ServerConfig{TrustedProxies: prefixes(trusted)}
	if !secure {
		return serveOn(t, cfg, ln)
	}
	other := httptest.NewTLSServer(nil) // has a certificate
	config := &tls.Config{Certificates: other.TLS.Certificates}
	other.Close()
	return serveOn(t, cfg, ln, func(ln net.Listener) net.Listener { return tls.NewListener(ln, config) })
}

// reverseProxy serves ts at another address.
func reverseProxy(t *testing.T, ts *testServer) (addr string) {
	t.Helper()
	proxy := httptest.NewServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: ts.addr}))
	t.Cleanup(proxy.Close)
	return proxy.Listener.Addr().String()
}

// dialFrom is dialRaw from one of this machine's addresses.
func dialFrom(t *testing.T, source, addr string) *raw {
	t.Helper()
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	ws, _, err := (&websocket.Dialer{NetDialContext: from.DialContext}).Dial("ws://"+addr+Path, nil)
	if err != nil {
		t.Fatalf("dial from %s: %v", source, err)
	}
	t.Cleanup(func() { ws.Close() })
	ws.SetReadDeadline(time.Now().Add(patience))
	return &raw{ws, t}
}

// TestBehindReverseProxy: a flood of connections without hello shuts nobody out
// who comes through the same proxy, whether or not that is trusted. Where it is,
// who is held back is so alone.
func TestBehindReverseProxy(t *testing.T) {
	for name, trusted := range map[string][]netip.Prefix{"trusted": prefixes("127.0.0.1/32"), "not trusted": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := new(bytes.Buffer)
			ts := serve(t, ServerConfig{
				Token: "secret", TrustedProxies: trusted, Limits: Limits{Pending: 8, ConnectionsPerAddress: 8},
				Log: slog.New(slog.NewTextHandler(log, nil)),
			})
			proxy := reverseProxy(t, ts)
			welcomed := func(source string) *raw {
				t.Helper()
				r := dialFrom(t, source, proxy)
				r.say(message{Type: typeHello, Version: Version, Token: "secret"})
				r.expect(typeWelcome)
				return r
			}
			for range 30 {
				dialFrom(t, "127.0.0.2", proxy)
			}
			victim := welcomed("127.0.0.3")

			guesser := welcomed("127.0.0.2")
			guess := message{Type: typeJoin, Mailbox: "7777777", Role: RoleGuest, Seat: randomSeat()}
			for m := (message{}); m.Code != CodeRate; m = guesser.expect(typeError) {
				guesser.say(guess)
			}
			victim.say(guess)
			if trusted != nil {
				victim.expectError(CodeUnknown)
			} else {
				victim.expectError(CodeRate) // one address to the server
				if !strings.Contains(log.String(), "--trusted-proxy 127.0.0.1") {
					t.Errorf("nothing advises to trust the proxy:\n%s", log)
				}
			}
		})
	}
}
