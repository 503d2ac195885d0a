package signaling

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestParseURL(t *testing.T) {
	tests := []struct {
		in, url, token string
		err            string // part of it
	}{
		{in: "ws://192.0.2.1:8080#TOKEN", url: "ws://192.0.2.1:8080", token: "TOKEN"},
		{in: " ws://192.0.2.1:8080/ \n", url: "ws://192.0.2.1:8080"},
		{in: "wss://signal.example.org#a-b_c", url: "wss://signal.example.org", token: "a-b_c"},
		{in: "ws://[2001:db8::1]:8080#x", url: "ws://[2001:db8::1]:8080", token: "x"},
		{in: "wss://example.org/p2p/#x", url: "wss://example.org/p2p", token: "x"},
		{in: "ws://h:1/v1", url: "ws://h:1"},
		{in: "http://h:8080#secret", err: "write that instead of http://"},
		{in: "https://h#secret", err: "reached by wss://"},
		{in: "h:8080#secret", err: "want ws:// or wss:// in front"},
		{in: "192.0.2.1:8080#secret", err: "want ws:// or wss:// in front"},
		{in: "signal.example.org", err: "want ws:// or wss:// in front"},
		{in: "ftp://h", err: "not ftp://"},
		{in: "ws://", err: "host is missing"},
		{in: "ws://:8080", err: "host is missing"},
		{in: "ws://h?token=secret", err: "token goes behind #"},
		{in: "ws://user:secret@h", err: "token goes behind #"},
		{in: "ws://h:bad#secret", err: "not a URL"},
		{in: "ws://h#" + strings.Repeat("x", 257), err: "more than 256 bytes"},
		{in: "", err: "no address given"},
		{in: "ws://::1:8080#secret", err: "in brackets, write ws://[::1]:8080"},
		{in: "wss://2001:db8::1/sig#secret", err: "write wss://[2001:db8::1]:8080/sig"},
		{in: "ws://fe80::1%eth0:80", err: "write ws://[fe80::1%eth0]:80"},
		{in: "ws://a:b:c", err: "not a URL"},
	}
	for _, tt := range tests {
		url, token, err := ParseURL(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("ParseURL(%q): error %v, want one with %q", tt.in, err, tt.err)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("ParseURL(%q) tells the secret: %v", tt.in, err)
			}
			continue
		}
		if err != nil || url != tt.url || token != tt.token {
			t.Errorf("ParseURL(%q) = %q, %q, %v", tt.in, url, token, err)
		}
	}
}

func TestPlaintextWarning(t *testing.T) {
	for address, warn := range map[string]bool{
		"ws://198.51.100.1:8080":   true,
		"ws://[2001:db8::1]:8080":  true,
		"ws://signal.example.org":  true,
		"ws://[::ffff:8.8.8.8]:80": true,
		"wss://signal.example.org": false,
		"wss://198.51.100.1":       false,
		"ws://127.0.0.1:8080":      false,
		"ws://[::1]:8080":          false,
		"ws://10.1.2.3:8080":       false,
		"ws://192.168.1.1":         false,
		"ws://[fd00::1]:8080":      false,
		"ws://[::ffff:10.0.0.1]":   false,
		"ws://localhost:8080":      false,
		"ws://signal:8080":         false,
		"ws://nas.local":           false,
		"ws://local.example.org":   true,
	} {
		got := PlaintextWarning(address)
		if (got != "") != warn {
			t.Errorf("PlaintextWarning(%q) = %q", address, got)
		}
		if len(got) > 70 || strings.Contains(got, "\n") {
			t.Errorf("not a short line: %q", got)
		}
	}
}

func TestExplain(t *testing.T) {
	answer := func(code int, body string, header ...string) *http.Response {
		r := &http.Response{StatusCode: code, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	plain := errors.New("dial tcp: connection refused")
	tomorrow := &x509.Certificate{NotBefore: time.Now().Add(24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}
	yesterday := &x509.Certificate{NotAfter: time.Now().Add(-24 * time.Hour)}
	const login, bad = "log in, if this network wants that first", "https://"
	tests := []struct {
		name    string
		address string // empty: wss://h:8080
		proxy   string
		resp    *http.Response
		err     error // nil: websocket.ErrBadHandshake
		not     bool  // ErrNotSignal
		want    string
		hint    string
		retry   float64
	}{
		{name: "refused", err: plain, want: "connection refused"},
		{name: "refused, without a port", address: "ws://h", err: plain, want: "connection refused", hint: "listens on 8080 unless told otherwise, ws://h:8080"},
		{name: "refused, IPv6 without a port", address: "wss://[::1]", err: plain, want: "connection refused", hint: "wss://[::1]:8080"},
		{name: "proxy that refuses us", address: "ws://h:1", proxy: "proxy:8080", err: errors.New("Proxy Authentication Required"), want: "through the proxy proxy:8080: Proxy Authentication Required", hint: "check $HTTP_PROXY"},
		{name: "certificate behind a proxy", proxy: "proxy:8080", err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{Cert: yesterday}}, want: "unknown authority", hint: "does not trust"},
		{name: "plain server, wss", err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, not: true, want: "it does not speak TLS", hint: login},
		{name: "TLS server, ws", address: "ws://h:1", resp: answer(400, "Client sent an HTTP request to an HTTPS server.\n"), not: true, want: "it wants TLS", hint: "write wss://"},
		{name: "some web server", resp: answer(404, "<html>"), not: true, want: "nothing at /v1 (HTTP 404)", hint: "check address and port"},
		{name: "a proxy that serves something else there", address: "wss://h:8443/sig", resp: answer(404, ""), not: true, want: "nothing at /sig/v1 (HTTP 404)", hint: "check address and port"},
		{name: "a proxy without WebSockets", resp: answer(426, "this is the WebSocket of a signal server"), not: true, want: "without its upgrade (HTTP 426)", hint: "have the proxy before it pass WebSockets on"},
		{name: "some web server, without a port", address: "ws://h", resp: answer(404, "<html>"), not: true, want: "nothing at /v1 (HTTP 404)", hint: "ws://h:8080"},
		{name: "a page", resp: answer(200, "<html>"), not: true, want: "HTTP 200", hint: login},
		{name: "redirect", resp: answer(302, "", "Location", "http://login.example/?session=12345"), not: true, want: "redirects (HTTP 302) to http://login.example", hint: login},
		{name: "redirect to nowhere", resp: answer(301, ""), not: true, want: "redirects (HTTP 301) to another page", hint: login},
		{name: "redirect that plays tricks", resp: answer(301, "", "Location", "http://h\u202e/"), not: true, want: "redirects (HTTP 301) to http://h", hint: login},
		{name: "login wanted", resp: answer(511, "<html>"), want: "HTTP 511", hint: login},
		{name: "host not allowed", resp: answer(403, "no such\x1b[31m name"), not: true, want: "no such?[31m name"},
		{name: "full", resp: answer(503, "full", "Retry-After", "5"), want: "HTTP 503: full", retry: 5},
		{name: "proxy without its backend", resp: answer(502, ""), want: "HTTP 502"},
		{name: "too many", resp: answer(429, "", "Retry-After", "99999"), want: "HTTP 429", retry: 60},
		{name: "negative", resp: answer(503, "", "Retry-After", "-1"), want: "HTTP 503"},
		{name: "ssh", err: errors.New(`malformed HTTP response "SSH-2.0-OpenSSH"`), not: true, want: "it does not speak HTTP", hint: "check the port"},
		{name: "certificate of tomorrow", err: &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: tomorrow, Reason: x509.Expired}}, want: "certificate", hint: "check this machine's clock: the certificate is of the future"},
		{name: "certificate of yesterday", err: &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: yesterday, Reason: x509.Expired}}, want: "expired", hint: "renew the certificate"},
		{name: "unknown authority", err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{Cert: yesterday}}, want: "unknown authority", hint: "does not trust who signed that certificate"},
		{name: "certificate of somebody else", err: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: yesterday, Host: "h"}}, hint: login},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := explain(cmp.Or(tt.address, "wss://h:8080"), tt.proxy, tt.resp, cmp.Or(tt.err, websocket.ErrBadHandshake))
			if !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrNotSignal) != tt.not {
				t.Errorf("got %q (not a signal server: %v)", err, errors.Is(err, ErrNotSignal))
			}
			if got := retryAfter(err).Seconds(); got != tt.retry {
				t.Errorf("retry after %v s, want %v", got, tt.retry)
			}
			hint := ""
			if a := (*advised)(nil); errors.As(err, &a) {
				hint = a.Hint()
			}
			if (hint == "") != (tt.hint == "") || !strings.Contains(hint, tt.hint) {
				t.Errorf("hint %q, want %q", hint, tt.hint)
			}
			if text := err.Error() + hint; tt.address == "" && strings.Contains(text, "ws://") || strings.Contains(text, bad) {
				t.Errorf("advises to do without encryption: %q", text)
			}
		})
	}
}

// What is said of a failure is the same text for the same cause.
func TestReason(t *testing.T) {
	at := func(port int) error {
		return &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 1, 0, 2), Port: port},
			Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 8080}, Err: syscall.ECONNRESET}
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{at(40001), "read tcp 192.0.2.2:8080: connection reset by peer"},
		{&connectError{"ws://h:1", at(40002)}, "read tcp 192.0.2.2:8080: connection reset by peer"},
		{errors.New("read udp [::1%lo]:5->[::1]:53: i/o timeout"), "read udp [::1]:53: i/o timeout"},
		{&connectError{"ws://h:1", notSignal("check the port", "it does not speak HTTP")}, "not a signal server: it does not speak HTTP (check the port)"},
		{errors.New("x509: certificate is not yet valid: current time 2026-11-29T22:36:10Z is before 2026-12-01T00:00:00Z"),
			"x509: certificate is not yet valid: this machine's clock is before 2026-12-01T00:00:00Z"},
		{&ServerError{Code: CodeFull}, ErrFull.Error()},
	} {
		if got := reason(tt.err); got != tt.want {
			t.Errorf("reason of %q: %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestVersionErrorSaysWhichSide(t *testing.T) {
	for _, tt := range []struct {
		e    VersionError
		want string
	}{
		{VersionError{Client: 1, Server: 2}, "update this agent"},
		{VersionError{Client: 2, Server: 1}, "update the signal server"},
	} {
		if got := tt.e.Error(); !strings.Contains(got, tt.want) || !strings.Contains(got, "version 1") || !strings.Contains(got, "version 2") {
			t.Errorf("%+v: %q", tt.e, got)
		}
		if !errors.Is(&tt.e, ErrVersion) {
			t.Error("not an ErrVersion")
		}
	}
}

func TestWhyOver(t *testing.T) {
	refused := &ServerError{Code: CodeUnauthorized}
	waited := os.ErrDeadlineExceeded
	broken := errors.New("broken pipe")
	for _, tt := range []struct{ read, write, want error }{
		{refused, nil, refused},
		{refused, broken, refused},
		{waited, nil, waited},
		{waited, broken, broken},
	} {
		if got := whyOver(tt.read, tt.write); !errors.Is(got, tt.want) {
			t.Errorf("read %v, write %v: %v", tt.read, tt.write, got)
		}
	}
}
