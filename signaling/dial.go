package signaling

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
	return nil, fmt.Errorf("connect to signal server %s: %w", c.address, explain(resp, err))
}

// explain makes of the answer to a handshake what the user can do about it.
func explain(resp *http.Response, err error) error {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return fmt.Errorf("%w: it does not speak TLS: write ws:// if the server has no certificate", ErrNotSignal)
	case strings.Contains(err.Error(), "malformed HTTP"):
		return fmt.Errorf("%w: it does not speak HTTP: check the port", ErrNotSignal)
	case resp == nil || !errors.Is(err, websocket.ErrBadHandshake):
		return err
	}
	status := fmt.Sprintf("HTTP %d", resp.StatusCode)
	said := ""
	if resp.Body != nil {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what there is of it will do
		said = printable(strings.TrimSpace(string(b)), 200)
	}
	switch code := resp.StatusCode; {
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &busyError{strings.TrimSuffix(status+": "+said, ": "), time.Duration(max(0, seconds)) * time.Second}
	case code >= 300 && code < 400:
		return fmt.Errorf("%w: it redirects (%s) to %q", ErrNotSignal, status, printable(resp.Header.Get("Location"), 200))
	case code == http.StatusForbidden:
		return fmt.Errorf("%w, or not under this name: %s %s", ErrNotSignal, status, said)
	case code == http.StatusBadRequest && strings.Contains(said, "HTTPS"):
		return fmt.Errorf("%w: it wants TLS: write wss:// instead of ws://", ErrNotSignal)
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: nothing at %s (%s): check address and port", ErrNotSignal, Path, status)
	}
	return fmt.Errorf("%w: it answers %s: check address and port", ErrNotSignal, status)
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
