package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// A source is where a message came from and where its answer goes.
type source struct {
	fiveTuple
	transport string // udp, tcp, tls
	out       sink
}

// A sink writes to clients: a UDP socket, or one stream.
type sink interface {
	// write sends b, messages of seg bytes each (0: one message), to a client.
	// It does not wait for slow clients.
	write(b []byte, seg int, to netip.AddrPort) error
}

func (s source) stream() bool { return s.transport != "udp" }

// takes tells whether a client can be sent a message of n bytes. Over a stream
// ours skips a longer one; another, made for what an Ethernet packet holds, may
// end the connection for it, and the peer who sent it is anybody.
func (s source) takes(n int) bool { return !s.stream() || n <= stunmsg.MaxFrame }

func (s source) write(b []byte, seg int) error { return s.out.write(b, seg, s.client) }

// A relayConn is one allocation as this package keeps it: the socket of the
// relayed transport address, and what the client may do with it. To pion it is
// the net.PacketConn of the allocation, which pion closes.
//
// Data goes past pion, in batches as udpsock delivers them; see server_data.go.
type relayConn struct {
	// Constant after newRelayConn.
	server  *Server
	from    source
	id      netip.Addr // pion's name for the client; see engine
	user    string     // identity of the credential
	name    string     // the USERNAME as it was authenticated
	relayed netip.AddrPort
	sock    *udpsock.Socket
	session *session // nil without a rate
	began   time.Time

	answer answer      // to the Allocate; constant once the ledger has the conn
	expiry *time.Timer // likewise; see server_lifetime.go

	life    sync.Mutex   // held while the lifetime changes
	granted atomic.Int64 // the lifetime last granted, a time.Duration

	once  sync.Once
	count traffic

	mu     sync.RWMutex
	rights rights // guarded by mu
}

const (
	permissionLifetime = 5 * time.Minute  // RFC 8656 section 9
	channelLifetime    = 10 * time.Minute // RFC 8656 section 12

	relayBufferBytes = 2 << 20 // of the kernel, each direction
)

func (s *Server) newRelayConn(from source, auth authenticated) *relayConn {
	return &relayConn{
		server: s, from: from, id: s.engine.nextID(), user: auth.user, name: auth.username,
		session: s.sessions.join(auth.user, s.now()), began: s.now(),
	}
}

// listen opens the relayed transport address. port is 0 for any port in the
// configured range; even asks for an even one.
func (c *relayConn) listen(port uint16, even bool) error {
	const tries = 64
	s := c.server
	lo, hi := int(s.cfg.PortMin), int(s.cfg.PortMax)
	var last error
	for range tries {
		p := port
		if p == 0 {
			p = uint16(lo + rand.IntN(hi-lo+1))
			if even {
				p &^= 1
			}
			if int(p) < lo {
				continue
			}
		}
		if !s.ledger.claim(c, p, s.now()) {
			last = fmt.Errorf("port %d is in use", p)
		} else if last = c.open(p); last == nil {
			return nil
		} else {
			s.ledger.strike(c.from.fiveTuple, p, c)
		}
		if port != 0 {
			break
		}
	}
	return fmt.Errorf("open a relayed address: %w", last)
}

// listenPair is listen for an even port of which the next one is free too, and
// reserves that (RFC 8656, section 7.2).
func (c *relayConn) listenPair(now time.Time) (token [8]byte, err error) {
	const tries = 64
	ledger := c.server.ledger
	for range tries {
		if err := c.listen(0, true); err != nil {
			return token, err
		}
		if c.relayed.Port() < c.server.cfg.PortMax {
			if token, ok := ledger.reserve(c, now); ok {
				return token, nil
			}
		}
		c.sock.Close()
		ledger.strike(c.from.fiveTuple, c.relayed.Port(), c)
	}
	return token, fmt.Errorf("open a relayed address: %d even ports tried, and the next one of each is in use", tries)
}

func (c *relayConn) open(port uint16) error {
	sock, err := c.server.loops.Listen(udpsock.Config{
		Network: "udp4", Addr: netip.AddrPortFrom(c.server.cfg.LocalIP, port),
		Raw: true, BufferBytes: relayBufferBytes, Portable: c.server.cfg.Portable,
	})
	if err != nil {
		return err
	}
	c.sock = sock
	c.relayed = netip.AddrPortFrom(c.server.cfg.PublicIP, port)
	return nil
}

// What follows is the net.PacketConn that pion has, to close and to name.

var _ net.PacketConn = (*relayConn)(nil)

// ReadFrom ends pion's goroutine for the allocation, which would sit here with a
// buffer and pass on what is moved without it. An error would end the
// allocation.
func (c *relayConn) ReadFrom([]byte) (int, net.Addr, error) {
	runtime.Goexit()
	return 0, nil, net.ErrClosed
}

// WriteTo is for Send indications, of which pion gets none.
func (c *relayConn) WriteTo([]byte, net.Addr) (int, error) { return 0, errors.ErrUnsupported }

// Close ends the allocation. pion calls it: after a Refresh with lifetime 0,
// which may be expire's, and at the end of everything.
func (c *relayConn) Close() error {
	c.once.Do(func() {
		s := c.server
		c.expiry.Stop()
		s.ledger.strike(c.from.fiveTuple, c.relayed.Port(), c)
		c.sock.Close()
		c.mu.Lock()
		c.rights = rights{}
		c.mu.Unlock()
		s.sessions.leave(c.user, s.now())
		t := c.count.total()
		s.emit(Event{
			Event: "ended", Client: c.from.client.String(), Over: c.from.transport, User: c.user,
			Relayed: c.relayed.String(), Seconds: s.now().Sub(c.began).Seconds(),
			ClientToPeerBytes: int64(t.ToPeer), PeerToClientBytes: int64(t.ToClient),
		})
		s.ledger.leave(c.user, c.from.client.Addr()) // last: Drain waits for it
	})
	return nil
}

// LocalAddr is the relayed transport address.
func (c *relayConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.relayed) }

func (c *relayConn) SetDeadline(time.Time) error      { return nil }
func (c *relayConn) SetReadDeadline(time.Time) error  { return nil }
func (c *relayConn) SetWriteDeadline(time.Time) error { return nil }
