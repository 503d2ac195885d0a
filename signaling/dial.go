package signaling

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// A busyError is a server, or a proxy before it, that cannot serve us now.
type busyError struct {
	status     string
	retryAfter time.Duration
}

func (e *busyError) Error() string { return "server answers " + e.status }

// dial opens the WebSocket.
func (c *Client) dial(ctx context.Context) (*websocket.Conn, error) {
	dial := c.cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	// The library gives up the handshake at a deadline, not when ctx ends.
	stop := func() bool { return true }
	interruptible := func(within context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(within, network, addr)
		if err == nil {
			stop = context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
	d := websocket.Dialer{
		NetDialContext:   interruptible,
		Proxy:            c.cfg.Proxy,
		TLSClientConfig:  c.cfg.TLS,
		HandshakeTimeout: c.cfg.Handshake,
		ReadBufferSize:   4096,
		WriteBufferSize:  4096,
	}
	ws, resp, err := d.DialContext(ctx, c.address+Path, nil)
	stop()
	if err == nil {
		return ws, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if resp != nil && resp.Body != nil { // the library gives the first 1024 bytes
		defer resp.Body.Close()
	}
	return nil, &connectError{c.address, explain(c.address, c.proxy(), resp, err)}
}

// proxy is the HTTP proxy on the way to the server, HOST:PORT, empty without one.
func (c *Client) proxy() string {
	u, err := url.Parse("http" + strings.TrimPrefix(c.address, "ws")) // and https for wss, as the library has it
	if err != nil {
		return ""
	}
	if p, err := c.cfg.Proxy(&http.Request{Method: http.MethodGet, URL: u}); err == nil && p != nil {
		return printable(p.Host, 100)
	}
	return ""
}

// A connectError is an attempt at a connection that failed.
type connectError struct {
	address string
	err     error
}

func (e *connectError) Error() string {
	return fmt.Sprintf("connect to signal server %s: %v", e.address, e.err)
}
func (e *connectError) Unwrap() error { return e.err }

// explain makes of what answered a handshake with address, or of what prevented it,
// what the user can do about it. Nothing of that is authenticated where there is
// no TLS, and where there is, a network that wants a login first comes between. So it
// never advises to do without.
//
// proxy is the one that was asked to connect, HOST:PORT, or empty. Its password is no
// part of any text.
func explain(address, proxy string, resp *http.Response, err error) error {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return notSignal(loginHint, "it does not speak TLS")
	case strings.Contains(err.Error(), "malformed HTTP"):
		return notSignal("check the port", "it does not speak HTTP")
	case resp == nil || !errors.Is(err, websocket.ErrBadHandshake):
		if hint := certificateHint(err, time.Now()); hint != "" {
			return &advised{err, hint}
		}
		if proxy != "" {
			return &advised{fmt.Errorf("through the proxy %s: %w", proxy, err),
				"check $HTTP_PROXY for ws:// or $HTTPS_PROXY for wss://, its password too; $NO_PROXY names what goes without"}
		}
		if hint := portHint(address); hint != "" {
			return &advised{err, hint}
		}
		return err
	}
	status := fmt.Sprintf("HTTP %d", resp.StatusCode)
	said := ""
	if resp.Body != nil {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what there is of it will do
		said = printable(strings.TrimSpace(string(b)), 200)
	}
	check := cmp.Or(portHint(address), "check address and port")
	switch code := resp.StatusCode; {
	case code == http.StatusNetworkAuthenticationRequired: // RFC 6585, section 6
		return &advised{&busyError{status, 0}, loginHint}
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &busyError{strings.TrimSuffix(status+": "+said, ": "), time.Duration(max(0, seconds)) * time.Second}
	case code >= 300 && code < 400:
		return notSignal(loginHint, "it redirects (%s) to %s", status, origin(resp.Header.Get("Location")))
	case code >= 200 && code < 300:
		return notSignal(loginHint, "it answers %s", status)
	case code == http.StatusForbidden:
		return fmt.Errorf("%w, or not under this name: %s %s", ErrNotSignal, status, said)
	case code == http.StatusBadRequest && strings.Contains(said, "HTTPS"):
		return notSignal("write wss:// instead of ws://", "it wants TLS")
	case code == http.StatusNotFound:
		return notSignal(check, "nothing at %s (%s)", pathOf(address), status)
	case code == http.StatusUpgradeRequired:
		return notSignal("have the proxy before it pass WebSockets on", "the request came there without its upgrade (%s)", status)
	}
	return notSignal(check, "it answers %s", status)
}

// pathOf is what was asked for at an address, where a proxy may serve several.
func pathOf(address string) string {
	u, err := url.Parse(address)
	if err != nil { // it has been dialed
		return Path
	}
	return u.Path + Path
}

// loginHint is for what a captive portal does to every connection.
const loginHint = "log in, if this network wants that first; else check address and port"

func notSignal(hint, format string, args ...any) error {
	return &advised{fmt.Errorf("%w: "+format, append([]any{ErrNotSignal}, args...)...), hint}
}

// certificateHint says what to do about a certificate that does not convince; it is
// empty when that is not the trouble.
func certificateHint(err error, now time.Time) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && now.Before(invalid.Cert.NotBefore):
		return "check this machine's clock: the certificate is of the future"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew the certificate at the server, or check this machine's clock"
	case errors.As(err, &unknown):
		return "this machine does not trust who signed that certificate: log in, if this network wants that first; an authority of your own goes into $SSL_CERT_FILE"
	case errors.As(err, &name):
		return "check the name; log in, if this network wants that first"
	}
	return ""
}

// portHint names the port of signal, when the address has none and the one of the
// web was tried.
func portHint(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Port() != "" {
		return ""
	}
	return fmt.Sprintf("name the port: `signal` listens on 8080 unless told otherwise, %s://%s", u.Scheme, net.JoinHostPort(u.Hostname(), "8080"))
}

// origin is the part of a URL that does not change from one answer of a captive
// portal to the next.
func origin(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return "another page"
	}
	return printable((&url.URL{Scheme: u.Scheme, Host: u.Host}).String(), 100)
}

// What is another text each time, though the cause is the same: our own end of a
// connection, with its port, and the time of day.
var (
	localEnd  = regexp.MustCompile(`[][\w.:%]+->`)
	timeOfDay = regexp.MustCompile(`current time \S+ is`)
)

// reason is an error for people who know which server is meant: without its address,
// the same for the same cause, and with what to do about it.
func reason(err error) string {
	shown := err
	var failed *connectError
	if errors.As(err, &failed) {
		shown = failed.err
	}
	text := localEnd.ReplaceAllString(shown.Error(), "")
	text = timeOfDay.ReplaceAllString(text, "this machine's clock is")
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		text += " (" + hint.Hint() + ")"
	}
	return text
}

// explainClose makes an error of what ended a connection.
func explainClose(err error) error {
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		return fmt.Errorf("connection to the signal server lost: %w", err)
	}
	switch closed.Code {
	case websocket.CloseServiceRestart:
		return errors.New("the signal server restarts")
	case websocket.CloseAbnormalClosure, websocket.CloseNoStatusReceived:
		return errors.New("the signal server closed the connection without a reason")
	}
	return fmt.Errorf("the signal server closed the connection: %s", cmp.Or(printable(closed.Text, 100), strconv.Itoa(closed.Code)))
}

// refusal makes an error of an error message that concerns the connection.
func (c *Client) refusal(m message) error {
	switch m.Code {
	case CodeUnauthorized:
		if c.token == "" {
			return fmt.Errorf("%w: %s wants one and none was given: append it as #TOKEN to the URL, as in the line that signal prints", ErrUnauthorized, c.address)
		}
		return fmt.Errorf("%w: the one given for %s is wrong: take the line that signal prints now", ErrUnauthorized, c.address)
	case CodeVersion:
		return &VersionError{Client: Version, Server: m.Version}
	}
	return &ServerError{m.Code, m.Text, time.Duration(m.RetryAfterMS) * time.Millisecond}
}
