package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// absence is how long a connector looks for a peer that does not come: time enough to
// reach the server and hear so.
const absence = 3 * time.Second

// deployment is a signaling server and a relay on loopback.
type deployment struct {
	url   string
	relay *relay.Server
	web   *httptest.Server
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	return deployWith(t, func(*signaling.ServerConfig, []byte) {})
}

// deployWith is deploy with a signaling server that says something else; change
// is told the relay's secret.
func deployWith(t *testing.T, change func(cfg *signaling.ServerConfig, secret []byte)) *deployment {
	t.Helper()
	secret := []byte("a secret of this test")
	rs, err := relay.NewServer(relay.ServerConfig{
		PublicIP: netip.MustParseAddr("127.0.0.1"), Secrets: [][]byte{secret},
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { rs.Serve(ctx) })
	var stun []string
	for _, a := range rs.STUNAddrs() {
		stun = append(stun, "stun:"+a.String())
	}
	cfg := signaling.ServerConfig{
		Token: "token", STUN: stun,
		TURN: []string{"turn:" + rs.UDPAddr().String() + "?transport=udp", "turn:" + rs.StreamAddr("tcp").String() + "?transport=tcp"},
		Mint: func(user string, now time.Time) signaling.Credentials {
			name, pass := relay.Mint(secret, user, time.Hour, now)
			return signaling.Credentials{Username: name, Password: pass, TTL: time.Hour}
		},
	}
	change(&cfg, secret)
	ss, err := signaling.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(ss)
	t.Cleanup(func() {
		drained, done := context.WithTimeout(context.Background(), 10*time.Millisecond)
		ss.Drain(drained)
		done()
		web.Close()
		cancel()
		rs.Close()
		running.Wait()
	})
	return &deployment{url: "ws" + strings.TrimPrefix(web.URL, "http") + "#token", relay: rs, web: web}
}

// machine is one host: a key, a store, a recorder of events.
type machine struct {
	cfg    Config
	events *log
}

// log keeps what was recorded and lets a test wait for something.
type log struct {
	mu      sync.Mutex
	records []trace.Record
	changed chan struct{}
}

func (l *log) Record(r trace.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	close(l.changed)
	l.changed = make(chan struct{})
}

// len is how many records there are.
func (l *log) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records)
}

// until waits for what no event tells.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// find returns the first event of type E, from record number at on, that ok
// accepts, and the number behind it.
func find[E trace.Event](l *log, at int, ok func(E) bool) (E, int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := at; i < len(l.records); i++ {
		if e, is := l.records[i].Event.(E); is && ok(e) {
			return e, i + 1, nil
		}
	}
	return *new(E), 0, l.changed
}

// await waits for an event.
func await[E trace.Event](t *testing.T, l *log, at int, ok func(E) bool) (E, int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		e, next, changed := find(l, at, ok)
		if changed == nil {
			return e, next
		}
		select {
		case <-changed:
		case <-deadline:
			l.dump(t)
			t.Fatalf("no such %T within %v", e, patience)
		}
	}
}

func (l *log) dump(t *testing.T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		b, _ := r.MarshalJSON()
		t.Log(string(b))
	}
}

func newMachine(t *testing.T, d *deployment, name string) *machine {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	store, err := identity.OpenStore(filepath.Join(t.TempDir(), "peers.json"))
	if err != nil {
		t.Fatal(err)
	}
	events := &log{changed: make(chan struct{})}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Cleanup(func() { endsInOurWords(t, events) })
	return &machine{events: events, cfg: Config{
		Name: name, Key: key, Peers: store, SignalURL: d.url, Loopback: true, Version: "test", Trace: trace.New(name, events),
	}}
}

// endsInOurWords requires of every link that ended, in whatever test, that people can
// read why.
func endsInOurWords(t *testing.T, events *log) {
	t.Helper()
	find(events, 0, func(e trace.SessionState) bool {
		for _, text := range []error{context.Canceled, context.DeadlineExceeded, net.ErrClosed} {
			if strings.Contains(e.Why, text.Error()) {
				t.Errorf("a link ended with the words of a library: %s", e.Why)
			}
		}
		return false
	})
}

// twoMachines is what most tests begin with: a deployment, two machines, and a
// target that b allows.
func twoMachines(t *testing.T) (d *deployment, a, b *machine, target string) {
	t.Helper()
	return twoMachinesOf(t, deploy(t))
}

func twoMachinesOf(t *testing.T, d *deployment) (_ *deployment, a, b *machine, target string) {
	t.Helper()
	a, b, target = newMachine(t, d, "a"), newMachine(t, d, "b"), echo(t)
	b.cfg.Allow = allow(t, target)
	return d, a, b, target
}

// befriend makes two machines known to each other without pairing.
func befriend(t *testing.T, a, b *machine) (aOfB, bOfA identity.Peer) {
	t.Helper()
	var secret identity.Secret
	rand.Read(secret[:])
	put := func(m, other *machine) identity.Peer {
		p, err := m.cfg.Peers.Put(identity.Peer{Name: other.cfg.Name, Fingerprint: other.cfg.Key.Fingerprint(), Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return put(a, b), put(b, a)
}

// start runs f until the test ends.
func start(t *testing.T, f func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(patience):
				t.Errorf("did not end within %v", patience)
			}
		})
		return err
	}
	t.Cleanup(func() { stop() })
	return stop
}

func startListener(t *testing.T, m *machine) (stop func() error) {
	t.Helper()
	ls, err := NewListener(m.cfg, ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, ls.Run)
}

func startConnector(t *testing.T, m *machine, peer identity.Peer, cc ConnectConfig) (*Connector, func() error) {
	t.Helper()
	c, err := NewConnector(m.cfg, peer, cc)
	if err != nil {
		t.Fatal(err)
	}
	return c, start(t, c.Run)
}

// echo is a TCP target that sends back what it got.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				io.Copy(c, c)
				c.(*net.TCPConn).CloseWrite()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// freePort returns a TCP port of 127.0.0.1 that is free, from above those that Linux
// picks for anybody, so that it still is when it is opened.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 61000+mathrand.IntN(4000)))
		if err == nil {
			ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func allow(t *testing.T, entries ...string) *forward.AllowList {
	t.Helper()
	l, err := forward.ParseAllow(net.DefaultResolver, entries)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// forwardTo opens -L to a target and returns the local address.
func forwardTo(t *testing.T, c *Connector, target string) string {
	t.Helper()
	locals, err := OpenLocals(t.Context(), []forward.Spec{{Bind: "127.0.0.1:0", Target: target}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, func(ctx context.Context) error { return c.ServeLocals(ctx, locals) })
	return locals[0].Listeners.Addr().String()
}

// roundTrip sends n random bytes through addr and compares what comes back.
func roundTrip(t *testing.T, addr string, n int) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	payload := make([]byte, n)
	rand.Read(payload)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(payload)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatalf("after %d bytes: %v", len(got), err)
	}
	if sha256.Sum256(got) != sha256.Sum256(payload) {
		t.Fatalf("%d of %d bytes came back, or others", len(got), n)
	}
}

func movedTo(kind string) func(trace.PathChanged) bool {
	return func(e trace.PathChanged) bool { return e.To != nil && e.To.Kind == kind }
}
