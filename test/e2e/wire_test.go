package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// maxFrame is the largest message of the signaling protocol.
const maxFrame = 64 << 10

// badMessages is the table of what a WebSocket may carry that it should not:
// what is sent behind a good hello, and the error code, the sentence and the
// close code that answer it. A close code of 0 means that the connection goes
// on.
var badMessages = []struct {
	name   string
	send   func(*webSocket)
	code   string
	says   string
	closed int
}{
	{"not JSON", text("GET / HTTP/1.1"), "malformed", "JSON", 1008},
	{"nothing", text(""), "malformed", "", 1008},
	{"an array", text(`[1,2,3]`), "malformed", "", 1008},
	{"two objects", text(`{"type":"leave","mailbox":"4711"}{}`), "malformed", "", 1008},
	{"deep JSON", text(`{"type":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`), "malformed", "deep", 1008},
	{"deep JSON without end", text(strings.Repeat(`[`, maxFrame)), "malformed", "", 1008},
	{"a key twice", text(`{"type":"leave","mailbox":"4711","mailbox":"4712"}`), "malformed", "twice", 1008},
	{"a type twice", text(`{"type":"leave","type":"hello","mailbox":"4711"}`), "malformed", "twice", 1008},
	{"another case of a key", text(`{"Type":"leave","mailbox":"4711"}`), "malformed", "", 1008},
	{"an unknown field", text(`{"type":"leave","mailbox":"4711","admin":true}`), "malformed", "", 1008},
	{"a null", text(`{"type":"leave","mailbox":null}`), "malformed", "", 1008},
	{"a number past all bounds", text(`{"type":"send","mailbox":"4711","to":1e999,"body":"eA=="}`), "malformed", "", 1008},
	{"a body that is no base64", text(`{"type":"send","mailbox":"4711","body":"***"}`), "malformed", "", 1008},
	{"a body too large", text(`{"type":"send","mailbox":"4711","body":"` + strings.Repeat("AAAA", 5462) + `"}`), "malformed", "", 1008},
	{"a message too large", text(`{"type":"leave","mailbox":"` + strings.Repeat("x", maxFrame) + `"}`), "too_large", "65536", 1009},
	{"a length of 2^63", raw(0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0), "", "", hungUp},
	{"invalid UTF-8", text("{\"type\":\"\xff\xfe\"}"), "malformed", "UTF-8", 1007},
	{"a binary frame", func(ws *webSocket) { ws.send(opBinary, []byte(`{"type":"leave","mailbox":"4711"}`)) }, "malformed", "binary", 1003},
	{"bytes that are no frame", raw(0xff, 0xff, 0xff, 0xff), "", "", 1002},
	{"a frame without a mask", raw(0x81, 0x02, '{', '}'), "", "", 1002},
	{"a ping too long", func(ws *webSocket) { ws.send(opPing, make([]byte, 126)) }, "", "", 1002},
	{"a second hello", text(`{"type":"hello","version":1}`), "malformed", "", 1008},
	{"a flood", func(ws *webSocket) {
		for range 400 {
			ws.send(opPong, nil) // nobody asked, and nobody answers
		}
	}, "rate", "", 1008},
	{"an unknown type", text(`{"type":"dance"}`), "unknown_type", "does not know this type", 0},
	{"a mailbox that was not joined", text(`{"type":"leave","mailbox":"4711"}`), "not_joined", "is not in this mailbox", 0},
	{"a number that nobody has", join("999999", "guest", "a"), "unknown", "nobody waits under this number", 0},
	{"credentials for who is alone", func(ws *webSocket) {
		join(seat("lonely"), "host", "a")(ws)
		ws.await(`"joined"`)
		ws.say(`{"type":"credentials","mailbox":"` + seat("lonely") + `"}`)
	}, "absent", "no credentials while no peer is present", 0},
	{"a third party at a number", func(ws *webSocket) {
		ws.say(`{"type":"claim","ref":1,"seat":"` + seat("a") + `"}`)
		var claimed struct{ Mailbox string }
		if err := json.Unmarshal([]byte(ws.await(`"claimed"`)), &claimed); err != nil {
			ws.t.Fatal(err)
		}
		second := dialWebSocket(ws.t, ws.RemoteAddr().String())
		second.hello(ws.token)
		join(claimed.Mailbox, "guest", "b")(second)
		second.await(`"joined"`)
		third := dialWebSocket(ws.t, ws.RemoteAddr().String())
		third.hello(ws.token)
		ws.Conn, ws.r = third.Conn, third.r // whose answer counts
		join(claimed.Mailbox, "guest", "c")(ws)
	}, "taken", "already in use by somebody else", 0},
	{"a second host", func(ws *webSocket) {
		first := dialWebSocket(ws.t, ws.RemoteAddr().String())
		first.hello(ws.token)
		join(seat("house"), "host", "first")(first)
		first.await(`"joined"`)
		join(seat("house"), "host", "second")(ws)
	}, "occupied", "another listener", 0},
}

func text(s string) func(*webSocket) { return func(ws *webSocket) { ws.say(s) } }

func raw(b ...byte) func(*webSocket) { return func(ws *webSocket) { ws.Write(b) } }

func join(mailbox, role, who string) func(*webSocket) {
	return text(fmt.Sprintf(`{"type":"join","mailbox":"%s","role":"%s","seat":"%s"}`, mailbox, role, seat(who)))
}

// TestBadMessages sends every row over a WebSocket of its own and then tries a
// good link.
func TestBadMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, row := range badMessages {
		t.Run(row.name, func(t *testing.T) {
			ws := dialWebSocket(t, w.web())
			ws.hello(w.token())
			row.send(ws)
			var said string
			var closed int
			if row.closed == 0 {
				said = ws.await(`"type":"error"`)
			} else {
				said, closed = ws.end()
			}
			if closed != row.closed || row.code != "" && !strings.Contains(said, `"code":"`+row.code+`"`) || !strings.Contains(said, row.says) {
				t.Errorf("closed with %d after %q, want %d, %q and %q", closed, said, row.closed, row.code, row.says)
			}
			w.goodLink(t)
		})
	}
}

// TestBadHellos is for connections that are refused before they are one.
func TestBadHellos(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, row := range []struct {
		name, first string
		code, says  string
	}{
		{"no token", `{"type":"hello","version":1}`, "unauthorized", "access token"},
		{"wrong token", `{"type":"hello","version":1,"token":"guess"}`, "unauthorized", "wrong"},
		{"another version", `{"type":"hello","version":2,"token":"guess","soul":true}`, "version", "version"},
		{"no hello", `{"type":"leave","mailbox":"4711"}`, "malformed", "hello"},
		{"a key twice", `{"type":"hello","version":1,"version":2}`, "malformed", "twice"},
		{"a token too long", `{"type":"hello","version":1,"token":"` + strings.Repeat("x", 1000) + `"}`, "malformed", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			ws := dialWebSocket(t, w.web())
			ws.say(row.first)
			if said, closed := ws.end(); closed != 1008 || !strings.Contains(said, `"code":"`+row.code+`"`) || !strings.Contains(said, row.says) {
				t.Errorf("closed with %d after %q, want 1008, %q and %q", closed, said, row.code, row.says)
			}
			w.goodLink(t)
		})
	}
	for _, row := range []struct {
		name, path string
		header     []string
		status     int
	}{
		{"a page of another site", "/v1", []string{"Origin: http://evil.example"}, http.StatusForbidden},
		{"a page whose name was pointed at us", "/v1", []string{"Host: evil.example", "Origin: http://evil.example"}, http.StatusForbidden},
		{"another path", "/v2", nil, http.StatusNotFound},
		{"an old version of WebSocket", "/v1", []string{"Sec-WebSocket-Version: 8"}, http.StatusBadRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, resp := handshake(t, w.web(), row.path, row.header...)
			if resp.StatusCode != row.status {
				t.Errorf("%s, want %d", resp.Status, row.status)
			}
			w.goodLink(t)
		})
	}
	t.Run("compression is not agreed on", func(t *testing.T) {
		_, resp := handshake(t, w.web(), "/v1", "Sec-WebSocket-Extensions: permessage-deflate")
		if x := resp.Header.Get("Sec-WebSocket-Extensions"); x != "" {
			t.Errorf("the server agrees on %q", x)
		}
	})
}

// badDatagrams are those that have brought down STUN and TURN programs, and
// their relatives. Each is sent in a buffer and from a socket of its own.
func badDatagrams() map[string][]byte {
	out := map[string][]byte{
		"nothing":                             {},
		"a byte":                              {0},
		"half a header":                       binding()[:10],
		"a length past the end":               with(binding(), 2, 0xff, 0xfc),
		"a length that wraps":                 with(binding(), 2, 0xff, 0xec),
		"a length short of the end":           append(binding(), 0, 0, 0, 0),
		"an odd length":                       append(with(binding(), 2, 0, 3), 0, 0, 0),
		"no cookie":                           with(binding(), 4, 0, 0, 0, 0),
		"an attribute past the end":           stun(0x0001, []byte{0x80, 0x22, 0, 5, 0, 0, 0, 0}),
		"an unknown class and method":         stun(0x3fff),
		"an answer to nothing":                stun(0x0101, attr(0x0020, 0, 1, 0x21, 0x12, 0xa4, 0x42, 0, 0)),
		"an address of no bytes":              stun(0x0101, attr(0x0020)),
		"a mapped address of no bytes":        stun(0x0101, attr(0x0001)),
		"an IPv6 address of four bytes":       stun(0x0101, attr(0x0020, 0, 2, 1, 2)),
		"an attribute behind the integrity":   stun(0x0001, attr(0x0008, make([]byte, 20)...), attr(0x0006, 'x')),
		"an integrity of one byte":            stun(0x0001, attr(0x0008, 1)),
		"a user without a partner":            stun(0x0001, attr(0x0006, ':'), attr(0x0008, make([]byte, 20)...)),
		"Data with a peer of no bytes":        stun(0x0017, attr(0x0012)),
		"Data with a peer of no bytes, later": stun(0x0017, attr(0x0013, make([]byte, 20)...), attr(0x0012)),
		"Send with a peer of no bytes":        stun(0x0016, attr(0x0012)),
		"Send with a peer of no bytes, later": stun(0x0016, attr(0x0013, make([]byte, 20)...), attr(0x0012)),
		"Allocate without anything":           stun(0x0003),
		"CreatePermission of no address":      stun(0x0008, attr(0x0012)),
		"ChannelBind of nothing":              stun(0x0009, attr(0x000c), attr(0x0012)),
		"ChannelData of nobody":               {0x40, 0, 0, 4, 'd', 'a', 't', 'a'},
		"ChannelData past the end":            {0x40, 0, 0xff, 0xfc, 1},
		"ChannelData without a length":        {0x40, 0, 0},
		"ChannelData of a reserved number":    {0x4f, 0xff, 0, 0},
		"a fragment of nothing":               {0x04},
		"a QUIC Initial of nothing":           append([]byte{0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xb0}, make([]byte, 1200)...),
		"a QUIC Initial of another version":   append([]byte{0xc3, 0xba, 0xba, 0xba, 0xba, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 1200)...),
		"a QUIC reset":                        append([]byte{0x40}, make([]byte, 40)...),
	}
	var many []byte
	for range 33 {
		many = append(many, attr(0x8022, 'x')...)
	}
	out["33 attributes"] = stun(0x0001, many)
	rng := rand.New(rand.NewPCG(1, 2))
	for first := range 256 {
		b := make([]byte, rng.IntN(100)+1)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		b[0] = byte(first)
		out[fmt.Sprintf("noise that begins with %#02x", first)] = b
	}
	return out
}

// sockets are the UDP sockets of a program, as its trace names them.
func sockets(t *testing.T, name string) (out []netip.AddrPort) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r struct {
			Event string
			Data  struct{ Network, Local string }
		}
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.Event == "socket.opened" && r.Data.Network == "udp4" {
			out = append(out, netip.MustParseAddrPort(r.Data.Local))
		}
	}
	return out
}

// TestBadDatagrams throws them at the server and at every socket of both
// agents, while a transfer runs over their link: it ends whole, on the same direct
// path, which they give nobody a reason to suspect, and the same processes go on.
func TestBadDatagrams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	link := w.alice.start(t, "connect", "-L", "0:"+w.echo, "--trace", w.trace(w.alice), "bob")
	link.await(t, link.stderr, "bob: direct path")
	local := link.await(t, link.stderr, `listening on (127\.0\.0\.1:\d+)`)[1]
	stop := flow(t, local)

	targets := []netip.AddrPort{w.turn}
	for _, h := range []*home{w.alice, w.bob} { // a socket for the peer, and one for the relay
		awaitTrace(t, w.trace(h), 0, "relay", func(e trace.Event) bool { _, ok := e.(trace.RelayAllocated); return ok })
		own := sockets(t, w.trace(h))
		if len(own) < 2 {
			t.Fatalf("a trace names %v, want a socket for the peer and one for the relay", own)
		}
		targets = append(targets, own...)
	}
	holder := allocate(t, w) // who has an allocation is let further in
	throw := func() {
		for _, target := range targets {
			for name, b := range badDatagrams() {
				c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(target))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write(b); err != nil && !strings.Contains(err.Error(), "refused") {
					t.Errorf("%s to %s: %v", name, target, err)
				}
				c.Close()
			}
		}
		for name, b := range badDatagrams() {
			if _, err := holder.Write(b); err != nil {
				t.Errorf("%s by the holder of an allocation: %v", name, err)
			}
		}
		ask(t, holder, binding())
	}
	count := func(event string) int {
		text, err := os.ReadFile(w.trace(w.alice))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), `"event":"`+event+`"`)
	}
	calm := false
	for end := time.Now().Add(patience); !calm && time.Now().Before(end); { // a machine that stands still for a moment does this too, but not each time
		before := count("path.suspected")
		throw()
		time.Sleep(2 * time.Second) // more than it takes to suspect a path
		calm = count("path.suspected") == before
	}
	if n := stop(); n == 0 {
		t.Error("nothing was transferred meanwhile: nothing was tested")
	}
	if !calm {
		t.Error("the path was suspected each time")
	}
	direct := false
	for _, r := range movesIn(t, w.trace(w.alice)) {
		to := r.Event.(trace.PathChanged).To
		if now := to != nil && to.Kind == "direct"; direct && !now {
			t.Errorf("the link left its direct path: %+v", r.Event)
		} else {
			direct = now
		}
	}
	if !direct {
		t.Error("the link is not on a direct path")
	}
	link.unharmed(t)
	w.goodLink(t)
}

// flow sends through a forward, and compares what comes back, until it is
// stopped, and returns how much that was.
func flow(t *testing.T, address string) (stop func() int) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	quit, done := make(chan struct{}), make(chan int)
	go func() {
		total := 0
		defer func() { done <- total }()
		for buffer := make([]byte, 16<<10); ; total += len(buffer) {
			select {
			case <-quit:
				return
			default:
			}
			sent := randomText(12 << 10)
			c.SetDeadline(time.Now().Add(patience))
			_, writeErr := io.WriteString(c, sent)
			_, readErr := io.ReadFull(c, buffer)
			if writeErr != nil || readErr != nil || string(buffer) != sent {
				t.Errorf("after %d bytes: %v, %v, or other bytes", total, writeErr, readErr)
				return
			}
		}
	}()
	return func() int { close(quit); return <-done }
}

// TestBadStreams is TURN over TCP: what cannot be a frame ends the connection,
// and the server neither spins nor falls.
func TestBadStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, b := range map[string][]byte{
		"ChannelData whose length wraps":    {0x40, 0, 0xff, 0xfc, 1, 2, 3, 4, 5},
		"STUN whose length wraps":           append(with(binding(), 2, 0xff, 0xec), 0),
		"ChannelData of 1600 bytes":         {0x40, 0, 0x06, 0x40, 0},
		"STUN without cookie":               with(binding(), 4, 1, 2, 3, 4),
		"a web page":                        []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"a first byte of nobody's":          {0xff, 0xff, 0xff, 0xff},
		"a Send with a peer of no bytes":    stun(0x0016, attr(0x0013, make([]byte, 20)...), attr(0x0012)),
		"ChannelData in place of a request": {0x40, 0, 0, 4, 'd', 'a', 't', 'a'},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp4", w.turn.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write(b)
			c.(*net.TCPConn).CloseWrite()
			c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the server does not hang up: %v", err)
			}
			w.goodLink(t)
		})
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("whether the server spins is not measured here: no /proc")
	}
	before := cpu(t, w.process)
	time.Sleep(300 * time.Millisecond) // nothing to wait for: a server at rest is what is measured
	if used := cpu(t, w.process) - before; used > 150*time.Millisecond {
		t.Errorf("the server used %v of 300 ms with nothing to do", used)
	}
}

// cpu is the time of the processor that a program has used (proc(5)).
func cpu(t *testing.T, p *process) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	var user, system int // fields 14 and 15, in hundredths
	if f := strings.Fields(rest); len(f) > 12 {
		fmt.Sscan(f[11], &user)
		fmt.Sscan(f[12], &system)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
