package punch

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

const (
	// answerFor is how long a mux goes on answering for a successful attempt.
	// The peer may still wait for an answer that was lost.
	answerFor = 30 * time.Second
	// transactionLife is how long an answer to a check is waited for.
	transactionLife = 4 * time.Second
	// maxTransactions bounds the table; at sendRate it cannot be reached by
	// fewer than five attempts at once.
	maxTransactions = 4096
	// maxEnded bounds the attempts that are answered for.
	maxEnded = 16
)

// Sender is the socket under a mux. Both methods are called by several
// goroutines, and must not block for long.
type Sender interface {
	// Send sends b to dst, in datagrams of seg bytes.
	Send(b []byte, seg int, dst netip.AddrPort) error
	// SendTTL sends one datagram with the given IPv4 TTL.
	SendTTL(b []byte, dst netip.AddrPort, ttl int) error
	// LocalAddr is the address the socket is bound to.
	LocalAddr() netip.AddrPort
	// Network is "udp4" or "udp6".
	Network() string
}

// Mux lets any number of attempts share one socket. Requests go to the attempt
// whose ufrag they name, responses to the one that sent the request, so two
// attempts at the same peer address do not meet. Whatever is not authenticated
// by an attempt's credentials ends here.
type Mux struct {
	sender Sender
	trace  *trace.Recorder

	mu           sync.Mutex
	closed       bool
	conns        map[string]*conn // by local ufrag
	order        []*conn          // oldest first
	transactions map[stunmsg.TransactionID]transaction
}

// transaction is a check that waits for its answer.
type transaction struct {
	conn *conn
	dst  netip.AddrPort
	sent time.Time
}

// NewMux returns a mux over one socket. The socket's owner hands it STUN
// messages through HandleSTUN.
func NewMux(s Sender, t *trace.Recorder) *Mux {
	return &Mux{
		sender:       s,
		trace:        t,
		conns:        make(map[string]*conn),
		transactions: make(map[stunmsg.TransactionID]transaction),
	}
}

// LocalAddr is the socket's address.
func (m *Mux) LocalAddr() netip.AddrPort { return m.sender.LocalAddr() }

// Sender is the socket.
func (m *Mux) Sender() Sender { return m.sender }

// HandleSTUN takes one STUN message that is nobody else's. It does not block,
// and does not keep b. Anybody can send to the socket, so what no attempt
// waits for is dropped before it costs more than a look at its header.
func (m *Mux) HandleSTUN(b []byte, src netip.AddrPort) {
	h, err := stunmsg.Parse(b)
	if err != nil || h.Method != stunmsg.MethodBinding {
		return
	}
	src = canonical(src)
	switch now := time.Now(); h.Class {
	case stunmsg.ClassRequest:
		m.handleRequest(b, src, now)
	case stunmsg.ClassSuccess:
		m.handleResponse(b, h.TransactionID, src, now)
	default:
		// An indication is an opener that came through. An error response to a
		// check could only be forged: no agent of ours sends one.
	}
}

func (m *Mux) handleRequest(b []byte, src netip.AddrPort, now time.Time) {
	msg, c := m.requested(b)
	if c == nil {
		return
	}
	switch c.attempt.request(msg, src, now) {
	case opening, checking:
		c.deliver(msg.Raw(), src)
	case answering:
		if b := c.attempt.reply(msg, src, now); b != nil {
			m.send(c.attempt, b, src)
		}
	case ended:
	}
}

// requested decodes a request and finds the attempt that it names, if any.
func (m *Mux) requested(b []byte) (*stunmsg.Message, *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.conns) == 0 {
		return nil, nil
	}
	msg, err := stunmsg.Decode(b)
	if err != nil {
		return nil, nil
	}
	ufrag, _, _ := strings.Cut(msg.Username(), ":")
	return msg, m.conns[ufrag]
}

func (m *Mux) handleResponse(b []byte, id stunmsg.TransactionID, src netip.AddrPort, now time.Time) {
	m.mu.Lock()
	t, ok := m.transactions[id]
	m.mu.Unlock()
	if !ok {
		return
	}
	msg, err := stunmsg.Decode(b)
	if err != nil || !t.conn.attempt.response(msg, src, t.dst, now.Sub(t.sent)) {
		return // a forged response does not end the transaction
	}
	m.mu.Lock()
	delete(m.transactions, id)
	m.mu.Unlock()
	t.conn.deliver(msg.Raw(), src)
}

// write sends a packet of c's agent, when the attempt lets it.
func (m *Mux) write(c *conn, b []byte, dst netip.AddrPort) {
	msg, err := stunmsg.Decode(b)
	if err != nil {
		return // pion builds no such thing
	}
	now := time.Now()
	if c.attempt.outgoing(msg.Class, msg.UseCandidate(), dst, now) != send {
		return
	}
	if msg.Class == stunmsg.ClassRequest {
		m.remember(msg.TransactionID, transaction{c, dst, now})
	}
	m.send(c.attempt, b, dst)
}

func (m *Mux) send(a *attempt, b []byte, dst netip.AddrPort) {
	if err := m.sender.Send(b, len(b), dst); err != nil {
		a.failed(dst, err)
	}
}

func (m *Mux) remember(id stunmsg.TransactionID, t transaction) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.transactions) >= maxTransactions {
		for id, old := range m.transactions {
			if t.sent.Sub(old.sent) > transactionLife {
				delete(m.transactions, id)
			}
		}
		if len(m.transactions) >= maxTransactions {
			return
		}
	}
	m.transactions[id] = t
}

// open registers an attempt, and returns its conn on this socket.
func (m *Mux) open(a *attempt, now time.Time) (*conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("mux on %s: %w", m.LocalAddr(), net.ErrClosed)
	}
	m.sweepLocked(now)
	if m.conns[a.local.Ufrag] != nil {
		return nil, fmt.Errorf("mux on %s: ufrag %q is in use", m.LocalAddr(), a.local.Ufrag)
	}
	c := newConn(m, a)
	m.conns[a.local.Ufrag] = c
	m.order = append(m.order, c)
	return c, nil
}

// sweep forgets what is over: attempts, the oldest of those that are answered
// for when they are too many, and the transactions of all of them.
func (m *Mux) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweepLocked(now)
}

func (m *Mux) sweepLocked(now time.Time) {
	surplus := -maxEnded
	for _, c := range m.order {
		if c.isClosed() {
			surplus++
		}
	}
	m.order = slices.DeleteFunc(m.order, func(c *conn) bool {
		if !c.attempt.over(now) && (surplus <= 0 || !c.isClosed()) {
			return false
		}
		delete(m.conns, c.attempt.local.Ufrag)
		surplus--
		return true
	})
	for id, t := range m.transactions {
		if t.conn.isClosed() || now.Sub(t.sent) > transactionLife {
			delete(m.transactions, id)
		}
	}
}

// Close ends the mux: attempts that have no other socket end with net.ErrClosed,
// and nothing is answered any more. It does not close the socket.
func (m *Mux) Close() error {
	m.mu.Lock()
	conns := m.order
	m.closed = true
	m.order = nil
	clear(m.conns)
	clear(m.transactions)
	m.mu.Unlock()
	for _, c := range conns {
		c.Close()
		c.attempt.desert()
	}
	return nil
}

// canonical is an address as it is compared: IPv4-mapped IPv6 becomes IPv4.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
