package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestFloodWithoutToken: thousands of WebSockets of one address, whose owner has
// no token, shut nobody out who has it: behind a proxy that nobody told the
// server of, where all have one address, and behind one that it trusts.
func TestFloodWithoutToken(t *testing.T) {
	t.Parallel()
	const flood = 2500 // more than one address may have, and than may be without a hello
	for _, row := range []struct {
		name   string
		flags  []string
		header string // what the proxy says of the flood
	}{
		{"all have one address", nil, ""},
		{"the proxy is trusted", []string{"--trusted-proxy", "127.0.0.0/8"}, "X-Forwarded-For: 203.0.113.9\r\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, row.flags...)
			for range flood {
				bareUpgrade(t, d.web(), row.header)
			}
			l := newHome(t, d.url).start(t, "listen")
			code(t, l)
			if text := l.stderr.String(); strings.Contains(text, "no connection") {
				t.Errorf("it was turned away at first:\n%s", text)
			}
			d.unharmed(t)
		})
	}
}

// bareUpgrade opens a WebSocket that says nothing, until the test ends.
func bareUpgrade(t *testing.T, address, header string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET /v1 HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", address, header)
	status, err := bufio.NewReaderSize(c, 256).ReadString('\n')
	if err != nil || !strings.Contains(status, "101") && !strings.Contains(status, "503") {
		t.Fatalf("the server answers %q, %v", status, err)
	}
}

// TestProxyKeepsHost: a link goes through a reverse proxy that passes the name in
// the request on, as some do without being told; and where the server was told
// its names, it says how to be told another one.
func TestProxyKeepsHost(t *testing.T) {
	t.Parallel()
	through := func(t *testing.T, d *deployment) (address string) {
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: d.web()})
			r.Out.Host = "rendezvous.example"
		}})
		t.Cleanup(proxy.Close)
		return proxy.Listener.Addr().String()
	}
	reached := func(t *testing.T, d *deployment) {
		t.Helper()
		l := newHome(t, "ws://"+through(t, d)+"#"+d.token()).start(t, "listen")
		code(t, l)
	}
	t.Run("any name", func(t *testing.T) { reached(t, deploy(t)) })
	t.Run("this name", func(t *testing.T) {
		reached(t, deploy(t, "--host", "other.example", "--host", "rendezvous.example"))
	})
	t.Run("another name", func(t *testing.T) {
		d := deploy(t, "--host", "other.example")
		resp, err := http.Get("http://" + through(t, d) + "/v1")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusForbidden || !bytes.Contains(body, []byte("--host rendezvous.example")) {
			t.Errorf("%s: %s, %v", resp.Status, body, err)
		}
	})
}

// TestHeldBack: a listener that the server makes wait for a number says why.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	third := dialWebSocket(t, d.web())
	third.hello(d.token())
	ref := 0
	claim := func() {
		ref++
		third.say(fmt.Sprintf(`{"type":"claim","ref":%d,"seat":"%s"}`, ref, seat("third")))
	}
	for range 31 { // one more than at once
		claim()
	}
	third.await(`"code":"rate"`)
	l := newHome(t, d.url).start(t, "listen")
	const why = "the server makes us wait: too many pairing numbers"
	for range int(patience / (50 * time.Millisecond)) { // more than the server allows meanwhile
		if strings.Contains(l.stderr.String(), why) {
			break
		}
		claim()
		time.Sleep(50 * time.Millisecond)
	}
	l.await(t, l.stderr, why)
	code(t, l)
}
