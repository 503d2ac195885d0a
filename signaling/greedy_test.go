package signaling

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// saying is a server that says what it likes after the first join.
func saying(t *testing.T, say func(ws *websocket.Conn)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for joined := false; !joined; {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			joined = bytes.Contains(b, []byte(`"join"`))
		}
		say(ws)
		ws.ReadMessage() // until the client has had enough
	}))
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http")
}

// greedy is one that lets its client write next to nothing.
func greedy(t *testing.T, say func(ws *websocket.Conn)) string {
	t.Helper()
	return saying(t, func(ws *websocket.Conn) {
		sayAll(1, `{"type":"welcome","version":1,"rate":1,"byte_rate":1}`)(ws)
		say(ws)
	})
}

func sayAll(n int, lines ...string) func(ws *websocket.Conn) {
	return func(ws *websocket.Conn) {
		for range n {
			for _, line := range lines {
				if ws.WriteMessage(websocket.TextMessage, []byte(line)) != nil {
					return
				}
			}
		}
	}
}

// TestGreedyServer: no server makes a client keep more and more.
func TestGreedyServer(t *testing.T) {
	box := `"mailbox":"` + pad("box") + `"`
	last := `{"type":"joined",` + box + `}`
	tests := []struct {
		name string
		say  func(ws *websocket.Conn)
		lost string // how the connection ends; empty: it does not
	}{
		{name: "answers to claims that were never made", say: func(ws *websocket.Conn) {
			sayAll(20000, `{"type":"claimed","ref":999999,"mailbox":"1234"}`)(ws)
			sayAll(1, last)(ws)
		}},
		{name: "ever more peers", lost: "more peers", say: func(ws *websocket.Conn) {
			sayAll(1, last)(ws)
			for i := range 2 * maxPeers {
				sayAll(1, string(encode(message{Type: typePeer, Mailbox: pad("box"), From: Seat(i), Present: true})))(ws)
			}
		}},
		{name: "peers that come and go", say: func(ws *websocket.Conn) {
			sayAll(1, last)(ws)
			for i := range maxPeers + 10 {
				sayAll(1, string(encode(message{Type: typePeer, Mailbox: pad("box"), From: Seat(i), Present: true})),
					string(encode(message{Type: typePeer, Mailbox: pad("box"), From: Seat(i)})))(ws)
			}
			sayAll(1, last)(ws)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := start(t, ClientConfig{URL: greedy(t, tt.say), MinBackoff: time.Hour, MaxBackoff: time.Hour})
			m := c.Join(pad("box"), RoleHost)
			end := time.NewTimer(patience)
			defer end.Stop()
			joined := 0
			for want := 1 + strings.Count(tt.name, "come and go"); tt.lost != "" || joined < want; {
				select {
				case e := <-m.Events():
					if e.Kind == Joined {
						joined++
					}
					if e.Kind == Lost && tt.lost != "" && strings.Contains(e.Err.Error(), tt.lost) {
						return
					}
					if e.Kind == Lost || e.Kind == Failed {
						t.Fatalf("the connection ended: %v, want %q", e.Err, tt.lost)
					}
				case <-end.C:
					t.Fatal("the client still listens")
				}
			}
			c.mu.Lock()
			l := c.link
			c.mu.Unlock()
			l.mu.Lock()
			defer l.mu.Unlock()
			if n := len(l.queue); n > 0 {
				t.Errorf("%d messages wait to be sent", n)
			}
		})
	}
}

// TestTooMuchToSay: a server that lets a client write too slowly loses it.
func TestTooMuchToSay(t *testing.T) {
	c := start(t, ClientConfig{URL: greedy(t, sayAll(1, `{"type":"joined","mailbox":"`+pad("box")+`"}`)), MinBackoff: time.Hour, MaxBackoff: time.Hour})
	m := c.Join(pad("box"), RoleHost)
	next(t, m, Joined)
	for range maxQueue + 10 {
		m.ask(make(chan credentialsAnswer, 1)) // an error once the connection is lost
	}
	if e := next(t, m, Lost); !errors.Is(e.Err, errQueue) {
		t.Errorf("lost: %v", e.Err)
	}
}

// TestClaimGivenUp: a nameplate that comes too late is left.
func TestClaimGivenUp(t *testing.T) {
	asked, given := make(chan struct{}), make(chan struct{})
	left := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		sayAll(1, `{"type":"welcome","version":1,"rate":100,"byte_rate":65536}`)(ws)
		ws.ReadMessage() // hello
		ws.ReadMessage() // claim
		close(asked)
		<-given
		sayAll(1, `{"type":"claimed","ref":2,"mailbox":"2345"}`, `{"type":"claimed","ref":1,"mailbox":"1234"}`)(ws)
		_, b, _ := ws.ReadMessage()
		left <- string(b)
		ws.ReadMessage()
	}))
	t.Cleanup(srv.Close)
	c := start(t, ClientConfig{URL: "ws" + strings.TrimPrefix(srv.URL, "http")})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(errTestOver)
	}()
	if _, _, err := c.Claim(ctx); !errors.Is(err, errTestOver) {
		t.Fatalf("claim: %v", err)
	}
	close(given)
	select {
	case got := <-left:
		if want := string(encode(message{Type: typeLeave, Mailbox: "1234"})); got != want {
			t.Errorf("the client said %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Error("the client does not leave")
	}
}
