package signaling

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestMeetAndPart(t *testing.T) {
	ts := serve(t, ServerConfig{Token: "secret", STUN: []string{"stun:192.0.2.1"}, Mint: func(user string, _ time.Time) Credentials {
		return Credentials{Username: "u:" + user, Password: "p", TTL: time.Minute}
	}})
	host := start(t, ClientConfig{URL: ts.address + "#secret"})
	guest := start(t, ClientConfig{URL: ts.address, Token: "secret", Software: strings.Repeat("ü", 50)})
	h, g := meet(t, host, guest, "box")
	exchange(t, h, g, 1)

	creds, err := g.Credentials(t.Context())
	if err != nil || !strings.HasPrefix(creds.Username, "u:") || creds.Password != "p" || creds.TTL != time.Minute || !slices.Equal(creds.STUN, ts.cfg.STUN) {
		t.Errorf("credentials %+v, %v", creds, err)
	}
	if e := next(t, g, NewCredentials); e.Credentials.Username != creds.Username {
		t.Errorf("event %+v", e.Credentials)
	}
	if got := guest.STUN(); !slices.Equal(got, ts.cfg.STUN) {
		t.Errorf("STUN servers %q", got)
	}
	if up, since, _ := guest.State(); !up || since.IsZero() || guest.RTT() <= 0 {
		t.Errorf("connected %v since %v, RTT %v", up, since, guest.RTT())
	}

	g.Close()
	if e := next(t, h, PeerGone); e.From != 1 {
		t.Errorf("%+v", e)
	}
	if err := h.Send(t.Context(), 1, []byte("x")); !errors.Is(err, ErrAbsent) {
		t.Errorf("send to who left: %v", err)
	}
	if _, err := h.Credentials(t.Context()); !errors.Is(err, ErrAbsent) {
		t.Errorf("credentials without a peer: %v", err)
	}
	if err := g.Send(t.Context(), HostSeat, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send from a closed mailbox: %v", err)
	}
	if _, open := <-g.Events(); open {
		t.Error("an event after Close")
	}
	for _, body := range [][]byte{nil, make([]byte, MaxBody+1)} {
		if err := h.Send(t.Context(), 1, body); err == nil || errors.Is(err, ErrAbsent) {
			t.Errorf("body of %d bytes: %v", len(body), err)
		}
	}

	// The guest comes again, on the same connection.
	g = guest.Join(pad("box"), RoleGuest)
	next(t, g, Joined)
	met(t, h, g)
	exchange(t, h, g, 2)
	host.stop()
	if e := next(t, h, Lost); !errors.Is(e.Err, errTestOver) {
		t.Errorf("%+v", e)
	}
	if e := next(t, h, Failed); !errors.Is(e.Err, errTestOver) {
		t.Errorf("%+v", e)
	}
	next(t, g, PeerGone)
}

func TestClaim(t *testing.T) {
	ts := serve(t, ServerConfig{})
	host, guest, third := start(t, ClientConfig{URL: ts.address}), start(t, ClientConfig{URL: ts.address}), start(t, ClientConfig{URL: ts.address})
	number, h, err := host.Claim(t.Context())
	if err != nil || !IsNameplate(number) {
		t.Fatalf("claimed %q, %v", number, err)
	}
	next(t, h, Joined)
	g := guest.Join(number, RoleGuest)
	next(t, g, Joined)
	met(t, h, g)
	exchange(t, h, g, 1)
	if e := next(t, third.Join(number, RoleGuest), Failed); !errors.Is(e.Err, ErrTaken) {
		t.Errorf("third party: %v", e.Err)
	}
	if e := next(t, third.Join("9999999", RoleGuest), Failed); !errors.Is(e.Err, ErrUnknown) {
		t.Errorf("unknown nameplate: %v", e.Err)
	}
	h.Close()
	next(t, g, PeerGone)
	if e := next(t, g, Failed); !errors.Is(e.Err, ErrExpired) {
		t.Errorf("the host left: %v", e.Err)
	}
}

func TestJoinMistakes(t *testing.T) {
	ts := serve(t, ServerConfig{})
	c := start(t, ClientConfig{URL: ts.address})
	for what, m := range map[string]*Mailbox{
		"its name": c.Join("box", RoleGuest),
		"role":     c.Join(pad("box"), "king"),
		"the seat": c.JoinSeat(pad("box"), RoleHost, "short"),
	} {
		if e := next(t, m, Failed); !strings.Contains(e.Err.Error(), what) {
			t.Errorf("want something about %s: %v", what, e.Err)
		}
	}
	if e := next(t, c.Join("12", RoleGuest), Failed); !errors.Is(e.Err, ErrUnknown) {
		t.Errorf("a number no nameplate has: %v", e.Err)
	}
	c.Join(pad("box"), RoleHost)
	if e := next(t, c.Join(pad("box"), RoleGuest), Failed); !errors.Is(e.Err, ErrAlreadyJoined) {
		t.Errorf("twice: %v", e.Err)
	}
	other := start(t, ClientConfig{URL: ts.address})
	until(t, "the host is there", func() bool { return ts.Stats().Mailboxes == 1 })
	if e := next(t, other.Join(pad("box"), RoleHost), Failed); !errors.Is(e.Err, ErrOccupied) {
		t.Errorf("another host: %v", e.Err)
	}
	if err := c.Run(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("second Run: %v", err)
	}
	c.stop()
	if e := next(t, c.Join(pad("late"), RoleHost), Failed); !errors.Is(e.Err, errTestOver) {
		t.Errorf("join after Run: %v", e.Err)
	}
	if _, _, err := c.Claim(t.Context()); !errors.Is(err, errTestOver) {
		t.Errorf("claim after Run: %v", err)
	}
}

func TestReplaced(t *testing.T) {
	ts := serve(t, ServerConfig{})
	seat := randomSeat()
	var dials atomic.Int32
	counted := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	first, second, guest := start(t, ClientConfig{URL: ts.address, Dial: counted}), start(t, ClientConfig{URL: ts.address}), start(t, ClientConfig{URL: ts.address})
	h1 := first.JoinSeat(pad("box"), RoleHost, seat)
	next(t, h1, Joined)
	g := guest.Join(pad("box"), RoleGuest)
	next(t, g, Joined)
	met(t, h1, g)

	h2 := second.JoinSeat(pad("box"), RoleHost, seat)
	if e := next(t, h1, Failed); !errors.Is(e.Err, ErrReplaced) {
		t.Fatalf("%v", e.Err)
	}
	if e := next(t, h2, Joined); !e.Replaced {
		t.Error("the newcomer is not told that it took a seat from another run")
	}
	next(t, g, PeerGone)
	met(t, h2, g)

	// The first connects anew, and must not take the seat back.
	first.Kick("of a test")
	until(t, "the first is back", func() bool {
		up, _, _ := first.State()
		return up && dials.Load() == 2
	})
	next(t, first.Join(pad("other"), RoleHost), Joined) // behind all it said on connecting
	exchange(t, h2, g, 1)
	if _, open := <-h1.Events(); open {
		t.Error("an event after Failed")
	}
}

// TestLeavesBeforeItEnds: when Run has returned, the seats are free.
func TestLeavesBeforeItEnds(t *testing.T) {
	ts := serve(t, ServerConfig{})
	seat := randomSeat()
	for range 50 {
		c := start(t, ClientConfig{URL: ts.address})
		if e := next(t, c.JoinSeat(pad("box"), RoleHost, seat), Joined); e.Replaced {
			t.Fatal("the run before is still there")
		}
		c.stop()
	}
}

// TestComesBackBesideItself: a client that comes back before the server missed its old
// connection has taken nothing from anybody.
func TestComesBackBesideItself(t *testing.T) {
	ts := serve(t, ServerConfig{})
	one, other := start(t, ClientConfig{URL: ts.address}), start(t, ClientConfig{URL: ts.address})
	other.process = one.process // as if it were the same one
	seat := randomSeat()
	next(t, one.JoinSeat(pad("box"), RoleHost, seat), Joined)
	if e := next(t, other.JoinSeat(pad("box"), RoleHost, seat), Joined); e.Replaced {
		t.Error("taken for another run")
	}
}

// TestOlderServer: one that knows nothing of runs is as good.
func TestOlderServer(t *testing.T) {
	url := saying(t, sayAll(1, `{"type":"welcome","version":1,"rate":100,"byte_rate":100000}`,
		`{"type":"error","code":"unknown_type","message":"no"}`, `{"type":"joined","mailbox":"`+pad("box")+`"}`))
	m := start(t, ClientConfig{URL: url, MinBackoff: time.Hour, MaxBackoff: time.Hour}).Join(pad("box"), RoleHost)
	if e := next(t, m, Joined); e.Replaced {
		t.Error("replaced somebody")
	}
}

// TestLastWords: what was sent before Close arrives, though the client ends at
// once.
func TestLastWords(t *testing.T) {
	ts := serve(t, ServerConfig{})
	for round := range 20 {
		host, guest := start(t, ClientConfig{URL: ts.address}), start(t, ClientConfig{URL: ts.address})
		h, g := meet(t, host, guest, fmt.Sprint("box", round))
		for i := range 5 {
			if err := g.Send(t.Context(), HostSeat, fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		g.Close()
		guest.stop()
		for i := range 5 {
			if e := next(t, h, Message); string(e.Body) != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, e.Body)
			}
		}
		next(t, h, PeerGone)
		host.stop()
	}
}

// TestServerRestarts: everybody comes back to the mailboxes they were in, even
// to a nameplate that the new server does not know.
func TestServerRestarts(t *testing.T) {
	ts := serve(t, ServerConfig{})
	cfg := ClientConfig{URL: ts.address, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond}
	host, guest := start(t, cfg), start(t, cfg)
	h, g := meet(t, host, guest, "box")
	number, hp, err := host.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next(t, hp, Joined)
	gp := guest.Join(number, RoleGuest)
	next(t, gp, Joined)
	met(t, hp, gp)

	ts.stop(t)
	for _, m := range []*Mailbox{h, g, hp, gp} {
		// The other side may have been told to go first.
		for e := range m.Events() {
			if e.Kind == Lost {
				break
			}
			if e.Kind != PeerGone {
				t.Fatalf("%+v before Lost", e)
			}
		}
		if err := m.Send(t.Context(), 0, []byte("x")); !errors.Is(err, ErrNotJoined) {
			t.Errorf("send while down: %v", err)
		}
		if _, err := m.Credentials(t.Context()); !errors.Is(err, ErrNotJoined) {
			t.Errorf("credentials while down: %v", err)
		}
	}
	serveOn(t, ServerConfig{}, listenAgain(t, ts.addr))
	for _, pair := range [][2]*Mailbox{{h, g}, {hp, gp}} {
		for _, m := range pair {
			next(t, m, Joined)
			next(t, m, PeerHere)
			next(t, m, NewCredentials)
		}
		exchange(t, pair[0], pair[1], 1)
	}
	if hp.Name() != number {
		t.Errorf("nameplate %s became %s", number, hp.Name())
	}
}

func TestFatalErrors(t *testing.T) {
	signal := serve(t, ServerConfig{Token: "secret"})
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	tests := []struct {
		name, url string
		want      error
		says      string
	}{
		{"no token", signal.address, ErrUnauthorized, "append it as #TOKEN"},
		{"wrong token", signal.address + "#guess", ErrUnauthorized, "is wrong: take the line that signal prints"},
		{"some web server", "ws" + strings.TrimPrefix(web.URL, "http"), ErrNotSignal, "nothing at /v1"},
		{"plain server by wss", "wss" + strings.TrimPrefix(signal.address, "ws"), ErrNotSignal, "it does not speak TLS"},
		{"echo server", talker(t, ""), ErrNotSignal, "answers hello with something else"},
		{"server of another kind", talker(t, "Welcome to chat!"), ErrNotSignal, "answers hello with something else"},
		{"joined before welcome", talker(t, `{"type":"joined","mailbox":"1234"}`), ErrNotSignal, "something else"},
		{"newer server", talker(t, `{"type":"error","code":"version","version":3,"message":"no","x":{}}`), ErrVersion, "update this agent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var states []string
			rec := trace.New("test", trace.SinkFunc(func(r trace.Record) {
				if s, ok := r.Event.(trace.SignalState); ok {
					states = append(states, s.State)
				}
			}))
			c, err := NewClient(ClientConfig{URL: tt.url, Trace: rec})
			if err != nil {
				t.Fatal(err)
			}
			m := c.Join(pad("box"), RoleHost)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err = c.Run(ctx)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("run: %v, want %q", err, tt.says)
			}
			if strings.Contains(err.Error(), "guess") {
				t.Errorf("the error tells the token: %v", err)
			}
			if !slices.Equal(states, []string{"connecting", "refused"}) {
				t.Errorf("traced %q", states)
			}
			next(t, m, Lost)
			if e := next(t, m, Failed); e.Err != err {
				t.Errorf("mailbox: %v", e.Err)
			}
		})
	}
	t.Run("TLS server by ws", func(t *testing.T) {
		srv := httptest.NewTLSServer(http.NotFoundHandler())
		defer srv.Close()
		c := start(t, ClientConfig{URL: "ws" + strings.TrimPrefix(srv.URL, "https")})
		if <-c.done; !errors.Is(c.err, ErrNotSignal) || !strings.Contains(c.err.Error(), "it wants TLS") {
			t.Errorf("%v", c.err)
		}
	})
	t.Run("version error carries both", func(t *testing.T) {
		c := start(t, ClientConfig{URL: talker(t, `{"type":"error","code":"version","version":3,"message":"no"}`)})
		<-c.done
		var v *VersionError
		if !errors.As(c.err, &v) || v.Client != Version || v.Server != 3 {
			t.Errorf("%#v", c.err)
		}
	})
}

// TestPortal: a patient client outlives whatever a captive portal answers, says each
// cause, and is in its mailboxes when the server is there. An access token that the
// server itself refuses is the end for it too.
func TestPortal(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	var redirects atomic.Bool
	portal := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if redirects.Load() {
			w.Header().Set("Location", fmt.Sprintf("http://login.example/?%d", rand.Int()))
			w.WriteHeader(http.StatusFound)
		}
	})}
	go portal.Serve(ln)
	whys := make(chan string, 1000)
	rec := trace.New("test", trace.SinkFunc(func(r trace.Record) {
		if s, ok := r.Event.(trace.SignalState); ok && s.State == "lost" {
			whys <- s.Why
		}
	}))
	quick := ClientConfig{MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, Patient: true}
	cfg := quick
	cfg.URL, cfg.Trace = "ws://"+addr+"#secret", rec
	c := start(t, cfg)
	box := c.Join(pad("box"), RoleHost)
	await := func(want string) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case why := <-whys:
				if strings.Contains(why, want) {
					return
				}
			case <-deadline:
				t.Fatalf("never lost for %q", want)
			}
		}
	}
	await("it answers HTTP 200 (log in")
	redirects.Store(true)
	await("it redirects (HTTP 302) to http://login.example (log in")
	await("it redirects (HTTP 302) to http://login.example (log in") // and again
	portal.Close()
	await("refused")
	ts := serveOn(t, ServerConfig{Token: "secret"}, listenAgain(t, addr))
	next(t, box, Lost)
	next(t, box, Joined)

	cfg = quick
	cfg.URL = ts.address + "#guess"
	wrong := start(t, cfg)
	if <-wrong.done; !errors.Is(wrong.err, ErrUnauthorized) {
		t.Errorf("with a wrong token: %v", wrong.err)
	}
}

// talker is a WebSocket server that answers the first message with text, or
// with the message itself.
func talker(t *testing.T, text string) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		_, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		if text != "" {
			b = []byte(text)
		}
		ws.WriteMessage(websocket.TextMessage, b)
		ws.ReadMessage() // until the client has had enough
	}))
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http")
}

// TestNewerServer: what a newer server says beyond this version is ignored.
func TestNewerServer(t *testing.T) {
	lines := []string{
		`{"type":"welcome","version":1,"rate":50,"byte_rate":65536,"motd":{"text":["hi"]}}`,
		`{"type":"weather","sun":true}`,
		`{"type":"error","code":"unknown_type","message":"never heard of it"}`,
		`{"type":"error","code":"novel","message":"new","mailbox":"` + pad("box") + `"}`,
		`{"type":"joined","mailbox":"` + pad("box") + `","color":"red"}`,
		`{"type":"peer","mailbox":"` + pad("box") + `","present":true}`,
		`{"type":"peer","mailbox":"` + pad("stranger") + `","present":true}`,
	}
	c := start(t, ClientConfig{URL: talker(t, "")}) // never meets it: fails as above
	<-c.done
	c = start(t, ClientConfig{URL: saying(t, sayAll(1, lines...))})
	m := c.Join(pad("box"), RoleGuest)
	next(t, m, Joined)
	next(t, m, PeerHere)
}

func TestEventsNotRead(t *testing.T) {
	ts := serve(t, ServerConfig{Limits: Limits{Messages: 1e5, QueueMessages: 1000, MailboxQueueMessages: 500}})
	host, guest := start(t, ClientConfig{URL: ts.address}), start(t, ClientConfig{URL: ts.address})
	h, g := meet(t, host, guest, "box")
	for range eventQueue + 1 {
		if err := g.Send(t.Context(), HostSeat, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	next(t, g, PeerGone) // the host's mailbox has left by itself
	var last Event
	n := 0
	for e := range h.Events() {
		last = e
		n++
	}
	if n != eventQueue+1 || last.Kind != Failed || !errors.Is(last.Err, ErrOverflow) || !errors.Is(h.Err(), ErrOverflow) {
		t.Errorf("%d events, the last %+v", n, last)
	}
	next(t, host.Join(pad("box"), RoleHost), Joined) // the client itself is well
}

func TestTrace(t *testing.T) {
	ts := serve(t, ServerConfig{Token: "secret"})
	var mu sync.Mutex
	var events []string
	rec := trace.New("test", trace.SinkFunc(func(r trace.Record) {
		mu.Lock()
		defer mu.Unlock()
		switch e := r.Event.(type) {
		case trace.SignalState:
			events = append(events, e.State+" "+e.URL)
		case trace.SignalMessage:
			if e.Size <= 0 || e.Via != "signaling" {
				t.Errorf("%+v", e)
			}
			events = append(events, fmt.Sprint(e.Type, " ", e.Sent))
		}
	}))
	c := start(t, ClientConfig{URL: ts.address + "#secret", Trace: rec})
	m := c.Join(pad("box"), RoleHost)
	next(t, m, Joined)
	c.stop()
	mu.Lock()
	defer mu.Unlock()
	sorted := slices.Sorted(slices.Values(events)) // reader and writer race
	want := []string{
		"connected " + ts.address, "connecting " + ts.address, "hello true", "join true",
		"joined false", "run true", "welcome false",
	}
	if !slices.Equal(sorted, want) {
		t.Errorf("traced %q\nwant %q", sorted, want)
	}
	if all := strings.Join(events, " "); strings.Contains(all, "secret") || events[0] != want[1] {
		t.Errorf("traced %q", events)
	}
}

func TestTLS(t *testing.T) {
	s, err := NewServer(ServerConfig{Limits: Limits{DrainSpread: time.Nanosecond}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s)
	srv.Config = s.HTTPServer()
	srv.StartTLS()
	defer srv.Close()
	defer s.Drain(context.Background())
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	address := "wss" + strings.TrimPrefix(srv.URL, "https")

	trusting := start(t, ClientConfig{URL: address, TLS: &tls.Config{RootCAs: roots}})
	next(t, trusting.Join(pad("box"), RoleHost), Joined)

	doubting := start(t, ClientConfig{URL: address})
	m := doubting.Join(pad("box"), RoleGuest)
	if e := next(t, m, Lost); !strings.Contains(e.Err.Error(), "certificate") {
		t.Errorf("a certificate of nobody: %v", e.Err)
	}
}

func TestHTTPProxy(t *testing.T) {
	ts := serve(t, ServerConfig{})
	proxy, used := connectProxy(t)
	c := start(t, ClientConfig{URL: ts.address, Proxy: http.ProxyURL(proxy)})
	next(t, c.Join(pad("box"), RoleHost), Joined)
	if used.Load() != 1 {
		t.Errorf("the proxy was used %d times", used.Load())
	}
	c.stop()

	// A proxy in the way is named, without its password.
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	deaf, err := url.Parse(closed.URL)
	if err != nil {
		t.Fatal(err)
	}
	deaf.User = url.UserPassword("user", "hunter2")
	c = start(t, ClientConfig{URL: ts.address, Proxy: http.ProxyURL(deaf), MinBackoff: time.Hour, MaxBackoff: time.Hour})
	e := next(t, c.Join(pad("box"), RoleHost), Lost)
	if want := "through the proxy " + deaf.Host; !strings.Contains(e.Err.Error(), want) || strings.Contains(e.Err.Error(), "hunter2") {
		t.Errorf("lost: %v, want %q", e.Err, want)
	}
	c.stop()
}

// connectProxy is an HTTP proxy that knows CONNECT.
func connectProxy(t *testing.T) (*url.URL, *atomic.Int32) {
	used := new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		out, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer out.Close()
		var in net.Conn
		var buf *bufio.ReadWriter
		if in, buf, err = w.(http.Hijacker).Hijack(); err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		used.Add(1)
		io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(out, buf)
			out.Close()
		}()
		io.Copy(in, out)
		in.Close()
		<-done
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u, used
}

// TestManyClients: two hundred at once, in pairs, each with a message each way.
func TestManyClients(t *testing.T) {
	ts := serve(t, ServerConfig{})
	type couple struct{ h, g *Mailbox }
	var couples []couple
	for i := range 100 {
		box := pad(fmt.Sprint("box", i))
		slow := ClientConfig{URL: ts.address, Handshake: patience} // all of them at once
		host, guest := start(t, slow), start(t, slow)
		couples = append(couples, couple{host.Join(box, RoleHost), guest.Join(box, RoleGuest)})
	}
	for _, c := range couples {
		for _, m := range []*Mailbox{c.h, c.g} {
			next(t, m, Joined)
			next(t, m, PeerHere)
			next(t, m, NewCredentials)
		}
	}
	for _, c := range couples {
		exchange(t, c.h, c.g, 1)
	}
	if st := ts.Stats(); st.Connections != 200 || st.Mailboxes != 100 || st.Relayed != 200 || st.Overflows+st.Breaches != 0 {
		t.Errorf("%+v", st)
	}
}
