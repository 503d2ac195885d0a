package signaling

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

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
		if got := PlaintextWarning(address); (got != "") != warn {
			t.Errorf("PlaintextWarning(%q) = %q", address, got)
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
	tests := []struct {
		name  string
		resp  *http.Response
		err   error
		not   bool // ErrNotSignal
		want  string
		retry float64
	}{
		{name: "refused", err: plain, want: "connection refused"},
		{name: "plain server, wss", err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, not: true, want: "write ws://"},
		{name: "TLS server, ws", resp: answer(400, "Client sent an HTTP request to an HTTPS server.\n"), err: websocket.ErrBadHandshake, not: true, want: "write wss://"},
		{name: "some web server", resp: answer(404, "<html>"), err: websocket.ErrBadHandshake, not: true, want: "check address and port"},
		{name: "a page", resp: answer(200, "<html>"), err: websocket.ErrBadHandshake, not: true, want: "HTTP 200"},
		{name: "redirect", resp: answer(301, "", "Location", "https://h/"), err: websocket.ErrBadHandshake, not: true, want: `redirects (HTTP 301) to "https://h/"`},
		{name: "host not allowed", resp: answer(403, "no such\x1b[31m name"), err: websocket.ErrBadHandshake, not: true, want: "no such?[31m name"},
		{name: "full", resp: answer(503, "full", "Retry-After", "5"), err: websocket.ErrBadHandshake, want: "HTTP 503: full", retry: 5},
		{name: "proxy without its backend", resp: answer(502, ""), err: websocket.ErrBadHandshake, want: "HTTP 502"},
		{name: "too many", resp: answer(429, "", "Retry-After", "99999"), err: websocket.ErrBadHandshake, want: "HTTP 429", retry: 60},
		{name: "negative", resp: answer(503, "", "Retry-After", "-1"), err: websocket.ErrBadHandshake, want: "HTTP 503"},
		{name: "ssh", err: errors.New(`malformed HTTP response "SSH-2.0-OpenSSH"`), not: true, want: "check the port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := explain(tt.resp, tt.err)
			if !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrNotSignal) != tt.not {
				t.Errorf("got %q (not a signal server: %v)", err, errors.Is(err, ErrNotSignal))
			}
			if got := retryAfter(err).Seconds(); got != tt.retry {
				t.Errorf("retry after %v s, want %v", got, tt.retry)
			}
		})
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
