package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
)

// middle is a hostile signaling server: all of a real one, and between it and
// the agents somebody who drops, repeats, replays, reorders, reflects and
// crosses messages, changes their bits, types and versions, and lies about who
// is there. It knows everything but the secrets.
type middle struct {
	url string

	mu      sync.Mutex
	hostile bool
	rng     *rand.Rand
	bodies  [][]byte       // that went by, whosever they were
	boxes   []string       // likewise
	did     map[string]int // how often each thing was done
	conns   map[*websocket.Conn]bool
}

const hostile, honest = true, false

// interpose puts a middle before a deployment.
func interpose(t *testing.T, d *deployment) *middle {
	t.Helper()
	address, token, _ := strings.Cut(d.url, "#")
	m := &middle{rng: rand.New(rand.NewPCG(1, 2)), did: make(map[string]int), conns: make(map[*websocket.Conn]bool)}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.carry(w, r, address) }))
	m.url = "ws" + strings.TrimPrefix(web.URL, "http") + "#" + token
	t.Cleanup(func() {
		m.hangUp()
		web.Close()
	})
	return m
}

// carry is one agent's connection.
func (m *middle) carry(w http.ResponseWriter, r *http.Request, upstream string) {
	agent, err := new(websocket.Upgrader).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	server, _, err := websocket.DefaultDialer.Dial(upstream+r.URL.Path, nil)
	if err != nil {
		agent.Close()
		return
	}
	m.mu.Lock()
	m.conns[agent] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.conns, agent)
		m.mu.Unlock()
	}()
	var running sync.WaitGroup
	pump := func(from, to *websocket.Conn) {
		defer to.Close()
		defer from.Close()
		var held [][]byte // until the next one has passed
		for {
			_, b, err := from.ReadMessage()
			if err != nil {
				return
			}
			passed, later := m.tamper(b)
			for _, b := range append(passed, held...) {
				if to.WriteMessage(websocket.TextMessage, b) != nil {
					return
				}
			}
			held = later
		}
	}
	running.Go(func() { pump(agent, server) })
	running.Go(func() { pump(server, agent) })
	running.Wait()
}

// turn makes it a hostile server, or an honest one to which everybody has to
// come anew.
func (m *middle) turn(hostile bool) {
	m.mu.Lock()
	m.hostile = hostile
	m.mu.Unlock()
	if !hostile {
		m.hangUp()
	}
}

func (m *middle) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.Close()
	}
}

// tamper returns what arrives in the place of a frame, and what arrives behind
// the next one.
func (m *middle) tamper(frame []byte) (now, later [][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var f map[string]any
	if json.Unmarshal(frame, &f) != nil {
		return [][]byte{frame}, nil
	}
	text, _ := f["body"].(string)
	body, _ := base64.StdEncoding.DecodeString(text)
	box, _ := f["mailbox"].(string)
	if len(body) > 0 {
		m.bodies = append(m.bodies, body)
	}
	if box != "" && !slices.Contains(m.boxes, box) {
		m.boxes = append(m.boxes, box)
	}
	if !m.hostile || m.rng.IntN(100) >= 15 {
		return [][]byte{frame}, nil
	}
	do := func(what string, changed ...map[string]any) [][]byte {
		m.did[what]++
		var out [][]byte
		for _, c := range changed {
			b, _ := json.Marshal(c) // of what was JSON a moment ago
			out = append(out, b)
		}
		return out
	}
	with := func(key string, value any) map[string]any {
		c := maps.Clone(f)
		c[key] = value
		return c
	}
	bodied := func(b []byte) map[string]any { return with("body", base64.StdEncoding.EncodeToString(b)) }
	switch f["type"] {
	case "send", "message":
		switch m.rng.IntN(12) {
		case 0:
			return do("drop"), nil
		case 1:
			return do("repeat", f, f), nil
		case 2:
			return nil, do("reorder", f)
		case 3:
			return do("replay", bodied(m.bodies[m.rng.IntN(len(m.bodies))])), nil
		case 4:
			return do("replay before", bodied(m.bodies[m.rng.IntN(len(m.bodies))]), f), nil
		case 5:
			return do("cross", with("mailbox", m.boxes[m.rng.IntN(len(m.boxes))])), nil
		case 6:
			b := slices.Clone(body)
			b[0] ^= byte(1 + m.rng.IntN(3)) // hello, answer, sealed: whose turn it is
			return do("type", bodied(b)), nil
		case 7:
			b := slices.Clone(body)
			b[min(1, len(b)-1)]++
			return do("version", bodied(b)), nil
		case 8:
			return do("cut", bodied(body[:1+m.rng.IntN(len(body))])), nil
		case 9: // as a counterpart that is not there, or is somebody else
			return do("seat", with("from", m.rng.IntN(4))), nil
		default:
			b := slices.Clone(body)
			for range 1 + m.rng.IntN(3) {
				b[m.rng.IntN(len(b))] ^= 1 << m.rng.IntN(8) // ephemeral keys, tags, sealed candidates
			}
			return do("bits", bodied(b)), nil
		}
	case "join":
		if f["role"] == "guest" {
			return do("other room", with("mailbox", m.boxes[m.rng.IntN(len(m.boxes))])), nil
		}
	case "peer", "joined":
		if m.rng.IntN(4) == 0 {
			present, _ := f["present"].(bool)
			return do("lie about presence", with("present", !present)), nil
		}
		return do("repeat presence", f, f), nil
	case "credentials":
		if m.rng.IntN(2) == 0 {
			return do("no relay"), nil
		}
		return do("other relay", with("uris", []string{"turn:127.0.0.1:1?transport=udp", "no URI", "turn:[::1]"})), nil
	}
	return [][]byte{frame}, nil
}

// missing lists what was not done yet.
func (m *middle) missing(all []string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(all), func(what string) bool { return m.did[what] > 0 })
}

// report tells what was done, and requires that the server could read nothing.
func (m *middle) report(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Log(m.did)
	for _, b := range m.bodies {
		for _, word := range []string{"candidates", "127.0.0.1", "alice", "desk"} {
			if strings.Contains(string(b), word) {
				t.Fatalf("the server can read %q", b)
			}
		}
	}
}

// announcer is a TCP target that says a name.
func announcer(t *testing.T, name string) string {
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
			io.WriteString(c, name)
			c.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return ln.Addr().String()
}

// wrongSession asks the other end of a session who it is, and returns an error
// when that is not who it should be. A session that ends meanwhile proves
// nothing.
func wrongSession(ctx context.Context, s *session.Session, target, name string) error {
	stream, err := s.Open(ctx, session.Header{Kind: session.KindDial, Target: target})
	if err != nil {
		return nil
	}
	defer stream.Reset(session.CodeReset)
	defer context.AfterFunc(ctx, func() { stream.Reset(session.CodeReset) })()
	got, err := io.ReadAll(stream)
	var refused *session.RefusedError
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("%s does not serve its own target: %w", name, err)
	case err == nil && string(got) != name:
		return fmt.Errorf("session with %q, want %s", got, name)
	}
	return nil
}

// a couple is a machine that connects, and one that it knows and that listens.
type couple struct {
	alice  *machine
	peer   identity.Peer
	name   string // what the target of the peer says
	target string
}

// meet links once, within a time. It returns whether there was a session, and
// an error when that was with somebody else. What else happens is the server's
// doing.
func (c couple) meet(ctx context.Context, within time.Duration) (met bool, err error) {
	up := make(chan error, 1)
	connector, err := NewConnector(c.alice.cfg, c.peer, ConnectConfig{Handle: func(ctx context.Context, s *session.Session) {
		select {
		case up <- wrongSession(ctx, s, c.target, c.name):
		default:
		}
	}})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		connector.Run(ctx)
	}()
	select {
	case err = <-up:
		met = true
	case <-ctx.Done():
	case <-ended:
	}
	cancel()
	<-ended
	return met, err
}

// Whatever the server does, no agent has a session with another one than it
// knows, and when the server does its work again, so do all listeners, which
// were there all the time.
func TestHostileServer(t *testing.T) {
	const pairs, runs = 16, 208
	d := deploy(t)
	m := interpose(t, d)
	var couples []couple
	for i := range pairs {
		name := fmt.Sprintf("desk%d", i)
		a, b := newMachine(t, d, fmt.Sprintf("alice%d", i)), newMachine(t, d, name)
		a.cfg.SignalURL, b.cfg.SignalURL = m.url, m.url
		target := announcer(t, name)
		b.cfg.Allow = allow(t, target)
		peer, _ := befriend(t, a, b)
		startListener(t, b)
		couples = append(couples, couple{a, peer, name, target})
	}
	everybody := func(runs int, within time.Duration) (sessions int) {
		var met atomic.Int64
		var running sync.WaitGroup
		for i, c := range couples {
			running.Go(func() {
				for range runs {
					ok, err := c.meet(t.Context(), within)
					if err != nil {
						t.Errorf("pair %d: %v", i, err)
					}
					if ok {
						met.Add(1)
					}
				}
			})
		}
		running.Wait()
		return int(met.Load())
	}
	began := time.Now()
	if n := everybody(1, patience); n != pairs {
		t.Fatalf("%d of %d pairs met at an honest server", n, pairs)
	}
	usual := time.Since(began) // on this machine, now
	m.turn(hostile)
	within := min(max(300*time.Millisecond, 2*usual), time.Second)
	n := everybody(runs/pairs, within)
	all := []string{"drop", "repeat", "reorder", "replay", "replay before", "cross", "type", "version", "cut", "seat", "bits",
		"other room", "lie about presence", "repeat presence", "no relay", "other relay"}
	more := 0
	for ; (n == 0 || len(m.missing(all)) > 0) && more < 8; more++ { // a machine that has become slower
		within = min(2*within, patience)
		n += everybody(1, within)
	}
	t.Logf("%d of %d runs had a session", n, runs+more*pairs)
	if n == 0 {
		t.Error("no run had a session: the server is more than hostile")
	}
	if left := m.missing(all); len(left) > 0 {
		t.Errorf("%q was never done: the test does not try what it should", left)
	}
	m.report(t)

	m.turn(honest)
	if n := everybody(1, patience); n != pairs {
		t.Errorf("after it all, %d of %d pairs met", n, pairs)
	}
}

// The same for pairing: whoever is stored is who had the code.
func TestHostileServerAtPairing(t *testing.T) {
	const workers, runs = 8, 24 // the server lets one address claim 30 numbers at once
	d := deploy(t)
	m := interpose(t, d)
	m.turn(hostile)
	type machines struct{ alice, desk *machine }
	all := make([]machines, runs)
	for i := range all {
		all[i] = machines{newMachine(t, d, "alice"), newMachine(t, d, "desk")}
		all[i].alice.cfg.SignalURL, all[i].desk.cfg.SignalURL = m.url, m.url
	}
	pair := func(ctx context.Context, p machines) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		codes, ended := make(chan identity.Code, maxCodes), make(chan error, 1)
		ls, err := NewListener(p.desk.cfg, ListenConfig{OnCode: func(c identity.Code, _ string) { codes <- c }})
		if err != nil {
			return err
		}
		go func() { ended <- ls.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		select {
		case code := <-codes:
			_, err := Pair(ctx, p.alice.cfg, code, "")
			return err
		case err := <-ended:
			ended <- nil
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	check := func(p machines) (stored int) {
		for _, side := range []struct{ at, other *machine }{{p.alice, p.desk}, {p.desk, p.alice}} {
			peers, err := side.at.cfg.Peers.List()
			if err != nil {
				t.Error(err)
			}
			for _, peer := range peers {
				stored++
				if peer.Fingerprint != side.other.cfg.Key.Fingerprint() || peer.Name != side.other.cfg.Name {
					t.Errorf("%s has paired with %s, which is not %s", side.at.cfg.Name, peer.Fingerprint, side.other.cfg.Key.Fingerprint())
				}
			}
		}
		return stored
	}
	var paired atomic.Int64
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := w; i < runs; i += workers {
				ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
				pair(ctx, all[i]) // an error is what a hostile server can have
				cancel()
				if check(all[i]) == 2 {
					paired.Add(1)
				}
			}
		})
	}
	running.Wait()
	t.Logf("%d of %d paired", paired.Load(), runs)
	m.report(t)
	m.turn(honest)
	last := machines{newMachine(t, d, "alice"), newMachine(t, d, "desk")}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := pair(ctx, last); err != nil || check(last) != 2 {
		t.Errorf("after it all: %v", err)
	}
}
