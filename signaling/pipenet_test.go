package signaling

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A pipeNet is a network of one server for tests in a synctest bubble, where
// real sockets would stop the clock.
type pipeNet struct {
	accept chan net.Conn

	down  atomic.Bool // dialing fails
	stuck atomic.Bool // dialing does not end by itself
	dials atomic.Int32
	lag   atomic.Int64 // one way, of connections yet to be dialed, in ns

	mu     sync.Mutex
	closed chan struct{} // of the listener
	conns  []*pipeConn   // client side, as dialed
}

func newPipeNet() *pipeNet {
	return &pipeNet{accept: make(chan net.Conn), closed: make(chan struct{})}
}

// A pipeConn is one end of a connection. After cut, what is written is lost,
// which no end can tell from silence.
type pipeConn struct {
	net.Conn
	cut *atomic.Bool // shared by both ends
}

func (c *pipeConn) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *pipeConn) Close() error {
	if c.cut.Load() {
		return c.Conn.SetDeadline(aLongTimeAgo) // the other end must not see it
	}
	return c.Conn.Close()
}

func (n *pipeNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.dials.Add(1)
	if n.stuck.Load() {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if n.down.Load() {
		return nil, errors.New("network is down")
	}
	a, b := net.Pipe()
	cut := new(atomic.Bool)
	if lag := time.Duration(n.lag.Load()); lag > 0 {
		a, b = newLagConn(a, lag), newLagConn(b, lag)
	}
	client, server := &pipeConn{a, cut}, &pipeConn{b, cut}
	select {
	case n.accept <- server:
	case <-n.listener():
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, client)
	return client, nil
}

// cutAll makes every connection there is go silent.
func (n *pipeNet) cutAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.cut.Store(true)
	}
}

func (n *pipeNet) Accept() (net.Conn, error) {
	select {
	case c := <-n.accept:
		return c, nil
	case <-n.listener():
		return nil, net.ErrClosed
	}
}

func (n *pipeNet) listener() chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

func (n *pipeNet) Close() error {
	select {
	case <-n.listener():
	default:
		close(n.listener())
	}
	return nil
}

// reopen lets another server accept.
func (n *pipeNet) reopen() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = make(chan struct{})
}

func (n *pipeNet) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8080} }

// client starts a client in the bubble; the test's end stops it.
func (n *pipeNet) client(t testing.TB, cfg ClientConfig) *testClient {
	t.Helper()
	cfg.URL = "ws://192.0.2.1:8080"
	cfg.Dial = n.dial
	return start(t, cfg)
}

// cutLast makes the last connection go silent.
func (n *pipeNet) cutLast() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[len(n.conns)-1].cut.Store(true)
}

// closeAll closes every connection there is.
func (n *pipeNet) closeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
}

// A lagConn delivers what is written after a while, and does not make the
// writer wait for it.
type lagConn struct {
	net.Conn
	lag    time.Duration
	queue  chan lagged
	once   sync.Once
	closed chan struct{}
	idle   chan struct{} // closed when nothing more is delivered
}

type lagged struct {
	b  []byte
	at time.Time
}

func newLagConn(inner net.Conn, lag time.Duration) *lagConn {
	c := &lagConn{
		Conn: inner, lag: lag, queue: make(chan lagged, 1024),
		closed: make(chan struct{}), idle: make(chan struct{}),
	}
	go c.deliver()
	return c
}

func (c *lagConn) deliver() {
	defer close(c.idle)
	for {
		select {
		case l := <-c.queue:
			time.Sleep(time.Until(l.at))
			c.Conn.Write(l.b)
		case <-c.closed:
			return
		}
	}
}

func (c *lagConn) Write(b []byte) (int, error) {
	select {
	case c.queue <- lagged{bytes.Clone(b), time.Now().Add(c.lag)}:
		return len(b), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *lagConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	err := c.Conn.Close()
	<-c.idle
	return err
}
