package punch

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// connQueue is how many packets may wait for the agent. What does not fit is
// lost, and sent again by the peer.
const connQueue = 64

// conn is one attempt on one socket, as the net.PacketConn that an ICE agent
// reads and writes. Closing it leaves the socket alone.
type conn struct {
	mux     *Mux
	attempt *attempt

	mu       sync.Mutex
	readable sync.Cond // a packet, a deadline, or the end
	queue    []packet
	closed   bool
	deadline time.Time
	timer    *time.Timer // wakes the reader at the deadline
}

type packet struct {
	data []byte
	src  netip.AddrPort
}

func newConn(m *Mux, a *attempt) *conn {
	c := &conn{mux: m, attempt: a}
	c.readable.L = &c.mu
	return c
}

// deliver queues a packet that is authenticated. It keeps b.
func (c *conn) deliver(b []byte, src netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.queue) == connQueue {
		return
	}
	c.queue = append(c.queue, packet{b, src})
	c.readable.Signal()
}

// ReadFrom blocks until there is a packet, the deadline has passed, or the
// conn is closed.
func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, nil, net.ErrClosed
		case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
			return 0, nil, os.ErrDeadlineExceeded
		case len(c.queue) > 0:
			p := c.queue[0]
			c.queue = c.queue[1:]
			return copy(b, p.data), net.UDPAddrFromAddrPort(p.src), nil
		}
		c.readable.Wait()
	}
}

// WriteTo sends b if the attempt may send it now. A packet held back is as
// good as lost on the way, so it is no error.
func (c *conn) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.isClosed() {
		return 0, net.ErrClosed
	}
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not a UDP address", Addr: to.String()}
	}
	c.mux.write(c, b, canonical(udp.AddrPort()))
	return len(b), nil
}

// Close unblocks ReadFrom for good.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.queue = nil
	c.stopTimerLocked()
	c.readable.Broadcast()
	return nil
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// LocalAddr is the socket's.
func (c *conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.mux.LocalAddr()) }

// SetDeadline sets the read deadline; writes do not block.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline makes ReadFrom return os.ErrDeadlineExceeded from t on. The
// zero time is never.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopTimerLocked()
	c.deadline = t
	if !t.IsZero() && !c.closed {
		c.timer = time.AfterFunc(time.Until(t), c.wake)
	}
	return nil
}

// SetWriteDeadline does nothing: writes do not block.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// wake takes the lock, so as not to fall between a reader's look at the clock
// and its wait.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readable.Broadcast()
}

func (c *conn) stopTimerLocked() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// hosts is the mux that one ICE agent sees: the attempt's conn on each socket,
// each of them one host candidate. It has the methods of pion's UDPMux.
type hosts struct {
	ufrag string
	conns []*conn
}

// GetListenAddresses lists the host candidates.
func (h *hosts) GetListenAddresses() []net.Addr {
	addrs := make([]net.Addr, len(h.conns))
	for i, c := range h.conns {
		addrs[i] = c.LocalAddr()
	}
	return addrs
}

// GetConn returns the conn behind a host candidate.
func (h *hosts) GetConn(ufrag string, addr net.Addr) (net.PacketConn, error) {
	for _, c := range h.conns {
		if ufrag == h.ufrag && c.LocalAddr().String() == addr.String() {
			return c, nil
		}
	}
	return nil, &net.AddrError{Err: "no socket of this attempt", Addr: addr.String()}
}

// RemoveConnByUfrag closes the conns. The agent calls it as it ends, and with
// an empty ufrag as it begins.
func (h *hosts) RemoveConnByUfrag(ufrag string) {
	if ufrag == h.ufrag {
		h.Close()
	}
}

// Close closes the conns, not the sockets.
func (h *hosts) Close() error {
	for _, c := range h.conns {
		c.Close()
	}
	return nil
}
