package signaling

import (
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestFloodedListener: whatever the connections of one peer do in their
// mailbox, a listener that does not read for a while keeps its connection, and
// loses nothing in its other mailboxes.
func TestFloodedListener(t *testing.T) {
	join := encode(message{Type: typeJoin, Mailbox: pad("attacked"), Role: RoleGuest, Seat: randomSeat()})
	leave := encode(message{Type: typeLeave, Mailbox: pad("attacked")})
	send := func(size int) []byte {
		return encode(message{Type: typeSend, Mailbox: pad("attacked"), Body: make([]byte, size)})
	}
	repeat := func(n int, frames ...[]byte) (all [][]byte) {
		for range n {
			all = append(all, frames...)
		}
		return all
	}
	tests := []struct {
		name   string
		guests int
		frames [][]byte // of each, all at once
		parted int64    // at least
	}{
		{"many messages", 2, append([][]byte{join}, repeat(190, send(1))...), 1},
		{"large messages", 2, append([][]byte{join}, repeat(20, send(MaxBody))...), 1},
		{"all guests there may be", 16, append([][]byte{join}, repeat(190, send(100))...), 1},
		{"coming and going", 2, repeat(95, join, leave), 0},
		{"taking each other's place", 4, repeat(20, join, send(1), send(1000)), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, ServerConfig{}, func(t *testing.T, n *pipeNet, ts *testServer) {
				host := n.raw(t)
				for _, box := range []string{"attacked", "innocent"} {
					host.say(message{Type: typeJoin, Mailbox: pad(box), Role: RoleHost, Seat: randomSeat()})
					host.expect(typeJoined)
				}
				for range tt.guests {
					g := n.raw(t)
					go func() { // drop what it hears
						for err := error(nil); err == nil; {
							_, _, err = g.ReadMessage()
						}
					}()
					for _, b := range tt.frames {
						if g.WriteMessage(websocket.TextMessage, b) != nil {
							break // enough for the server
						}
					}
				}
				innocent := n.client(t, ClientConfig{}).Join(pad("innocent"), RoleGuest)
				next(t, innocent, Joined)
				next(t, innocent, PeerHere)
				if err := innocent.Send(t.Context(), HostSeat, []byte("innocent")); err != nil {
					t.Fatal(err)
				}
				for heard := 0; ; heard++ {
					m, err := host.hear()
					if err != nil {
						t.Fatalf("the listener is out after %d messages: %v", heard, err)
					}
					if m.Mailbox == pad("innocent") && m.Type == typeMessage {
						break
					}
				}
				if st := ts.Stats(); st.Overflows != 0 || st.Parted < tt.parted {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// raw connects and is welcomed.
func (n *pipeNet) raw(t *testing.T) *raw {
	t.Helper()
	d := websocket.Dialer{NetDialContext: n.dial}
	ws, _, err := d.Dial("ws://192.0.2.1"+Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	r := &raw{ws, t}
	r.say(message{Type: typeHello, Version: Version})
	r.expect(typeWelcome)
	return r
}

// TestParted: when too much waits, the guest loses its seat, whoever sent it,
// and nothing else happens to anybody.
func TestParted(t *testing.T) {
	for _, sender := range []connID{1, 2} {
		s := newState(Limits{}.withDefaults(), randomBelow)
		now := time.Unix(1e9, 0)
		for conn := range connID(3) {
			s.connect(conn+1, client{})
		}
		s.join(now, 1, message{Mailbox: pad("box"), Role: RoleHost, Seat: pad("h")})
		s.join(now, 2, message{Mailbox: pad("box"), Role: RoleGuest, Seat: pad("g")})
		s.join(now, 3, message{Mailbox: pad("box"), Role: RoleGuest, Seat: pad("other")})
		b := s.boxes[pad("box")]
		to := Seat(1)
		if sender == 2 {
			to = HostSeat
		}
		reader, _ := b.at(to)
		body := message{Mailbox: pad("box"), To: to, Body: make([]byte, 1000)}
		reader.waiting.add(63, 64<<10-2000)
		if got := s.send(sender, body); len(got) != 1 || got[0].msg.Type != typeMessage || got[0].waiting != reader.waiting {
			t.Fatalf("what just fits: %+v", got)
		}
		reader.waiting.add(1, 1000)
		got := render(s.send(sender, body))
		if len(got) != 2 || got[0] != "c2 error not_joined box" || got[1] != "c1 peer 1 gone" {
			t.Errorf("too large, from c%d: %q", sender, got)
		}
		checkState(t, s)
		if sender == 2 { // the host still has too much to read
			again := s.join(now, 2, message{Mailbox: pad("box"), Role: RoleGuest, Seat: pad("g")})
			if m := again[0].msg; len(again) != 1 || m.Code != CodeRate || m.RetryAfterMS != 1000 {
				t.Errorf("joining again at once: %+v", again)
			}
			reader.waiting.add(-60, -60<<10)
		}
		if got := render(s.join(now, 2, message{Mailbox: pad("box"), Role: RoleGuest, Seat: pad("g")})); got[0] != "c2 joined box present" {
			t.Errorf("joining again: %q", got)
		}
		checkState(t, s)
	}
}
