package signaling

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	if resp.Body == nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// get returns status and body of a plain request.
func get(t testing.TB, ts *testServer, path string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + ts.addr + path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, readAll(t, resp))
}

func TestPlainHTTP(t *testing.T) {
	ts := serve(t, ServerConfig{})
	for path, want := range map[string]string{
		"/healthz":   "200 ok",
		Path:         "426 this is the WebSocket of a signal server, for agents, not for browsers",
		"/":          "404 nothing here: this is a signal server, agents connect to /v1",
		Path + "/x":  "404 nothing here: this is a signal server, agents connect to /v1",
		"/../" + "a": "404 nothing here: this is a signal server, agents connect to /v1",
	} {
		if got := get(t, ts, path); got != want {
			t.Errorf("GET %s: %q, want %q", path, got, want)
		}
	}
}

func TestHostAllowed(t *testing.T) {
	tests := []struct {
		host  string
		names []string
		want  bool
	}{
		{host: "192.0.2.1:8080", want: true},
		{host: "192.0.2.1", want: true},
		{host: "[2001:db8::1]:8080", want: true},
		{host: "[2001:db8::1]", want: true},
		{host: "localhost:8080", want: true},
		{host: "LOCALHOST", want: true},
		{host: "evil.example:8080", want: true},
		{host: "", want: true},
		{host: "192.0.2.1:8080", names: []string{"signal.example"}, want: true},
		{host: "[2001:db8::1]", names: []string{"signal.example"}, want: true},
		{host: "localhost", names: []string{"signal.example"}, want: true},
		{host: "localhost.evil.example", names: []string{"signal.example"}},
		{host: "evil.example:8080", names: []string{"signal.example"}},
		{host: "192.0.2.1.evil.example", names: []string{"signal.example"}},
		{host: "", names: []string{"signal.example"}},
		{host: "signal.example:443", names: []string{"other.example", "signal.example"}, want: true},
		{host: "SIGNAL.example.", names: []string{"signal.example"}, want: true},
		{host: "x.signal.example", names: []string{"signal.example"}},
	}
	for _, tt := range tests {
		if got := hostAllowed(tt.host, tt.names); got != tt.want {
			t.Errorf("hostAllowed(%q, %q) = %v", tt.host, tt.names, got)
		}
	}
}

func TestServerConfigErrors(t *testing.T) {
	mint := func(string, time.Time) Credentials { return Credentials{} }
	for name, tt := range map[string]struct {
		cfg  ServerConfig
		want string
	}{
		"token":    {ServerConfig{Token: strings.Repeat("x", 300)}, "access token has 300 bytes"},
		"software": {ServerConfig{Software: strings.Repeat("x", 65)}, "longer than 64"},
		"mint":     {ServerConfig{TURN: []string{"turn:h"}}, "without a way to make credentials"},
		"slashes":  {ServerConfig{STUN: []string{"stun://h"}}, `URI "stun://h": want stun:host:port`},
		"scheme":   {ServerConfig{STUN: []string{"turn:h"}}, "want stun:host:port"},
		"empty":    {ServerConfig{TURN: []string{"turn:"}, Mint: mint}, "want turn:host:port"},
		"many":     {ServerConfig{STUN: make([]string, 17)}, "more than 16"},
	} {
		if _, err := NewServer(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
	}
	good := ServerConfig{STUN: []string{"stun:h:3478", "stuns:h"}, TURN: []string{"turn:h?transport=tcp", "turns:h:443"}, Mint: mint}
	if _, err := NewServer(good); err != nil {
		t.Errorf("good config: %v", err)
	}
}

// TestCredentials: minted for members with a peer, under a pseudonym that is
// the same for one seat and tells nothing of it.
func TestCredentials(t *testing.T) {
	now := time.Unix(2e9, 0)
	ts := serve(t, ServerConfig{
		STUN: []string{"stun:192.0.2.1:3478"},
		TURN: []string{"turn:192.0.2.1:3478"},
		Now:  func() time.Time { return now },
		Mint: func(user string, at time.Time) Credentials {
			if !at.Equal(now) {
				t.Errorf("minted for %v", at)
			}
			return Credentials{Username: "1:" + user, Password: "p-" + user, TTL: time.Hour}
		},
	})
	join := func(r *raw, role Role, seat string) {
		r.say(message{Type: typeJoin, Mailbox: pad("box"), Role: role, Seat: seat})
		r.expect(typeJoined)
	}
	hostSeat, guestSeat := randomSeat(), randomSeat()
	host, guest := hello(t, ts), hello(t, ts)
	join(host, RoleHost, hostSeat)
	host.say(message{Type: typeCredentials, Mailbox: pad("box")})
	host.expectError(CodeAbsent)
	join(guest, RoleGuest, guestSeat)
	guest.expect(typePeer)
	host.expect(typePeer)
	h, g := host.expect(typeCredentials), guest.expect(typeCredentials)
	if h.TTL != 3600 || !reflect.DeepEqual(h.URIs, ts.cfg.TURN) || !reflect.DeepEqual(h.STUN, ts.cfg.STUN) {
		t.Errorf("host got %+v", h)
	}
	if h.Username == g.Username || strings.Contains(h.Username, hostSeat) || len(h.Username) < 10 {
		t.Errorf("users %q and %q", h.Username, g.Username)
	}
	host.say(message{Type: typeCredentials, Mailbox: pad("box")})
	if again := host.expect(typeCredentials); again.Username != h.Username {
		t.Errorf("%q became %q for the same seat", h.Username, again.Username)
	}
}

// TestOrder: what one member sends arrives in order, with presence in between
// where it belongs.
func TestOrder(t *testing.T) {
	ts := serve(t, ServerConfig{Limits: Limits{Messages: 1e6, Bytes: 1e9, QueueMessages: 1 << 14, QueueBytes: 1 << 26, MailboxQueueMessages: 1 << 13, MailboxQueueBytes: 1 << 25}})
	p := newPair(t, ts, "box")
	const n = 2000
	go func() {
		for i := range n {
			if p.guest.WriteMessage(websocket.TextMessage, encode(message{Type: typeSend, Mailbox: pad("box"), Body: fmt.Append(nil, i)})) != nil {
				return // the reader below will say so
			}
		}
		p.guest.WriteMessage(websocket.TextMessage, encode(message{Type: typeLeave, Mailbox: pad("box")}))
	}()
	for i := range n {
		if m := p.host.expect(typeMessage); string(m.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, m.Body)
		}
	}
	if m := p.host.expect(typePeer); m.Present {
		t.Fatalf("after the last message: %+v", m)
	}
}

// TestExpiredAtTheMoment: nobody gets into a nameplate whose time is over,
// whether or not a tick has found it.
func TestExpiredAtTheMoment(t *testing.T) {
	var passed atomic.Int64
	began := time.Now()
	ts := serve(t, ServerConfig{Now: func() time.Time { return began.Add(time.Duration(passed.Load())) }})
	host, guest := hello(t, ts), hello(t, ts)
	host.say(message{Type: typeClaim, Ref: 1, Seat: randomSeat()})
	number := host.expect(typeClaimed).Mailbox
	passed.Store(int64(10 * time.Minute))
	guest.say(message{Type: typeJoin, Mailbox: number, Role: RoleGuest, Seat: randomSeat()})
	guest.expectError(CodeUnknown)
	host.expectError(CodeExpired)
}

// A moodyListener fails some times before each connection it accepts.
type moodyListener struct {
	net.Listener
	failures atomic.Int32
}

func (l *moodyListener) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestAcceptErrorsAreSurvived(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	moody := &moodyListener{Listener: ln}
	moody.failures.Store(4)
	ts := serveOn(t, ServerConfig{}, moody)
	p := newPair(t, ts, "one")
	moody.failures.Store(4)
	newPair(t, ts, "two").check(t, "two")
	p.check(t, "one")
	if n := moody.failures.Load(); n > 0 {
		t.Errorf("%d failures were never met", n)
	}
}

func TestDrainSecondCallIsImmediate(t *testing.T) {
	ts := serve(t, ServerConfig{Limits: Limits{DrainSpread: time.Hour}})
	var rs []*raw
	for range 5 {
		rs = append(rs, hello(t, ts))
	}
	first := make(chan error, 1)
	go func() { first <- ts.Drain(context.Background()) }()
	until(t, "draining", func() bool { return get(t, ts, "/healthz") == "503 draining" })
	handshake(t, ts, nil, http.StatusServiceUnavailable, "stopping")
	select {
	case err := <-first:
		t.Fatalf("the first drain did not take its hour: %v", err)
	default:
	}
	go ts.Drain(context.Background())
	for _, r := range rs {
		r.expectClose(websocket.CloseServiceRestart)
	}
	if err := <-first; err != nil {
		t.Errorf("drain: %v", err)
	}
	if n := ts.Stats().Connections; n != 0 {
		t.Errorf("%d connections left", n)
	}
}

func TestDrainEndsWithItsContext(t *testing.T) {
	ts := serve(t, ServerConfig{Limits: Limits{DrainSpread: time.Hour}})
	a, b := hello(t, ts), hello(t, ts)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(enough)
	done := make(chan error, 1)
	go func() { done <- ts.Drain(ctx) }()
	a.expectClose(websocket.CloseServiceRestart)
	b.expectClose(websocket.CloseServiceRestart)
	if err := <-done; !errors.Is(err, enough) {
		t.Errorf("drain: %v", err)
	}
}
