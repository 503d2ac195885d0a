package signaling

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// These tests run on a clock of their own: hours cost nothing, and the
// defaults of both sides are what is tested.

// bubble runs a test with a server and a network whose clock is not real.
func bubble(t *testing.T, cfg ServerConfig, f func(t *testing.T, n *pipeNet, ts *testServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newPipeNet()
		f(t, n, serveOn(t, cfg, n))
	})
}

func TestIdleConnectionsLive(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, _ *testServer) {
		h, g := meet(t, n.client(t, ClientConfig{}), n.client(t, ClientConfig{}), "box")
		time.Sleep(24 * time.Hour)
		exchange(t, h, g, 1)
		if d := n.dials.Load(); d != 2 {
			t.Errorf("%d connections in a quiet day, want 2", d)
		}
	})
}

// TestJoinedWithinTwoRoundTrips: one for the WebSocket handshake, one for
// hello and join together; the peer knows half of one earlier.
func TestJoinedWithinTwoRoundTrips(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, _ *testServer) {
		host := n.client(t, ClientConfig{})
		h := host.Join(pad("box"), RoleHost)
		next(t, h, Joined)

		const rtt = 100 * time.Millisecond
		n.lag.Store(int64(rtt / 2))
		c, err := NewClient(ClientConfig{URL: "ws://192.0.2.1", Dial: n.dial})
		if err != nil {
			t.Fatal(err)
		}
		g := c.Join(pad("box"), RoleGuest) // before there is a connection
		began := time.Now()
		running := run(t, c)
		next(t, h, PeerHere)
		if took := time.Since(began); took != 3*rtt/2 {
			t.Errorf("the peer knows after %v", took)
		}
		next(t, g, Joined)
		next(t, g, PeerHere)
		if took := time.Since(began); took != 2*rtt {
			t.Errorf("joined after %v", took)
		}
		if up, _, _ := running.State(); !up || running.RTT() != rtt {
			t.Errorf("RTT %v, want %v", running.RTT(), rtt)
		}
	})
}

// TestSilence: a connection that carries nothing any more is noticed by the
// server within 45 s and by the client about as soon, and the client comes
// back to its seat.
func TestSilence(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, _ *testServer) {
		host := n.client(t, ClientConfig{})
		h := host.Join(pad("box"), RoleHost)
		next(t, h, Joined)
		guest := n.client(t, ClientConfig{}) // the last to connect
		g := guest.Join(pad("box"), RoleGuest)
		next(t, g, Joined)
		met(t, h, g)

		heard := func(d time.Duration) bool { return time.Since(guest.Heard()) < d }
		time.Sleep(5 * time.Second)
		if guest.Check(); heard(time.Second) {
			t.Error("heard before it was asked")
		}
		if synctest.Wait(); !heard(time.Second) {
			t.Errorf("asked, and heard %v ago", time.Since(guest.Heard()))
		}
		n.cutLast()
		cut := time.Now()
		time.Sleep(3 * time.Second)
		guest.Check()
		if synctest.Wait(); heard(3 * time.Second) {
			t.Error("heard through a connection that carries nothing")
		}
		nextWithin(t, h, PeerGone, 45*time.Second)
		if e := nextWithin(t, g, Lost, 45*time.Second); !strings.Contains(e.Err.Error(), "silent for 40 s") {
			t.Errorf("%v", e.Err)
		}
		if took := time.Since(cut); took > 45*time.Second {
			t.Errorf("noticed after %v", took)
		}
		nextWithin(t, g, Joined, time.Second)
		met(t, h, g)
		exchange(t, h, g, 2)
	})
}

// TestTakeOverFromDeadConnection: the client is back before the server has
// noticed anything.
func TestTakeOverFromDeadConnection(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
		guest, host := n.client(t, ClientConfig{}), n.client(t, ClientConfig{})
		g := guest.Join(pad("box"), RoleGuest)
		next(t, g, Joined)
		h := host.Join(pad("box"), RoleHost)
		next(t, h, Joined)
		met(t, h, g)

		synctest.Wait() // the readers wait: one that is busy would miss that a cut connection was closed
		n.cutAll()
		began := time.Now()
		host.Kick("of a test")
		guest.Kick("of a test")
		synctest.Wait()
		for _, m := range []*Mailbox{h, g} {
			if e := next(t, m, Lost); !errors.As(e.Err, new(*kick)) {
				t.Errorf("%v", e.Err)
			}
			next(t, m, Joined)
			if last := drain(t, m); last.Kind != NewCredentials { // of the last meeting
				t.Errorf("the last event is %v", last.Kind)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("kicked, and back only after %v", took)
		}
		exchange(t, h, g, 1)
		time.Sleep(45 * time.Second)
		if st := ts.Stats(); st.Connections != 2 {
			t.Errorf("dead connections are kept: %+v", st)
		}
		exchange(t, h, g, 1) // and their end did not take the seats along
	})
}

func TestKick(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, _ *testServer) {
		c := n.client(t, ClientConfig{MinBackoff: time.Hour, MaxBackoff: time.Hour, Handshake: time.Hour})
		m := c.Join(pad("box"), RoleHost)
		next(t, m, Joined)
		began := time.Now()

		n.down.Store(true)
		c.Kick("of a test") // while connected
		synctest.Wait()
		next(t, m, Lost)
		n.down.Store(false)
		n.stuck.Store(true)
		c.Kick("of a test") // while waiting for the next attempt
		synctest.Wait()
		n.stuck.Store(false)
		c.Kick("of a test") // while dialing
		next(t, m, Joined)
		if took, d := time.Since(began), n.dials.Load(); took != 0 || d != 4 {
			t.Errorf("%d attempts in %v, want 4 at once", d, took)
		}
	})
}

// TestKickInHandshake: a server that takes the connection and does not answer
// the upgrade holds up neither Kick nor the end.
func TestKickInHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipeNet()
		over := make(chan struct{})
		go func() {
			defer close(over)
			for conn, err := n.Accept(); err == nil; conn, err = n.Accept() {
				conn.Read(make([]byte, 4096))
				defer conn.Close()
			}
		}()
		began := time.Now()
		c := n.client(t, ClientConfig{})
		synctest.Wait()
		c.Kick("of a test")
		synctest.Wait()
		if d := n.dials.Load(); d != 2 {
			t.Errorf("%d attempts, want 2", d)
		}
		c.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("held up for %v", took)
		}
		n.Close()
		<-over
	})
}

// TestReconnectBackoff: from 200 ms to 10 s, and soon back when the network is.
func TestReconnectBackoff(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, _ *testServer) {
		n.down.Store(true)
		c := n.client(t, ClientConfig{})
		m := c.Join(pad("box"), RoleHost)
		if e := next(t, m, Lost); !strings.Contains(e.Err.Error(), "network is down") {
			t.Errorf("%v", e.Err)
		}
		time.Sleep(3 * time.Second)
		if d := n.dials.Load(); d < 4 || d > 15 {
			t.Errorf("%d attempts in the first 3 s", d)
		}
		time.Sleep(time.Hour)
		if d := n.dials.Load(); d < 360 || d > 3600 {
			t.Errorf("%d attempts in an hour", d)
		}
		if up, _, err := c.State(); up || !strings.Contains(err.Error(), "network is down") {
			t.Errorf("state: %v, %v", up, err)
		}
		n.down.Store(false)
		nextWithin(t, m, Joined, 10*time.Second) // and no second Lost before it

		time.Sleep(6 * time.Second)
		n.down.Store(true)
		n.closeAll()
		next(t, m, Lost)
		n.down.Store(false)
		nextWithin(t, m, Joined, time.Second) // the backoff began anew
	})
}

// TestMuteServer: one that takes connections and says nothing is not what
// ends a client; it may be overloaded.
func TestMuteServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipeNet()
		mute := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			for err == nil {
				_, _, err = ws.ReadMessage()
			}
		})}
		served := make(chan error, 1)
		go func() { served <- mute.Serve(n) }()
		c := n.client(t, ClientConfig{})
		m := c.Join(pad("box"), RoleHost)
		if e := nextWithin(t, m, Lost, 11*time.Second); !strings.Contains(e.Err.Error(), "does not answer hello") {
			t.Errorf("%v", e.Err)
		}
		time.Sleep(time.Minute)
		if d := n.dials.Load(); d < 3 || d > 8 {
			t.Errorf("%d attempts in a minute", d)
		}
		c.stop()
		mute.Close()
		<-served
	})
}

// TestHelloDeadline: nothing but a hello in time keeps a connection, and who is
// late is told. Those beside it notice nothing.
func TestHelloDeadline(t *testing.T) {
	for name, meanwhile := range map[string]func(ws *websocket.Conn) error{
		"nothing": func(*websocket.Conn) error { return nil },
		"pongs": func(ws *websocket.Conn) error {
			return ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second))
		},
		"a frame without an end": slowFrame(),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
				h, g := meet(t, n.client(t, ClientConfig{}), n.client(t, ClientConfig{}), "good")
				d := websocket.Dialer{NetDialContext: n.dial}
				ws, _, err := d.Dial("ws://192.0.2.1:8080"+Path, nil)
				if err != nil {
					t.Fatal(err)
				}
				r := &raw{ws, t}
				began := time.Now()
				over := make(chan struct{})
				defer func() { <-over }()
				defer ws.Close()
				go func() {
					defer close(over)
					for meanwhile(ws) == nil && time.Since(began) < time.Minute {
						time.Sleep(time.Second)
					}
				}()
				r.expectError(CodeNoHello)
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("after %v, want 10 s", took)
				}
				r.expectClose(websocket.ClosePolicyViolation)
				exchange(t, h, g, 1)
			})
		})
	}
}

// slowFrame writes one more byte of a long masked text frame with each call.
func slowFrame() func(*websocket.Conn) error {
	rest := append([]byte{0x81, 0xfe, 0x40, 0}, make([]byte, 1000)...)
	return func(ws *websocket.Conn) error {
		b := rest[:1]
		rest = rest[1:]
		_, err := ws.NetConn().Write(b)
		return err
	}
}

// TestStuckReader: a member whose connection takes nothing at all is out of
// its mailbox at once, not when the write times out.
func TestStuckReader(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
		host := n.client(t, ClientConfig{})
		h := host.Join(pad("box"), RoleHost)
		next(t, h, Joined)
		d := websocket.Dialer{NetDialContext: n.dial}
		ws, _, err := d.Dial("ws://192.0.2.1"+Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.Close()
		guest := &raw{ws, t}
		guest.say(message{Type: typeHello, Version: Version})
		guest.say(message{Type: typeJoin, Mailbox: pad("box"), Role: RoleGuest, Seat: randomSeat()})
		next(t, h, PeerHere)
		next(t, h, NewCredentials)
		began := time.Now()
		for range 20 {
			if err := h.Send(t.Context(), 1, make([]byte, MaxBody)); errors.Is(err, ErrAbsent) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		next(t, h, PeerGone)
		if took := time.Since(began); took > time.Second {
			t.Errorf("gone after %v", took)
		}
		if st := ts.Stats(); st.Parted != 1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(15 * time.Second)
		if st := ts.Stats(); st.Connections != 1 {
			t.Errorf("the stuck connection is kept: %+v", st)
		}
	})
}

// TestRateLimitedJoin: a classroom types its codes at once; all get in, some
// later.
func TestRateLimitedJoin(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
		began := time.Now()
		for range 40 {
			host, guest := n.client(t, ClientConfig{}), n.client(t, ClientConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			number, h, err := host.Claim(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			next(t, h, Joined)
			g := guest.Join(number, RoleGuest)
			nextWithin(t, g, Joined, 2*time.Minute)
			met(t, h, g)
		}
		if st := ts.Stats(); st.RateLimited == 0 {
			t.Errorf("nobody was slowed down: %+v", st)
		}
		if took := time.Since(began); took < 5*time.Second || took > time.Minute {
			t.Errorf("40 joins took %v, of which 30 are a burst and one a second follows", took)
		}
	})
}

func TestNameplateExpires(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
		c := n.client(t, ClientConfig{})
		_, m, err := c.Claim(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		next(t, m, Joined)
		began := time.Now()
		if e := nextWithin(t, m, Failed, 11*time.Minute); !errors.Is(e.Err, ErrExpired) {
			t.Errorf("%v", e.Err)
		}
		if took := time.Since(began); took < 10*time.Minute || took > 10*time.Minute+25*time.Second {
			t.Errorf("expired after %v", took) // a ping at the latest
		}
		if st := ts.Stats(); st.Nameplates != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestGuestComesBackBeforeHost: after a restart the guest of a nameplate waits
// for its host to claim it again.
func TestGuestComesBackBeforeHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipeNet()
		ts := serveOn(t, ServerConfig{}, n)
		host, guest := n.client(t, ClientConfig{MinBackoff: 5 * time.Second}), n.client(t, ClientConfig{})
		number, h, err := host.Claim(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		next(t, h, Joined)
		g := guest.Join(number, RoleGuest)
		next(t, g, Joined)
		met(t, h, g)

		ts.stop(t)
		n.reopen()
		serveOn(t, ServerConfig{}, n)
		time.Sleep(15 * time.Second) // the host has waited its 5 to 10 s
		for _, m := range []*Mailbox{g, h} {
			if last := drain(t, m); last.Kind != NewCredentials {
				t.Fatalf("the last event is %v %v", last.Kind, last.Err)
			}
		}
		exchange(t, h, g, 1)
	})
}

// drain reads the events there are and returns the last.
func drain(t *testing.T, m *Mailbox) (last Event) {
	t.Helper()
	for {
		select {
		case e := <-m.Events():
			if e.Kind == Failed {
				t.Fatal(e.Err)
			}
			last = e
		default:
			return last
		}
	}
}

// TestPace: a client with a lot to say keeps to the server's limits.
func TestPace(t *testing.T) {
	bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
		h, g := meet(t, n.client(t, ClientConfig{}), n.client(t, ClientConfig{}), "box")
		received := make(chan int)
		go func() {
			count := 0
			for e := range h.Events() {
				if e.Kind != Message {
					break
				}
				count++
			}
			received <- count
		}()
		began := time.Now()
		for i := range 400 {
			if err := g.Send(t.Context(), HostSeat, make([]byte, 1+i*20)); err != nil {
				t.Fatal(err)
			}
		}
		g.Close()
		if got := <-received; got != 400 {
			t.Errorf("%d messages arrived", got)
		}
		if st := ts.Stats(); st.RateLimited+st.Overflows+st.Breaches != 0 {
			t.Errorf("%+v", st)
		}
		if took := time.Since(began); took < 5*time.Second || took > 30*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestDrainSpreads: everybody is told to come back, one after the other.
func TestDrainSpreads(t *testing.T) {
	bubble(t, ServerConfig{Limits: Limits{DrainSpread: 10 * time.Second}}, func(t *testing.T, n *pipeNet, ts *testServer) {
		var boxes []*Mailbox
		for i := range 10 {
			// Not to come back within this test.
			c := n.client(t, ClientConfig{MinBackoff: time.Minute, MaxBackoff: time.Minute})
			m := c.Join(pad(fmt.Sprint("box", i)), RoleHost)
			next(t, m, Joined)
			boxes = append(boxes, m)
		}
		began := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- ts.Drain(context.Background()) }()
		lost := make(chan time.Duration, len(boxes))
		for _, m := range boxes {
			go func() {
				if e := <-m.Events(); e.Kind == Lost && strings.Contains(e.Err.Error(), "restarts") {
					lost <- time.Since(began)
				} else {
					lost <- -1
				}
			}()
		}
		if err := <-drained; err != nil {
			t.Errorf("drain: %v", err)
		}
		var at []time.Duration
		for range boxes {
			at = append(at, <-lost)
		}
		slices.Sort(at)
		for i, d := range at {
			if d != time.Duration(i)*time.Second {
				t.Fatalf("closed at %v, want one each second", at)
			}
		}
	})
}
