package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v3"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// An engine is pion/turn's server behind a net.PacketConn in memory. It keeps
// the allocations, their permissions and channels; data does not pass it. Its
// only client is the guard: what pion reads are messages that this package built
// after it had authenticated and judged the request, so none of
// the known holes of turn v3.0.3 and stun v2.0.0 can be reached from a network:
//
//   - a zero-length XOR address ends the process (CVE-2026-54909, also in
//     stun v2): stunmsg.Check comes first, and control messages are rebuilt
//   - frame lengths 0xFFFC and 0xFFEC spin over TCP, single bytes recurse:
//     pion's STUNConn is not used, streams go through stunmsg.Framer
//   - a failing Accept or read ends the listener for ever: pion has neither
//   - requests are not tied to the user who allocated (441), expired
//     credentials refuse a Refresh, there are no quotas: guard_request.go
//   - denied peers get an error without a code, or 401; a Refresh without an
//     allocation gets no answer: guard_request.go answers 403 and 437
//   - permissions before a denied peer in the same request stay: judged whole
//   - the permission handler sees no port: relayConn.toPeer judges each packet
//   - an allocation that expires while a permission is added ends the process:
//     expiry runs beside the requests and stops a timer that is not there yet.
//     pion's lifetime is never over, ours is: server_lifetime.go
//   - DTLS (CVE-2026-26014 in dtls/v2): never served
//
// pion names clients by address. Here every allocation gets an address of its
// own that exists nowhere, so that one engine serves all listeners, and a new
// allocation never meets the remains of an old one.
type engine struct {
	turn *turn.Server
	conn *engineConn

	serial atomic.Uint64 // the last client's

	nonceMu sync.Mutex // held while pion is asked
	nonce   string     // pion's, for the guard's requests
	renew   time.Time
}

const (
	engineRealm    = "engine"
	engineUser     = "guard"
	engineNonceAge = 30 * time.Minute // pion's own nonces live an hour

	// engineLifetime is what every allocation gets from pion: the longest there
	// is, who asks for an hour gets 10 minutes. longestLifetime is the most that
	// clients get, so much less that ours is over long before.
	engineLifetime  = time.Hour - time.Second
	longestLifetime = time.Hour - time.Minute
)

var (
	engineKey       = stunmsg.LongTermKey(engineUser, engineRealm, "") // protects nothing: the conn is in memory
	errNoAnswer     = errors.New("turn engine: no answer")
	errEngineClosed = fmt.Errorf("turn engine: %w", net.ErrClosed)
)

func newEngine() (*engine, error) {
	e := &engine{conn: &engineConn{jobs: make(chan *job), closed: make(chan struct{})}}
	logs := logging.NewDefaultLoggerFactory()
	logs.Writer = io.Discard
	logs.DefaultLogLevel = logging.LogLevelDisabled
	server, err := turn.NewServer(turn.ServerConfig{
		Realm:              engineRealm,
		LoggerFactory:      logs,
		InboundMTU:         1 << 16,
		ChannelBindTimeout: channelLifetime,
		AuthHandler:        func(string, string, net.Addr) ([]byte, bool) { return engineKey, true },
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn:            e.conn,
			RelayAddressGenerator: e.conn,
			PermissionHandler:     func(net.Addr, net.IP) bool { return true }, // judged before
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("turn engine: %w", err)
	}
	e.turn = server
	return e, nil
}

// nextID makes an address for a new client: in the discard prefix 100::/64.
func (e *engine) nextID() netip.Addr {
	b := [16]byte{0: 1}
	binary.BigEndian.PutUint64(b[8:], e.serial.Add(1))
	return netip.AddrFrom16(b)
}

// allocate has pion take over the open relay socket of c.
func (e *engine) allocate(c *relayConn, now time.Time) (code int, err error) {
	return e.request(c, now, func(b *stunmsg.Builder) *stunmsg.Builder {
		return b.RequestedTransport(protocolUDP).Lifetime(engineLifetime)
	}, stunmsg.MethodAllocate)
}

// refresh starts pion's lifetime of c anew.
func (e *engine) refresh(c *relayConn, now time.Time) (code int, err error) {
	return e.request(c, now, func(b *stunmsg.Builder) *stunmsg.Builder {
		return b.Lifetime(engineLifetime)
	}, stunmsg.MethodRefresh)
}

// end has pion close c, in its reading goroutine.
func (e *engine) end(c *relayConn, now time.Time) (code int, err error) {
	return e.request(c, now, func(b *stunmsg.Builder) *stunmsg.Builder {
		return b.Lifetime(0)
	}, stunmsg.MethodRefresh)
}

func (e *engine) permit(c *relayConn, peers []netip.Addr, now time.Time) (code int, err error) {
	return e.request(c, now, func(b *stunmsg.Builder) *stunmsg.Builder {
		for _, p := range peers {
			b = b.XORPeerAddress(netip.AddrPortFrom(p, 0))
		}
		return b
	}, stunmsg.MethodCreatePermission)
}

func (e *engine) bind(c *relayConn, number uint16, peer netip.AddrPort, now time.Time) (code int, err error) {
	return e.request(c, now, func(b *stunmsg.Builder) *stunmsg.Builder {
		return b.ChannelNumber(number).XORPeerAddress(peer)
	}, stunmsg.MethodChannelBind)
}

// request asks pion as client c and returns its error code, 0 for success.
func (e *engine) request(c *relayConn, now time.Time, attrs func(*stunmsg.Builder) *stunmsg.Builder, m stunmsg.Method) (int, error) {
	for range 2 {
		nonce, err := e.currentNonce(now)
		if err != nil {
			return 0, err
		}
		b := stunmsg.NewRequest(m).Username(engineUser).Realm(engineRealm).Nonce(nonce)
		b = attrs(b).Sign(engineKey)
		if b.Err() != nil {
			return 0, fmt.Errorf("turn engine: build %v: %w", m, b.Err())
		}
		answer, err := e.conn.ask(&job{message: b.Bytes(), from: clientAddr(c.id), relay: c})
		if err != nil {
			return 0, err
		}
		code, _, _ := answer.ErrorCode()
		switch {
		case answer.Class == stunmsg.ClassSuccess:
			return 0, nil
		case code != codeStaleNonce:
			return max(code, codeBadRequest), nil // pion's bare errors have no code
		}
		e.staleNonce(nonce)
	}
	return 0, errNoAnswer
}

// currentNonce returns pion's nonce, fetched as any client does: by a request
// without one.
func (e *engine) currentNonce(now time.Time) (string, error) {
	e.nonceMu.Lock()
	defer e.nonceMu.Unlock()
	if e.nonce != "" && now.Before(e.renew) {
		return e.nonce, nil
	}
	challenge, err := e.conn.ask(&job{
		message: stunmsg.NewRequest(stunmsg.MethodRefresh).Bytes(),
		from:    clientAddr(netip.IPv6Unspecified()),
	})
	if err != nil {
		return "", fmt.Errorf("fetch nonce: %w", err)
	}
	e.nonce, e.renew = challenge.Nonce(), now.Add(engineNonceAge)
	return e.nonce, nil
}

func (e *engine) staleNonce(nonce string) {
	e.nonceMu.Lock()
	defer e.nonceMu.Unlock()
	if e.nonce == nonce {
		e.nonce = ""
	}
}

// close ends pion and with it every allocation.
func (e *engine) close() error { return e.turn.Close() }

func clientAddr(id netip.Addr) *net.UDPAddr {
	return &net.UDPAddr{IP: id.AsSlice(), Port: 1}
}

// A job is one message for pion, and what pion says to it.
type job struct {
	message []byte
	from    *net.UDPAddr
	relay   *relayConn // what an Allocate gets
	answer  []byte
	done    chan struct{}
}

// engineConn is both of pion's interfaces to a network: the conn its clients
// come through, and the generator of relayed addresses. pion reads, handles
// and answers one message at a time in one goroutine; that it reads again is
// the sign that it is done with the last.
type engineConn struct {
	jobs   chan *job
	closed chan struct{}
	once   sync.Once

	current *job // owned by pion's reading goroutine
}

// do hands j to pion and waits until it is handled.
func (c *engineConn) do(j *job) error {
	j.done = make(chan struct{})
	select {
	case c.jobs <- j:
	case <-c.closed:
		return errEngineClosed
	}
	select {
	case <-j.done:
		return nil
	case <-c.closed:
		return errEngineClosed
	}
}

func (c *engineConn) ask(j *job) (*stunmsg.Message, error) {
	if err := c.do(j); err != nil {
		return nil, err
	}
	if j.answer == nil {
		return nil, errNoAnswer
	}
	return stunmsg.Decode(j.answer)
}

func (c *engineConn) ReadFrom(p []byte) (int, net.Addr, error) {
	if c.current != nil {
		close(c.current.done)
		c.current = nil
	}
	select {
	case j := <-c.jobs:
		c.current = j
		return copy(p, j.message), j.from, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo is called with the response by the reading goroutine.
func (c *engineConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	c.current.answer = append([]byte(nil), p...)
	return len(p), nil
}

// AllocatePacketConn gives pion the socket that the guard has opened for the
// request under way.
func (c *engineConn) AllocatePacketConn(string, int) (net.PacketConn, net.Addr, error) {
	r := c.current.relay
	if r == nil {
		return nil, nil, errors.New("no socket was opened for this request")
	}
	return r, r.LocalAddr(), nil
}

// AllocateConn would be TURN-TCP (RFC 6062), which is off: it has its own
// record of reaching what it should not.
func (c *engineConn) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errors.ErrUnsupported
}

func (c *engineConn) Validate() error { return nil }

func (c *engineConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *engineConn) LocalAddr() net.Addr { return clientAddr(netip.IPv6Unspecified()) }

func (c *engineConn) SetDeadline(time.Time) error      { return nil }
func (c *engineConn) SetReadDeadline(time.Time) error  { return nil }
func (c *engineConn) SetWriteDeadline(time.Time) error { return nil }
