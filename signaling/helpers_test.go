package signaling

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// newRand returns a source whose seed a failure shows.
func newRand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// patience is how long a test waits for what must happen.
const patience = time.Minute

// A testServer is a Server on a loopback port.
type testServer struct {
	*Server
	http    *http.Server
	addr    string // host:port
	address string // ws://host:port
}

// serve starts a server; the test's end drains it.
func serve(t testing.TB, cfg ServerConfig) *testServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, cfg, ln)
}

// listenAgain opens a port that has just been closed. Until it can: a connection that
// this machine opens meanwhile may have that very port for its own end.
func listenAgain(t testing.TB, addr string) (ln net.Listener) {
	t.Helper()
	until(t, "port "+addr+" is free again", func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", addr)
		return err == nil
	})
	return ln
}

// serveOn is serve on a given listener, with more on top of the server's own.
func serveOn(t testing.TB, cfg ServerConfig, ln net.Listener, more ...func(net.Listener) net.Listener) *testServer {
	t.Helper()
	if cfg.Limits.DrainSpread == 0 {
		cfg.Limits.DrainSpread = time.Nanosecond
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ts := &testServer{Server: s, http: s.HTTPServer(), addr: ln.Addr().String()}
	ts.address = "ws://" + ts.addr
	ln = s.Listener(ln)
	for _, wrap := range more {
		ln = wrap(ln)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := ts.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		ts.stop(t)
		<-served
	})
	return ts
}

// stop ends a server the way a process does. It may be called twice.
func (ts *testServer) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := ts.http.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := ts.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
}

// A raw is a WebSocket that says whatever a test wants.
type raw struct {
	*websocket.Conn
	t testing.TB
}

func dialRaw(t testing.TB, ts *testServer) *raw {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial(ts.address+Path, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { ws.Close() })
	ws.SetReadDeadline(time.Now().Add(patience))
	return &raw{ws, t}
}

// hello dials and is welcomed.
func hello(t testing.TB, ts *testServer) *raw {
	t.Helper()
	r := dialRaw(t, ts)
	r.say(message{Type: typeHello, Version: Version, Token: ts.cfg.Token})
	r.expect(typeWelcome)
	return r
}

func (r *raw) say(m message) {
	r.t.Helper()
	r.sayText(string(encode(m)))
}

func (r *raw) sayText(s string) {
	r.t.Helper()
	if err := r.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
		r.t.Fatalf("write %.60s: %v", s, err)
	}
}

// hear returns the next message.
func (r *raw) hear() (message, error) {
	_, b, err := r.ReadMessage()
	if err != nil {
		return message{}, err
	}
	return decode(b, fromServer)
}

// expect returns the next message, which must have the type.
func (r *raw) expect(typ string) message {
	r.t.Helper()
	m, err := r.hear()
	if err != nil || m.Type != typ {
		r.t.Fatalf("heard %+v, %v; want %s", m, err, typ)
	}
	return m
}

// expectError returns the next message, which must be the error.
func (r *raw) expectError(code Code) message {
	r.t.Helper()
	m := r.expect(typeError)
	if m.Code != code {
		r.t.Fatalf("heard error %s (%s), want %s", m.Code, m.Text, code)
	}
	return m
}

// expectClose reads until the close frame.
func (r *raw) expectClose(code int) {
	r.t.Helper()
	for {
		m, err := r.hear()
		if err == nil {
			continue
		}
		if !websocket.IsCloseError(err, code) {
			r.t.Fatalf("after %+v: %v, want close code %d", m, err, code)
		}
		return
	}
}

// until waits for a condition that no event tells.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A pair is a host and a guest in one mailbox, who exchange messages.
type pair struct{ host, guest *raw }

func newPair(t testing.TB, ts *testServer, box string) pair {
	t.Helper()
	p := pair{hello(t, ts), hello(t, ts)}
	p.host.say(message{Type: typeJoin, Mailbox: pad(box), Role: RoleHost, Seat: randomSeat()})
	p.host.expect(typeJoined)
	p.guest.say(message{Type: typeJoin, Mailbox: pad(box), Role: RoleGuest, Seat: randomSeat()})
	p.guest.expect(typeJoined)
	p.guest.expect(typePeer)
	p.host.expect(typePeer)
	p.host.expect(typeCredentials)
	p.guest.expect(typeCredentials)
	return p
}

// check sends one message each way.
func (p pair) check(t testing.TB, box string) {
	t.Helper()
	p.host.say(message{Type: typeSend, Mailbox: pad(box), To: 1, Body: []byte("to guest")})
	if m := p.guest.expect(typeMessage); string(m.Body) != "to guest" || m.From != HostSeat {
		t.Fatalf("guest got %+v", m)
	}
	p.guest.say(message{Type: typeSend, Mailbox: pad(box), Body: []byte("to host")})
	if m := p.host.expect(typeMessage); string(m.Body) != "to host" || m.From != 1 {
		t.Fatalf("host got %+v", m)
	}
}

// A testClient is a client that runs.
type testClient struct {
	*Client
	t      testing.TB
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // of Run, once done is closed
}

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

var errTestOver = errors.New("the test is over")

// start runs a client; the test's end stops it.
func start(t testing.TB, cfg ClientConfig) *testClient {
	t.Helper()
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, c)
}

func run(t testing.TB, c *Client) *testClient {
	ctx, cancel := context.WithCancelCause(context.Background())
	tc := &testClient{Client: c, t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(tc.done)
		tc.err = c.Run(ctx)
	}()
	t.Cleanup(tc.stop)
	return tc
}

func (tc *testClient) stop() {
	tc.cancel(errTestOver)
	<-tc.done
}

// next returns the next event of a mailbox, which must be of the kind.
func next(t testing.TB, m *Mailbox, kind EventKind) Event {
	t.Helper()
	return nextWithin(t, m, kind, patience)
}

// nextWithin is next with a bar.
func nextWithin(t testing.TB, m *Mailbox, kind EventKind, bar time.Duration) Event {
	t.Helper()
	timeout := time.NewTimer(bar)
	defer timeout.Stop()
	select {
	case e, ok := <-m.Events():
		if !ok || e.Kind != kind {
			t.Fatalf("event %v %+v (open %v), want %v", e.Kind, e, ok, kind)
		}
		return e
	case <-timeout.C:
		t.Fatalf("no event within %v, want %v", bar, kind)
	}
	panic("not reached")
}

// meet joins a host and a guest and returns both mailboxes with the events of
// the meeting read.
func meet(t testing.TB, host, guest *testClient, box string) (h, g *Mailbox) {
	t.Helper()
	h = host.Join(pad(box), RoleHost)
	if e := next(t, h, Joined); e.Present {
		t.Fatal("somebody is there already")
	}
	g = guest.Join(pad(box), RoleGuest)
	if e := next(t, g, Joined); !e.Present {
		t.Fatal("the host is not there")
	}
	met(t, h, g)
	return h, g
}

// met reads what both sides hear of each other.
func met(t testing.TB, h, g *Mailbox) {
	t.Helper()
	next(t, g, PeerHere)
	next(t, g, NewCredentials)
	next(t, h, PeerHere)
	next(t, h, NewCredentials)
}

// exchange sends one message each way.
func exchange(t testing.TB, h, g *Mailbox, guest Seat) {
	t.Helper()
	if err := h.Send(t.Context(), guest, []byte("to guest")); err != nil {
		t.Fatal(err)
	}
	if e := next(t, g, Message); string(e.Body) != "to guest" || e.From != HostSeat {
		t.Fatalf("guest got %+v", e)
	}
	if err := g.Send(t.Context(), HostSeat, []byte("to host")); err != nil {
		t.Fatal(err)
	}
	if e := next(t, h, Message); string(e.Body) != "to host" || e.From != guest {
		t.Fatalf("host got %+v", e)
	}
}
