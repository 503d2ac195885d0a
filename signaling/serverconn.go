package signaling

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// linger is how long a closed connection may take to acknowledge it. Closing
// a TCP connection with unread data resets it, and the peer would never see
// why it was closed.
const linger = time.Second

// A serverConn is one connection of an agent: a reader, which is the HTTP
// handler, and a writer with a bounded queue.
type serverConn struct {
	// constant
	s      *Server
	id     connID
	ws     *websocket.Conn
	conn   *acceptedConn // below ws; nil: not from Listener
	source netip.Addr

	out     chan frame
	waiting backlog     // in out
	pong    chan string // payload of the latest ping, to be answered by the writer

	once      sync.Once
	closing   chan struct{} // closed by shutdown
	closeCode int           // set before; 0: say nothing more
	closeText string

	// owned by the reader
	greeted  bool
	admitted bool
	meter    meter
}

// serveConn serves a connection until it ends.
func (s *Server) serveConn(ws *websocket.Conn, conn *acceptedConn, source netip.Addr) {
	c := &serverConn{
		s: s, ws: ws, conn: conn, source: source,
		out:     make(chan frame, s.cfg.Limits.QueueMessages),
		pong:    make(chan string, 1),
		closing: make(chan struct{}),
	}
	s.enroll(c)
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()

	err := c.read()
	s.expel(c)
	c.end(err)
	<-written
	if c.closeCode != 0 {
		c.ws.NetConn().SetReadDeadline(time.Now().Add(linger))
		io.Copy(io.Discard, c.ws.NetConn())
	}
	c.ws.Close()
	if c.admitted {
		s.release(c.source)
	}
}

// end starts the closing that the reader's error calls for. Errors of the
// network say themselves that nobody listens any more.
func (c *serverConn) end(err error) {
	var b *breach
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &b):
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		c.shutdown(websocket.CloseNormalClosure, "") // answers, now that its seats are free
		return
	default:
		c.shutdown(0, "")
		return
	}
	c.s.count(func(st *Stats) {
		switch b.code {
		case CodeUnauthorized:
			st.Unauthorized++
		case CodeRate:
			st.RateLimited++
		case CodeFull:
			st.Refused++
		default:
			st.Breaches++
		}
	})
	c.s.log.Debug("signaling connection refused", "source", truncated(c.source), "err", b)
	c.tell(b)
	c.shutdown(b.close, string(b.code))
}

// tell queues the error message for a breach.
func (c *serverConn) tell(b *breach) {
	m := message{Type: typeError, Code: b.code, Text: b.text}
	switch b.code {
	case CodeVersion:
		m.Version = Version
	case CodeFull:
		m.RetryAfterMS = int(retryFull / time.Millisecond)
	}
	c.queue(frame{b: encode(m)}) // no room: the close code must do
}

// queue puts a frame in line, or returns false when there is no room. It does
// not wait.
func (c *serverConn) queue(f frame) bool {
	f.count(c, 1)
	if int(c.waiting.bytes.Load()) <= c.s.cfg.Limits.QueueBytes {
		select {
		case c.out <- f:
			return true
		default:
		}
	}
	f.count(c, -1)
	return false
}

// count adds f to what waits for c, or takes it away.
func (f frame) count(c *serverConn, sign int) {
	c.waiting.add(sign, sign*len(f.b))
	if f.box != nil {
		f.box.add(sign, sign*len(f.b))
	}
}

// shutdown lets the writer send what is queued and a close frame, and then
// the reader end. Only the first call counts. It does not wait.
func (c *serverConn) shutdown(code int, text string) {
	c.once.Do(func() {
		c.closeCode, c.closeText = code, text
		close(c.closing)
	})
}

func (c *serverConn) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// read handles messages until the connection ends or breaks the protocol.
func (c *serverConn) read() error {
	limits := &c.s.cfg.Limits
	c.ws.SetReadDeadline(time.Now().Add(limits.HelloTimeout))
	c.ws.SetCloseHandler(func(int, string) error { return nil }) // end answers
	c.ws.SetPongHandler(func(string) error { return c.control(0) })
	c.ws.SetPingHandler(func(data string) error {
		keepLatest(c.pong, data)
		return c.control(len(data))
	})
	for {
		b, err := readFrame(c.ws)
		var timeout net.Error
		switch {
		case c.isClosing() && err == nil:
			continue // what comes after our close frame is not heard
		case !c.greeted && errors.As(err, &timeout) && timeout.Timeout():
			return &breach{CodeNoHello, "no hello in time", websocket.ClosePolicyViolation}
		case err != nil:
			return err
		}
		if err := c.take(b); err != nil {
			return err
		}
	}
}

// take is one message: counted, decoded, handled.
func (c *serverConn) take(b []byte) error {
	if err := c.charge(len(b)); err != nil {
		return err
	}
	m, err := decode(b, fromClient)
	var br *breach
	switch {
	case errors.As(err, &br) && br.close == 0 && c.greeted:
		c.tell(br)
	case err != nil && !c.greeted && br.close == 0:
		return malformed("the first message must be hello")
	case err != nil:
		return err
	case !c.greeted:
		if err := c.s.hello(m); err != nil {
			return err
		}
		if err := c.s.admit(c); err != nil {
			return err
		}
		c.greeted = true
		c.queue(frame{b: encode(c.s.welcome())}) // the first in the queue
	case m.Type == typeHello:
		return malformed("hello twice")
	default:
		c.s.handle(c, m)
	}
	c.alive()
	return nil
}

// control counts a ping or pong, which are cheap to send as well.
func (c *serverConn) control(size int) error {
	if err := c.charge(size); err != nil {
		return err
	}
	c.alive()
	return nil
}

func (c *serverConn) charge(size int) error {
	l := &c.s.cfg.Limits
	if c.meter.take(c.s.cfg.Now(), size, float64(l.Messages), float64(l.Bytes), 1) > 0 {
		return &breach{CodeRate, "too many messages, this connection is closed", websocket.ClosePolicyViolation}
	}
	return nil
}

// alive gives a connection that has said hello another round of ping and pong.
func (c *serverConn) alive() {
	if !c.greeted || c.isClosing() {
		return
	}
	l := &c.s.cfg.Limits
	c.ws.SetReadDeadline(time.Now().Add(l.PingInterval + l.PongTimeout))
	if c.isClosing() { // meanwhile: the writer's shorter deadline must win
		c.ws.SetReadDeadline(time.Now().Add(linger))
	}
}

// write sends what is queued, and pings, until shutdown.
func (c *serverConn) write() {
	l := &c.s.cfg.Limits
	ping := time.NewTicker(l.PingInterval)
	defer ping.Stop()
	for {
		var err error
		select {
		case f := <-c.out:
			err = c.writeFrame(f, time.Now().Add(l.WriteTimeout))
		case data := <-c.pong:
			err = c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(l.WriteTimeout))
		case <-ping.C:
			err = c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(l.WriteTimeout))
			c.s.tick()
		case <-c.closing:
			c.farewell()
			return
		}
		if err != nil {
			c.shutdown(0, "")
			c.ws.NetConn().Close() // wakes the reader
			return
		}
	}
}

// farewell sends what is still queued and the close frame, then gives the
// reader a last deadline.
func (c *serverConn) farewell() {
	defer func() { c.ws.NetConn().SetReadDeadline(time.Now().Add(linger)) }()
	if c.closeCode == 0 {
		return
	}
	deadline := time.Now().Add(c.s.cfg.Limits.WriteTimeout)
	for {
		select {
		case f := <-c.out:
			if c.writeFrame(f, deadline) != nil {
				return
			}
			continue
		default:
		}
		frame := websocket.FormatCloseMessage(c.closeCode, c.closeText)
		c.ws.WriteControl(websocket.CloseMessage, frame, deadline)
		return
	}
}

func (c *serverConn) writeFrame(f frame, deadline time.Time) error {
	f.count(c, -1)
	c.ws.SetWriteDeadline(deadline)
	return c.ws.WriteMessage(websocket.TextMessage, f.b)
}

// readFrame reads one message, at most MaxFrame of it. The library's own limit
// would close the connection without a word of why.
func readFrame(ws *websocket.Conn) ([]byte, error) {
	kind, r, err := ws.NextReader()
	if err != nil {
		return nil, err
	}
	if kind != websocket.TextMessage {
		return nil, &breach{CodeMalformed, "binary frames are not used", websocket.CloseUnsupportedData}
	}
	b, err := io.ReadAll(io.LimitReader(r, MaxFrame+1))
	if err == nil && len(b) > MaxFrame {
		err = errTooLarge()
	}
	return b, err
}

// keepLatest puts v into a channel of one place, in place of what is there. A
// reader must not write, or two ends that both do may wait for each other; so
// it leaves the pong to the writer, and only the latest ping needs one.
func keepLatest(ch chan string, v string) {
	for {
		select {
		case ch <- v:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}

// truncated is as much of an address as a log needs.
func truncated(source netip.Addr) string {
	bits := 24
	if source.Is6() {
		bits = 48
	}
	p, err := source.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return p.String()
}
