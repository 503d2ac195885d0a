package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/turn/v3"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// transactions sends requests and retransmits them until their answers come, by
// means of pion's client. It takes checked messages from the server only.
type transactions struct {
	client *turn.Client
	server net.Addr
	conn   *requestConn

	mu     sync.Mutex
	closed bool           // guarded by mu
	wait   sync.WaitGroup // of PerformTransaction, which knows no context; none begins once closed
}

func newTransactions(conn clientConn, server netip.AddrPort, retry time.Duration) (*transactions, error) {
	t := &transactions{server: net.UDPAddrFromAddrPort(server), conn: &requestConn{conn: conn}}
	var err error
	t.client, err = turn.NewClient(&turn.ClientConfig{Conn: t.conn, RTO: retry})
	return t, err
}

// roundTrip sends req until it is answered. It gives up when ctx ends, or after
// seven sends, with [ErrNoAnswer].
func (t *transactions) roundTrip(ctx context.Context, req []byte) (*stunmsg.Message, error) {
	m, err := stunmsg.ToPion(req, stunmsg.AsServer)
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	begun := t.begin(func() {
		r, err := t.client.PerformTransaction(m, t.server, false)
		if err != nil {
			done <- result{err: err}
			return
		}
		done <- result{raw: r.Msg.Raw}
	})
	if !begun {
		return nil, net.ErrClosed
	}
	select {
	case r := <-done:
		switch {
		case t.conn.closed.Load():
			return nil, net.ErrClosed
		case r.err != nil:
			return nil, ErrNoAnswer // all that is left: the conn never errs
		}
		return stunmsg.Decode(r.raw)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
	}
}

// answered takes a response from the server, checked.
func (t *transactions) answered(b []byte) {
	// Errors are about messages that pion cannot place; they are nobody's loss.
	_, _ = t.client.HandleInbound(b, t.server)
}

// begin runs f in a goroutine that close waits for; it is false after close.
func (t *transactions) begin(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wait.Go(f)
	return true
}

// close ends all transactions. One that has begun and that pion does not know yet
// fails in its first send, so that none is left behind.
func (t *transactions) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.conn.closed.Store(true)
	t.client.Close()
	t.wait.Wait()
}

// requestConn is what pion's client sends its requests on. A failed send is a
// lost one: pion would give the whole transaction up.
type requestConn struct {
	conn   clientConn
	closed atomic.Bool
}

var errWriteOnly = errors.New("only for sending requests")

func (c *requestConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	f := c.conn.buffer()
	f.b = append(f.b, b...)
	_ = c.conn.send(f, 0)
	return len(b), nil
}

func (c *requestConn) LocalAddr() net.Addr                    { return net.UDPAddrFromAddrPort(c.conn.local()) }
func (c *requestConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errWriteOnly }
func (c *requestConn) SetDeadline(time.Time) error            { return errWriteOnly }
func (c *requestConn) SetReadDeadline(time.Time) error        { return errWriteOnly }
func (c *requestConn) SetWriteDeadline(time.Time) error       { return errWriteOnly }
func (c *requestConn) Close() error                           { return nil }
