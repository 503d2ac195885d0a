package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// WebSocket opcodes (RFC 6455 section 5.2).
const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// A webSocket is a client without manners: it sends what it is told to.
type webSocket struct {
	t *testing.T
	net.Conn
	r     *bufio.Reader
	token string // that hello was said with
}

// dialWebSocket opens a WebSocket at the server, and hands over its answer to
// the handshake where that is no yes.
func dialWebSocket(t *testing.T, address string, header ...string) *webSocket {
	t.Helper()
	ws, resp := handshake(t, address, "/v1", header...)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %s", resp.Status)
	}
	return ws
}

func handshake(t *testing.T, address, path string, header ...string) (*webSocket, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	lines := append([]string{"GET " + path + " HTTP/1.1"}, header...)
	for _, usual := range []string{"Host: " + address, "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="} {
		name, _, _ := strings.Cut(usual, " ")
		if !strings.Contains(strings.Join(header, "\n"), name) {
			lines = append(lines, usual)
		}
	}
	fmt.Fprintf(c, "%s\r\n\r\n", strings.Join(lines, "\r\n"))
	ws := &webSocket{t: t, Conn: c, r: bufio.NewReader(c)}
	resp, err := http.ReadResponse(ws.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ws, resp
}

// send writes one whole frame. Its mask is zero, which is as good as any.
func (ws *webSocket) send(op byte, payload []byte) {
	ws.Write(frame(op, payload)) // the server may have hung up already; what it said is what counts
}

func frame(op byte, payload []byte) []byte {
	b := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

func (ws *webSocket) say(text string) { ws.send(opText, []byte(text)) }

// hello is the first message of a client that knows the token.
func (ws *webSocket) hello(token string) {
	ws.token = token
	ws.say(`{"type":"hello","version":1,"token":"` + token + `"}`)
	ws.await(`"type":"welcome"`)
}

// read returns the next frame of the server, which does not mask.
func (ws *webSocket) read() (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(ws.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(ws.r, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(ws.r, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err != nil || n > 1<<20 {
		return 0, nil, fmt.Errorf("frame of %d bytes: %v", n, err)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(ws.r, payload)
	return head[0] & 0xf, payload, err
}

// await reads up to a message with this in it.
func (ws *webSocket) await(part string) string {
	ws.t.Helper()
	for {
		op, payload, err := ws.read()
		switch {
		case err != nil || op == opClose:
			ws.t.Fatalf("waiting for %s: op %d, %q, %v", part, op, payload, err)
		case strings.Contains(string(payload), part):
			return string(payload)
		}
	}
}

// hungUp is the close code of a connection that ends without one.
const hungUp = -1

// end reads to the end: the last error message and the close code.
func (ws *webSocket) end() (last string, closed int) {
	for {
		op, payload, err := ws.read()
		switch {
		case err != nil:
			return last, hungUp
		case op == opClose && len(payload) >= 2:
			return last, int(binary.BigEndian.Uint16(payload))
		case strings.Contains(string(payload), `"type":"error"`):
			last = string(payload)
		}
	}
}

// seat is a seat token.
func seat(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
