package signaling

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// linger is how long a closed connection may take to acknowledge it. Closing
// a TCP connection with unread data resets it, and the peer would never see
// why it was closed.
const linger = time.Second

// A serverConn is one connection of an agent. Thousands of them wait, and most
// have nothing to say for minutes: so one that waits costs a reader and nothing
// else. It has a writer while there is something to write.
type serverConn struct {
	// constant
	s      *Server
	id     connID
	ws     *websocket.Conn
	conn   *acceptedConn // below ws; nil: not from Listener
	source netip.Addr
	ping   *time.Timer // when the next one is due

	waiting backlog        // in out
	writer  sync.WaitGroup // one, while it is at work

	// owned by the reader, and by what it has started and waits for
	greeted  bool
	admitted bool
	meter    meter
	taking   sync.WaitGroup
	taken    error // what came of the last message

	mu      sync.Mutex
	writing bool    // the writer is at work, or has ended for good
	out     []frame // to be written
	pingDue bool
	pong    *string // payload of the latest ping, to be answered
	closing bool    // after what is in out, by order of shutdown
	// Set with closing.
	closeCode int // 0: say nothing more
	closeText string
}

// serveConn serves a connection until it ends.
func (s *Server) serveConn(ws *websocket.Conn, conn *acceptedConn, source netip.Addr) {
	c := &serverConn{s: s, ws: ws, conn: conn, source: source}
	c.mu.Lock() // the timer may be quicker
	c.ping = time.AfterFunc(s.cfg.Limits.PingInterval, c.pingNow)
	c.mu.Unlock()
	s.enroll(c)

	err := c.read()
	s.expel(c)
	c.end(err)
	c.writer.Wait() // closing: it ends, and none begins after it
	c.ping.Stop()
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
	l := &c.s.cfg.Limits
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) >= l.QueueMessages || int(c.waiting.bytes.Load())+len(f.b) > l.QueueBytes {
		return false
	}
	f.count(c, 1)
	c.out = append(c.out, f)
	c.wakeLocked()
	return true
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.closing, c.closeCode, c.closeText = true, code, text
	c.wakeLocked()
}

func (c *serverConn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// pingNow has a ping sent.
func (c *serverConn) pingNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pingDue = true
	c.wakeLocked()
}

// pongNow has a ping answered. A reader must not write itself, or two ends that
// both do may wait for each other. Of several pings the latest needs a pong.
func (c *serverConn) pongNow(data string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pong = &data
	c.wakeLocked()
}

// wakeLocked starts the writer where none is at work.
func (c *serverConn) wakeLocked() {
	if !c.writing {
		c.writing = true
		c.writer.Add(1)
		go c.write()
	}
}

// read handles messages until the connection ends or breaks the protocol.
func (c *serverConn) read() error {
	limits := &c.s.cfg.Limits
	c.ws.SetReadDeadline(time.Now().Add(limits.HelloTimeout))
	c.ws.SetCloseHandler(func(int, string) error { return nil }) // end answers
	c.ws.SetPongHandler(func(string) error { return c.control(0) })
	c.ws.SetPingHandler(func(data string) error {
		c.pongNow(data)
		return c.control(len(data))
	})
	for {
		r, err := nextText(c.ws)
		if err == nil {
			// A stack that has once been deep stays as large. So the one that
			// waits here, for minutes, does not do what the message asks for.
			c.taking.Go(func() { c.taken = c.takeFrom(r) })
			c.taking.Wait()
			err = c.taken
		}
		var timeout net.Error
		if !c.greeted && errors.As(err, &timeout) && timeout.Timeout() {
			err = &breach{CodeNoHello, "no hello in time", websocket.ClosePolicyViolation}
		}
		if err != nil {
			return err
		}
	}
}

// messageBuffers are those of all connections, each for as long as it takes to
// handle one message.
var messageBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// takeFrom reads one message and takes it. What comes after our close frame is not
// heard.
func (c *serverConn) takeFrom(r io.Reader) (err error) {
	defer func() {
		if p := recover(); p != nil { // a fault of ours is the end of one connection, not of all
			c.s.log.Error("handling a message failed, its connection is closed", "panic", p, "stack", string(debug.Stack()))
			err = errors.New("panic while a message was handled")
		}
	}()
	buf := messageBuffers.Get().(*bytes.Buffer)
	defer messageBuffers.Put(buf)
	b, err := readText(r, buf)
	if err != nil || c.isClosing() {
		return err
	}
	return c.take(b)
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

// A task is one thing for the writer to do.
type task struct {
	frame    frame
	kind     int // of a control frame; 0: write the frame
	data     string
	farewell bool // a close frame, or nothing where nothing more is to be said
	closing  bool // it is one of the last
}

// nextTask is what the writer does next, false when there is nothing: then it
// ends, and the next thing to do starts another one.
func (c *serverConn) nextTask() (t task, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch silent := c.closing && c.closeCode == 0; {
	case c.pong != nil && !c.closing:
		t = task{kind: websocket.PongMessage, data: *c.pong}
		c.pong = nil
	case c.pingDue && !c.closing:
		t = task{kind: websocket.PingMessage}
		c.pingDue = false
	case len(c.out) > 0 && !silent:
		t.frame = c.out[0]
		c.out[0] = frame{}
		if c.out = c.out[1:]; len(c.out) == 0 {
			c.out = nil
		}
		t.frame.count(c, -1)
	case c.closing:
		t.farewell = true
	default:
		c.writing = false
		return task{}, false
	}
	t.closing = c.closing
	return t, true
}

// write does what there is to do. After a farewell, or an error, it does not
// begin again.
func (c *serverConn) write() {
	defer c.writer.Done()
	var last time.Time // for all of the last tasks together
	for {
		t, ok := c.nextTask()
		if !ok {
			return
		}
		deadline := time.Now().Add(c.s.cfg.Limits.WriteTimeout)
		if t.closing {
			if last.IsZero() {
				last = deadline
			}
			deadline = last
		}
		if t.farewell {
			c.farewell(deadline)
			return
		}
		if err := c.carryOut(t, deadline); err != nil {
			c.shutdown(0, "")
			c.ws.NetConn().Close() // wakes the reader
			return
		}
	}
}

func (c *serverConn) carryOut(t task, deadline time.Time) error {
	switch t.kind {
	case websocket.PingMessage:
		c.ping.Reset(c.s.cfg.Limits.PingInterval)
		c.s.tick()
		fallthrough
	case websocket.PongMessage:
		return c.ws.WriteControl(t.kind, []byte(t.data), deadline)
	}
	c.ws.SetWriteDeadline(deadline)
	return c.ws.WriteMessage(websocket.TextMessage, t.frame.b)
}

// farewell sends the close frame and gives the reader a last deadline.
func (c *serverConn) farewell(deadline time.Time) {
	if c.closeCode != 0 {
		c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(c.closeCode, c.closeText), deadline)
	}
	c.ws.NetConn().SetReadDeadline(time.Now().Add(linger))
}

// nextText waits for a message, which must be text.
func nextText(ws *websocket.Conn) (io.Reader, error) {
	kind, r, err := ws.NextReader()
	if err == nil && kind != websocket.TextMessage {
		err = &breach{CodeMalformed, "binary frames are not used", websocket.CloseUnsupportedData}
	}
	return r, err
}

// readText reads a message into buf, at most MaxFrame of it. The library's own
// limit would close the connection without a word of why.
func readText(r io.Reader, buf *bytes.Buffer) ([]byte, error) {
	buf.Reset()
	_, err := buf.ReadFrom(io.LimitReader(r, MaxFrame+1))
	if err == nil && buf.Len() > MaxFrame {
		err = errTooLarge()
	}
	return buf.Bytes(), err
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
