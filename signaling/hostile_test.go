package signaling

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestHostile: whatever one connection does, it is told why it is refused, and
// the pair beside it, as well as one that comes later, notices nothing.
func TestHostile(t *testing.T) {
	wide := Limits{Messages: 1e6, Bytes: 1e9}
	tests := []struct {
		name   string
		cfg    ServerConfig
		attack func(t *testing.T, ts *testServer)
	}{
		{name: "oversized frame", attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			r.sayText(`{"type":"leave","mailbox":"` + strings.Repeat("x", MaxFrame) + `"}`)
			r.expectError(CodeTooLarge)
			r.expectClose(websocket.CloseMessageTooBig)
		}},
		{name: "oversized message in small frames, without end", attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			w, err := r.NextWriter(websocket.TextMessage)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 * MaxFrame / 1024 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					break // the server has closed the connection already
				}
			}
			r.expectError(CodeTooLarge)
			r.expectClose(websocket.CloseMessageTooBig)
		}},
		{name: "deep JSON", attack: says(strings.Repeat(`[`, MaxFrame), CodeMalformed, websocket.ClosePolicyViolation)},
		{name: "duplicate keys", attack: says(`{"type":"leave","mailbox":"1234","mailbox":"1235"}`, CodeMalformed, websocket.ClosePolicyViolation)},
		{name: "unknown field", attack: says(`{"type":"leave","mailbox":"1234","extra":1}`, CodeMalformed, websocket.ClosePolicyViolation)},
		{name: "not JSON", attack: says(`GET / HTTP/1.1`, CodeMalformed, websocket.ClosePolicyViolation)},
		{name: "empty message", attack: says(``, CodeMalformed, websocket.ClosePolicyViolation)},
		{name: "invalid UTF-8", attack: says("{\"type\":\"\xff\"}", CodeMalformed, websocket.CloseInvalidFramePayloadData)},
		{name: "hello twice", attack: says(`{"type":"hello","version":1}`, CodeMalformed, websocket.ClosePolicyViolation)},
		{name: "binary frame", attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			r.WriteMessage(websocket.BinaryMessage, []byte(`{"type":"leave","mailbox":"1234"}`))
			r.expectError(CodeMalformed)
			r.expectClose(websocket.CloseUnsupportedData)
		}},
		{name: "bytes that are no frame", attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			r.NetConn().Write([]byte{0xff, 0xff, 0xff, 0xff})
			r.expectClose(websocket.CloseProtocolError)
		}},
		{name: "first message is not hello", attack: func(t *testing.T, ts *testServer) {
			r := dialRaw(t, ts)
			r.say(message{Type: typeJoin, Mailbox: pad("box"), Role: RoleGuest, Seat: randomSeat()})
			r.expectError(CodeMalformed)
			r.expectClose(websocket.ClosePolicyViolation)
		}},
		{name: "first message is of no known type", attack: func(t *testing.T, ts *testServer) {
			r := dialRaw(t, ts)
			r.sayText(`{"type":"dance"}`)
			r.expectError(CodeMalformed)
			r.expectClose(websocket.ClosePolicyViolation)
		}},
		{name: "unknown version", attack: func(t *testing.T, ts *testServer) {
			r := dialRaw(t, ts)
			r.sayText(`{"type":"hello","version":7,"whatever":{"came":"later"}}`)
			if m := r.expectError(CodeVersion); m.Version != Version {
				t.Errorf("the error says version %d", m.Version)
			}
			r.expectClose(websocket.ClosePolicyViolation)
		}},
		{name: "missing token, joins pipelined behind it", cfg: ServerConfig{Token: "secret"}, attack: func(t *testing.T, ts *testServer) {
			r := dialRaw(t, ts)
			r.say(message{Type: typeHello, Version: Version})
			r.say(message{Type: typeJoin, Mailbox: pad("good"), Role: RoleHost, Seat: randomSeat()})
			if m := r.expectError(CodeUnauthorized); !strings.Contains(m.Text, "wants an access token") {
				t.Errorf("the error says %q", m.Text)
			}
			r.expectClose(websocket.ClosePolicyViolation)
			if n := ts.Stats().Unauthorized; n != 1 {
				t.Errorf("counted %d", n)
			}
		}},
		{name: "wrong token", cfg: ServerConfig{Token: "secret"}, attack: func(t *testing.T, ts *testServer) {
			for _, token := range []string{"secre", "secret2", "SECRET", "\x00"} {
				r := dialRaw(t, ts)
				r.say(message{Type: typeHello, Version: Version, Token: token})
				if m := r.expectError(CodeUnauthorized); !strings.Contains(m.Text, "wrong") || strings.Contains(m.Text, "secre") {
					t.Errorf("the error says %q", m.Text)
				}
				r.expectClose(websocket.ClosePolicyViolation)
			}
		}},
		{name: "flood", cfg: ServerConfig{Limits: Limits{QueueMessages: 1000, QueueBytes: 1 << 20}}, attack: func(t *testing.T, ts *testServer) {
			flood(t, ts, func(r *raw) error {
				return r.WriteMessage(websocket.TextMessage, []byte(`{"type":"leave","mailbox":"1234"}`))
			})
		}},
		{name: "flood of bytes", cfg: ServerConfig{Limits: Limits{Messages: 1e6, QueueMessages: 1e4, QueueBytes: 1 << 22}}, attack: func(t *testing.T, ts *testServer) {
			big := encode(message{Type: typeSend, Mailbox: pad("none"), Body: make([]byte, MaxBody)})
			flood(t, ts, func(r *raw) error { return r.WriteMessage(websocket.TextMessage, big) })
		}},
		{name: "flood of pings", attack: func(t *testing.T, ts *testServer) {
			flood(t, ts, func(r *raw) error { return r.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)) })
		}},
		{name: "flood of pongs", attack: func(t *testing.T, ts *testServer) {
			flood(t, ts, func(r *raw) error { return r.WriteControl(websocket.PongMessage, nil, time.Now().Add(patience)) })
		}},
		{name: "slow reader", cfg: ServerConfig{Limits: withWriteTimeout(wide, patience)}, attack: slowReader},
		{name: "33 mailboxes of 32", cfg: ServerConfig{Limits: Limits{Mailboxes: 32}}, attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			for i := range 32 {
				r.say(message{Type: typeJoin, Mailbox: pad(strings.Repeat("m", i+1)), Role: RoleHost, Seat: randomSeat()})
				r.expect(typeJoined)
			}
			r.say(message{Type: typeJoin, Mailbox: pad(strings.Repeat("n", 9)), Role: RoleHost, Seat: randomSeat()})
			r.expectError(CodeLimit)
			r.say(message{Type: typeClaim, Ref: 5, Seat: randomSeat()})
			if m := r.expectError(CodeLimit); m.Ref != 5 {
				t.Errorf("the error is for ref %d", m.Ref)
			}
		}},
		{name: "message after leave", attack: func(t *testing.T, ts *testServer) {
			p := newPair(t, ts, "left")
			p.guest.say(message{Type: typeLeave, Mailbox: pad("left")})
			p.guest.say(message{Type: typeSend, Mailbox: pad("left"), Body: []byte("x")})
			if m := p.guest.expectError(CodeNotJoined); m.Mailbox != pad("left") {
				t.Errorf("the error is for %q", m.Mailbox)
			}
			p.host.expect(typePeer)
			p.host.say(message{Type: typeSend, Mailbox: pad("left"), To: 1, Body: []byte("x")})
			if m := p.host.expect(typePeer); m.Present || m.From != 1 {
				t.Errorf("sending to who left: %+v", m)
			}
		}},
		{name: "a stranger sends into a mailbox", attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			r.say(message{Type: typeSend, Mailbox: pad("good"), To: 1, Body: []byte("x")})
			r.expectError(CodeNotJoined)
		}},
		{name: "unknown type is not echoed and not punished", attack: func(t *testing.T, ts *testServer) {
			r := hello(t, ts)
			r.sayText(`{"type":"<script>","x":[1]}`)
			if m := r.expectError(CodeUnknownType); strings.Contains(m.Text, "script") {
				t.Errorf("echoed: %q", m.Text)
			}
			r.say(message{Type: typeJoin, Mailbox: pad("box"), Role: RoleGuest, Seat: randomSeat()})
			r.expect(typeJoined)
		}},
		{name: "third party in a pairing", attack: func(t *testing.T, ts *testServer) {
			host, guest, third := hello(t, ts), hello(t, ts), hello(t, ts)
			host.say(message{Type: typeClaim, Ref: 1, Seat: randomSeat()})
			number := host.expect(typeClaimed).Mailbox
			guest.say(message{Type: typeJoin, Mailbox: number, Role: RoleGuest, Seat: randomSeat()})
			guest.expect(typeJoined)
			third.say(message{Type: typeJoin, Mailbox: number, Role: RoleGuest, Seat: randomSeat()})
			third.expectError(CodeTaken)
			third.say(message{Type: typeJoin, Mailbox: number, Role: RoleHost, Seat: randomSeat()})
			asHost := third.expectError(CodeUnknown)
			third.say(message{Type: typeJoin, Mailbox: "9999999", Role: RoleGuest, Seat: randomSeat()})
			unknown := third.expectError(CodeUnknown)
			if asHost.Text != unknown.Text {
				t.Errorf("%q and %q tell them apart", asHost.Text, unknown.Text)
			}
		}},
		{name: "guessing nameplates", cfg: ServerConfig{Limits: Limits{FailedJoins: 25}}, attack: func(t *testing.T, ts *testServer) {
			storm(t, ts, message{Type: typeJoin, Mailbox: "7777777", Role: RoleGuest, Seat: randomSeat()}, CodeUnknown)
			if st := ts.Stats(); !st.Alarm || st.FailedJoins < 30 || st.RateLimited == 0 {
				t.Errorf("%+v", st)
			}
		}},
		{name: "claim storm", cfg: ServerConfig{Limits: Limits{Mailboxes: 1}}, attack: func(t *testing.T, ts *testServer) {
			storm(t, ts, message{Type: typeClaim, Ref: 1, Seat: randomSeat()}, CodeLimit)
		}},
		{name: "bad Origin", cfg: ServerConfig{Origins: []string{"https://good.example"}}, attack: func(t *testing.T, ts *testServer) {
			handshake(t, ts, http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden, "origin")
			handshake(t, ts, http.Header{"Origin": {"null"}}, http.StatusForbidden, "origin")
			handshake(t, ts, http.Header{"Origin": {"http://" + ts.addr}}, http.StatusForbidden, "origin") // same origin is no excuse
			handshake(t, ts, http.Header{"Origin": {"https://good.example"}}, http.StatusSwitchingProtocols, "")
		}},
		{name: "bad Host", cfg: ServerConfig{Hosts: []string{"signal.example"}}, attack: func(t *testing.T, ts *testServer) {
			handshake(t, ts, http.Header{"Host": {"evil.example:80"}}, http.StatusForbidden, "start it with --host evil.example too")
			handshake(t, ts, http.Header{"Host": {"evil<i>:80"}}, http.StatusForbidden, "start it with --host NAME too")
			handshake(t, ts, http.Header{"Host": {"Signal.Example.:80"}}, http.StatusSwitchingProtocols, "")
			handshake(t, ts, http.Header{"Host": {"[2001:db8::1]:80"}}, http.StatusSwitchingProtocols, "")
		}},
		{name: "compression is not negotiated", attack: func(t *testing.T, ts *testServer) {
			d := websocket.Dialer{EnableCompression: true}
			ws, resp, err := d.Dial(ts.address+Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			if got := resp.Header.Values("Sec-Websocket-Extensions"); len(got) != 0 {
				t.Errorf("negotiated %q", got)
			}
		}},
		{name: "more connections than there is room for", cfg: ServerConfig{Limits: Limits{Connections: 6}}, attack: func(t *testing.T, ts *testServer) {
			late := dialRaw(t, ts)
			hello(t, ts)
			hello(t, ts) // four in all with the good pair
			hog1, hog2 := hello(t, ts), hello(t, ts)
			handshake(t, ts, nil, http.StatusServiceUnavailable, "full")
			if resp := get(t, ts, "/healthz"); resp != "503 full" {
				t.Errorf("healthz: %s", resp)
			}
			late.say(message{Type: typeHello, Version: Version})
			if m := late.expectError(CodeFull); m.RetryAfterMS < 1000 || !strings.Contains(m.Text, "full") {
				t.Errorf("the error is %+v", m)
			}
			late.expectClose(websocket.CloseTryAgainLater)
			hog1.Close()
			hog2.Close()
			until(t, "room again", func() bool { return ts.admittedNow() <= 4 && get(t, ts, "/healthz") == "200 ok" })
		}},
		{name: "more connections than one address may have", cfg: ServerConfig{Limits: Limits{ConnectionsPerAddress: 4}}, attack: func(t *testing.T, ts *testServer) {
			a, b := hello(t, ts), hello(t, ts)
			handshake(t, ts, nil, http.StatusServiceUnavailable, "this address")
			a.Close()
			b.Close()
			until(t, "room again", func() bool { return ts.admittedNow() == 2 })
		}},
		{name: "WebSockets without hello", cfg: crowded, attack: func(t *testing.T, ts *testServer) {
			for range 3 * crowded.Limits.Pending {
				dialRaw(t, ts)
			}
			if st := ts.Stats(); st.Displaced < int64(crowded.Limits.Pending) || st.Pending > crowded.Limits.Pending {
				t.Errorf("%+v", st)
			}
		}},
		{name: "WebSockets with a wrong token, left open", cfg: crowded, attack: func(t *testing.T, ts *testServer) {
			for range 3 * crowded.Limits.Pending {
				r := dialRaw(t, ts)
				r.say(message{Type: typeHello, Version: Version, Token: "wrong"})
			}
		}},
		{name: "connections that ask nothing", cfg: crowded, attack: func(t *testing.T, ts *testServer) {
			for range 3 * crowded.Limits.Pending {
				c, err := net.Dial("tcp", ts.addr)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
			}
			until(t, "all accepted", func() bool {
				st := ts.Stats()
				return st.Pending == crowded.Limits.Pending && st.Displaced >= int64(2*crowded.Limits.Pending)
			})
		}},
		{name: "one connection dies in the handshake", attack: func(t *testing.T, ts *testServer) {
			c, err := net.Dial("tcp", ts.addr)
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("GET /v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"))
			c.Close()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ts := serve(t, tt.cfg)
			good := newPair(t, ts, "good")
			tt.attack(t, ts)
			good.check(t, "good")
			newPair(t, ts, "later").check(t, "later")
		})
	}
}

// crowded has little room for who does not say hello, and would count so many
// connections of one address as too many.
var crowded = ServerConfig{Token: "secret", Limits: Limits{Pending: 8, ConnectionsPerAddress: 8}}

func withWriteTimeout(l Limits, d time.Duration) Limits {
	l.WriteTimeout = d
	return l
}

// says is an attack of one message, after hello.
func says(text string, code Code, closing int) func(*testing.T, *testServer) {
	return func(t *testing.T, ts *testServer) {
		r := hello(t, ts)
		r.sayText(text)
		if m := r.expectError(code); m.Text == "" {
			t.Error("no sentence for people")
		}
		r.expectClose(closing)
		if n := ts.Stats().Breaches; n != 1 {
			t.Errorf("%d breaches counted", n)
		}
	}
}

// flood says something until the server has had enough of it.
func flood(t *testing.T, ts *testServer, say func(*raw) error) {
	t.Helper()
	r := hello(t, ts)
	for range 1000 {
		if say(r) != nil {
			break // closed already
		}
	}
	for {
		m, err := r.hear()
		if err != nil {
			t.Fatalf("no error message before %v", err)
		}
		if m.Type == typeError && m.Code == CodeRate && m.Mailbox == "" {
			break
		}
	}
	r.expectClose(websocket.ClosePolicyViolation)
}

// storm says m until the limit of the address is reached; until then want is
// the answer.
func storm(t *testing.T, ts *testServer, m message, want Code) {
	t.Helper()
	r := hello(t, ts)
	for range 40 { // burst 30, and one more each second
		r.say(m)
	}
	seen := make(map[Code]int)
	for range 40 {
		got, err := r.hear()
		if err != nil {
			t.Fatal(err)
		}
		if got.Code == CodeRate && (got.RetryAfterMS < 1 || got.RetryAfterMS > 1001 || got.Ref != m.Ref) {
			t.Errorf("rate error %+v", got)
		}
		seen[got.Code]++
	}
	if seen[CodeRate] == 0 || seen[want] < 29 { // a claim answers claimed once
		t.Errorf("answers: %v", seen)
	}
}

// slowReader is a guest that does not read while the host sends, and another
// guest who must not notice.
func slowReader(t *testing.T, ts *testServer) {
	box := pad("slow")
	p := newPair(t, ts, "slow")
	slow, host := p.guest, p.host
	other := hello(t, ts)
	other.say(message{Type: typeJoin, Mailbox: box, Role: RoleGuest, Seat: randomSeat()})
	other.expect(typeJoined)
	other.expect(typePeer)
	other.expect(typeCredentials)
	host.expect(typePeer)
	host.expect(typeCredentials)

	gone := make(chan message, 1)
	go func() {
		m, _ := host.hear()
		gone <- m
	}()
	body := make([]byte, MaxBody)
	for sent := 0; ; sent++ {
		if sent == 10000 {
			t.Fatal("200 MB were taken for a reader that does not read")
		}
		host.say(message{Type: typeSend, Mailbox: box, To: 1, Body: body})
		if sent%50 == 0 {
			host.say(message{Type: typeSend, Mailbox: box, To: 2, Body: []byte("quick")})
			if m := other.expect(typeMessage); string(m.Body) != "quick" {
				t.Fatalf("the other guest heard %+v", m)
			}
		}
		if len(gone) > 0 {
			break
		}
	}
	if m := <-gone; m.Type != typePeer || m.From != 1 || m.Present {
		t.Fatalf("host heard %+v, want that guest 1 is gone", m)
	}
	for {
		m, err := slow.hear()
		if err != nil {
			t.Fatalf("the slow reader lost more than its seat: %v", err)
		}
		if m.Type == typeError && m.Code == CodeNotJoined && m.Mailbox == box {
			break
		}
	}
	if st := ts.Stats(); st.Parted != 1 || st.Overflows != 0 {
		t.Errorf("counted %+v", st)
	}
}

// handshake asks for a WebSocket and expects an HTTP status, with a sentence.
func handshake(t *testing.T, ts *testServer, header http.Header, status int, sentence string) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(ts.address+Path, header)
	if err == nil {
		ws.Close()
	} else if !errors.Is(err, websocket.ErrBadHandshake) {
		t.Fatal(err)
	}
	body := readAll(t, resp)
	if resp.StatusCode != status || !strings.Contains(body, sentence) {
		t.Errorf("%v: %d %q, want %d with %q", header, resp.StatusCode, body, status, sentence)
	}
}

// admittedNow is how many connections have said hello and have not ended.
func (ts *testServer) admittedNow() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.total
}
