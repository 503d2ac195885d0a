package signaling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
)

// linkQueue is how many bodies may wait for the writer before Send waits.
const linkQueue = 64

// maxQueue is how many messages may wait for the writer in all. A server says
// how fast a client may write; what it can make a client say must not grow
// without bound. The joins of a listener are a quarter of this.
const maxQueue = 4096

var errQueue = errors.New("too much waits for the signal server, which lets us write too slowly")

// writeTimeout bounds every write of a client.
const writeTimeout = 5 * time.Second

// paceShare is the part of the server's limits that a client uses, as their
// clocks are not the same.
const paceShare = 0.5

// What a client says at once in one mailbox, so that it has room in the part
// of the server's queue that the mailbox has at the other end.
const (
	mailboxBurst     = 32
	mailboxByteBurst = 48 << 10
)

// A link is one connection of a client: a queue, a writer and a reader.
type link struct {
	// constant
	c      *Client
	ws     *websocket.Conn
	began  time.Time
	places chan struct{} // one taken per body in the queue
	pong   chan string   // payload of the latest ping, to be answered by the writer
	check  chan struct{} // has one element when a ping is wanted now
	dead   chan struct{} // closed when the connection is over

	closing  atomic.Bool // the writer has ended, the reader is about to
	overfull atomic.Bool // the queue was, likewise

	mu       sync.Mutex
	queue    []queued
	more     chan struct{} // has one element when the queue may be non-empty
	rate     float64
	byteRate float64
	pinged   time.Time // when the ping that is not yet answered was sent

	// guarded by c.mu
	givenUp map[int]bool // refs of Claims that ended before their answer
	named   bool         // the server was told which process this is

	// owned by the reader
	greeted bool

	// owned by the writer
	meter meter
}

type queued struct {
	typ   string
	frame []byte
	body  bool // took a place
}

// serve runs a connection until it ends, and says why it did.
func (c *Client) serve(ctx context.Context, ws *websocket.Conn) error {
	defaults := Limits{}.withDefaults()
	l := &link{
		c: c, ws: ws, began: time.Now(),
		places: make(chan struct{}, linkQueue),
		pong:   make(chan string, 1),
		check:  make(chan struct{}, 1),
		dead:   make(chan struct{}),
		more:   make(chan struct{}, 1),
		rate:   float64(defaults.Messages), byteRate: float64(defaults.Bytes),
		givenUp: make(map[int]bool),
	}
	c.attach(l)
	written := make(chan error, 1)
	go func() { written <- l.write(ctx) }()

	err := l.read()
	close(l.dead)
	writeErr := <-written
	ws.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return whyOver(err, writeErr)
}

// whyOver picks the error that says most: what the server said, even when a
// write failed before it was read; else the failed write, for which the reader
// only waited.
func whyOver(readErr, writeErr error) error {
	if writeErr != nil && isTimeout(readErr) {
		return fmt.Errorf("connection to the signal server lost: %w", writeErr)
	}
	return readErr
}

// push puts a message in line that must not wait: there are few of them, or
// the connection ends.
func (l *link) push(m message) { l.enqueue(queued{typ: m.Type, frame: encode(m)}) }

// send puts a body in line, behind everything else, when there is room.
func (l *link) send(ctx context.Context, m message) error {
	select {
	case l.places <- struct{}{}:
		l.enqueue(queued{m.Type, encode(m), true})
		return nil
	case <-l.dead:
		return ErrNotJoined
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *link) enqueue(q queued) {
	l.mu.Lock()
	full := len(l.queue) >= maxQueue
	if !full {
		l.queue = append(l.queue, q)
	}
	l.mu.Unlock()
	if full {
		l.overfull.Store(true)
		l.closing.Store(true)
		l.ws.NetConn().SetReadDeadline(time.Now()) // wakes the reader
		return
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *link) next() (queued, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.queue = nil
		return queued{}, false
	}
	q := l.queue[0]
	l.queue[0] = queued{}
	l.queue = l.queue[1:]
	if q.body {
		<-l.places
	}
	return q, true
}

// write sends what is queued, and pings, until the connection is over or ctx
// ends. It returns an error only when a write failed.
func (l *link) write(ctx context.Context) error {
	ping := time.NewTicker(l.c.cfg.Ping)
	defer ping.Stop()
	defer func() {
		l.closing.Store(true)
		l.ws.NetConn().SetReadDeadline(time.Now().Add(linger)) // the reader ends soon as well
	}()
	for {
		var err error
		select {
		case <-l.more:
			err = l.drain(ctx)
		case data := <-l.pong:
			err = l.control(websocket.PongMessage, data)
		case <-ping.C:
			err = l.ping()
		case <-l.check:
			err = l.ping()
		case <-ctx.Done():
			return l.goodbye(ctx)
		case <-l.dead:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ping asks the server for a pong. The round trip is that of the first one that is not
// answered yet.
func (l *link) ping() error {
	l.mu.Lock()
	if l.pinged.IsZero() {
		l.pinged = time.Now()
	}
	l.mu.Unlock()
	return l.control(websocket.PingMessage, "")
}

// drain writes the queue at the pace the server allows, until it is empty, or
// the connection is over, or ctx ends.
func (l *link) drain(ctx context.Context) error {
	for ctx.Err() == nil && !l.over() {
		q, ok := l.next()
		if !ok {
			return nil
		}
		if err := l.writeFrame(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// over reports whether the reader has ended.
func (l *link) over() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// writeFrame waits for its turn, no longer than ctx lasts, and writes q, unless
// the connection is over by then.
func (l *link) writeFrame(ctx context.Context, q queued) error {
	for wait := l.pace(len(q.frame)); wait > 0 && ctx.Err() == nil; wait = l.pace(len(q.frame)) {
		turn := time.NewTimer(wait)
		select {
		case <-turn.C:
		case <-ctx.Done():
		case <-l.dead: // the server said how long the wait is
		}
		turn.Stop()
		if l.over() {
			return nil
		}
	}
	l.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := l.ws.WriteMessage(websocket.TextMessage, q.frame); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	l.c.cfg.Trace.Emit(trace.SignalMessage{Sent: true, Via: "signaling", Type: q.typ, Size: len(q.frame)})
	return nil
}

func (l *link) pace(size int) time.Duration {
	l.mu.Lock()
	rate, byteRate := l.rate, l.byteRate
	l.mu.Unlock()
	return l.meter.take(time.Now(), size, rate, byteRate, paceShare)
}

// paceBody is how long a body has to wait for those before it in its mailbox.
func (l *link) paceBody(m *meter, size int) time.Duration {
	l.mu.Lock()
	rate, byteRate := paceShare*l.rate, paceShare*l.byteRate
	l.mu.Unlock()
	return m.takeOf(time.Now(), size, rate, byteRate, mailboxBurst, mailboxByteBurst)
}

func (l *link) control(kind int, data string) error {
	if err := l.ws.WriteControl(kind, []byte(data), time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// goodbye sends what is left and a close frame, unless the network is to be
// left at once.
func (l *link) goodbye(ctx context.Context) error {
	if kicked(ctx) {
		return l.ws.NetConn().Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), linger)
	defer cancel()
	for q, ok := l.next(); ok; q, ok = l.next() {
		if err := l.writeFrame(ctx, q); err != nil {
			return err
		}
	}
	frame := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	return l.ws.WriteControl(websocket.CloseMessage, frame, time.Now().Add(linger))
}

// read handles messages until the connection is over, and says why it is.
func (l *link) read() error {
	l.ws.SetReadDeadline(time.Now().Add(l.c.cfg.Handshake))
	l.ws.SetPingHandler(func(data string) error {
		l.alive()
		keepLatest(l.pong, data)
		return nil
	})
	l.ws.SetPongHandler(func(string) error {
		l.alive()
		l.ponged()
		return nil
	})
	var buf bytes.Buffer
	for {
		var b []byte
		r, err := nextText(l.ws)
		if err == nil {
			b, err = readText(r, &buf)
		}
		if err == nil {
			err = l.take(b)
		} else {
			err = l.whyEnded(err)
		}
		if l.overfull.Load() {
			return errQueue
		}
		if err != nil {
			return err
		}
	}
}

// whyEnded explains an error of the WebSocket.
func (l *link) whyEnded(err error) error {
	var b *breach
	switch {
	case errors.As(err, &b):
		return l.notSignal(b)
	case isTimeout(err) && !l.greeted:
		return fmt.Errorf("signal server %s does not answer hello: %w", l.c.address, err)
	case isTimeout(err):
		return fmt.Errorf("signal server silent for %s: %w", units.Duration(l.c.cfg.Silence), err)
	}
	return explainClose(err)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// notSignal is for a message that no signal server would send.
func (l *link) notSignal(err error) error {
	if l.greeted {
		return fmt.Errorf("signal server %s sent what it should not: %w", l.c.address, err)
	}
	return fmt.Errorf("%w: %s answers hello with something else", ErrNotSignal, l.c.address)
}

// take is one message of the server.
func (l *link) take(b []byte) error {
	m, err := decode(b, fromServer)
	var br *breach
	if errors.As(err, &br) {
		if br.code == CodeUnknownType && l.greeted {
			return nil // of a newer server
		}
		return l.notSignal(br)
	}
	l.c.cfg.Trace.Emit(trace.SignalMessage{Via: "signaling", Type: m.Type, Size: len(b)})
	switch {
	case m.Type == typeError && m.Mailbox == "" && m.Ref == 0:
		if m.Code == CodeUnknownType {
			return nil // we are newer: whoever waits for an answer gives up
		}
		return l.c.refusal(m)
	case !l.greeted && m.Type == typeWelcome:
		l.welcome(m)
	case !l.greeted:
		return l.notSignal(nil)
	default:
		if err := l.c.dispatch(m); err != nil {
			return l.notSignal(err)
		}
	}
	l.alive()
	return nil
}

func (l *link) welcome(m message) {
	l.greeted = true
	l.mu.Lock()
	l.rate, l.byteRate = float64(m.Rate), float64(m.ByteRate)
	l.mu.Unlock()
	l.c.welcomed(m, time.Since(l.began))
}

// alive gives the server another while to be silent.
func (l *link) alive() {
	if !l.greeted || l.closing.Load() {
		return
	}
	now := time.Now()
	l.c.mu.Lock()
	l.c.heard = now
	l.c.mu.Unlock()
	l.ws.SetReadDeadline(now.Add(l.c.cfg.Silence))
	if l.closing.Load() { // meanwhile: the writer's shorter deadline must win
		l.ws.SetReadDeadline(time.Now().Add(linger))
	}
}

// ponged measures the round trip of the last ping.
func (l *link) ponged() {
	l.mu.Lock()
	sent := l.pinged
	l.pinged = time.Time{}
	l.mu.Unlock()
	if sent.IsZero() {
		return
	}
	l.c.mu.Lock()
	l.c.rtt = time.Since(sent)
	l.c.mu.Unlock()
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
