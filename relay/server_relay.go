package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
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

func (s source) write(b []byte, seg int) error { return s.out.write(b, seg, s.client) }

// A relayConn is one allocation as this package keeps it: the socket of the
// relayed transport address, and what the client may do with it. To pion it is
// the net.PacketConn of the allocation; pion owns the lifetime and closes it.
//
// Data goes past pion where it can. Between a client and a peer with a channel
// it is moved here, in batches as the kernel delivers them; only peers without
// a channel are left to pion's indications. Either way every packet to a peer
// passes toPeer, and with it the policy.
type relayConn struct {
	// Constant after newRelayConn.
	server  *Server
	from    source
	id      netip.Addr // pion's name for the client; see engine
	user    string     // identity of the credential
	name    string     // the USERNAME as it was authenticated
	relayed netip.AddrPort
	sock    *udpsock.Socket
	inbox   chan inbound
	closed  chan struct{}
	once    sync.Once

	clientToPeer, peerToClient leg
	began                      time.Time

	answer answer // to the Allocate; constant once the ledger has the conn

	mu          sync.RWMutex
	permissions map[netip.Addr]time.Time // until
	channels    map[uint16]*channelBinding
	peers       map[netip.AddrPort]*channelBinding
	spent       bucket // bytes
}

// A channelBinding is a channel and its peer (RFC 8656 section 12).
type channelBinding struct {
	number uint16
	peer   netip.AddrPort
	until  time.Time
}

// inbound is a datagram of a peer without a channel, on its way through pion.
type inbound struct {
	data []byte
	peer netip.AddrPort
}

const (
	inboxSize = 128

	permissionLifetime = 5 * time.Minute  // RFC 8656 section 9
	channelLifetime    = 10 * time.Minute // RFC 8656 section 12

	relayBufferBytes = 2 << 20 // of the kernel, each direction
)

func (s *Server) newRelayConn(from source, auth authenticated) *relayConn {
	return &relayConn{
		server: s, from: from, id: s.engine.nextID(), user: auth.user, name: auth.username,
		inbox: make(chan inbound, inboxSize), closed: make(chan struct{}),
		began:       s.now(),
		permissions: make(map[netip.Addr]time.Time),
		channels:    make(map[uint16]*channelBinding), peers: make(map[netip.AddrPort]*channelBinding),
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
		if next := c.relayed.Port() + 1; next <= c.server.cfg.PortMax {
			if token, ok := ledger.reserve(next, c.user, now); ok {
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

// peerHandler is the udpsock.Handler of the relayed address.
type peerHandler struct{ *relayConn }

func (h peerHandler) HandleData(p *udpsock.Packet) {
	h.fromPeer(p.Data, p.Seg, p.Src)
	p.Release()
}

func (h peerHandler) HandleSTUN(b []byte, src netip.AddrPort) { h.fromPeer(b, len(b), src) }

// fromPeer takes datagrams of seg bytes that came to the relayed address.
func (c *relayConn) fromPeer(data []byte, seg int, peer netip.AddrPort) {
	n := packets(len(data), seg)
	now := c.server.now()
	number, permitted := c.lookupPeer(peer, now)
	switch {
	case !permitted:
		c.server.count.drop(dropNoPermission, n)
	case !c.afford(len(data), now):
		c.server.count.drop(dropBudget, n)
	case number == 0:
		c.toInbox(data, seg, peer)
	default:
		c.toClient(number, data, seg)
	}
}

// toInbox leaves datagrams to pion, which makes Data indications of them.
func (c *relayConn) toInbox(data []byte, seg int, peer netip.AddrPort) {
	for d := range udpsock.Cut(data, seg) {
		select {
		case c.inbox <- inbound{append([]byte(nil), d...), peer}:
		default:
			c.server.count.drop(dropQueue, 1)
		}
	}
}

// toClient sends datagrams of a peer with a channel as ChannelData.
func (c *relayConn) toClient(number uint16, data []byte, seg int) {
	n := packets(len(data), seg)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := (*buf)[:0]
	for d := range udpsock.Cut(data, seg) {
		b = stunmsg.AppendChannelData(b, number, d, c.from.stream())
	}
	*buf = b[:0]
	if err := c.from.write(b, seg+stunmsg.ChannelDataHeaderSize); err != nil {
		c.server.count.drop(dropFor(err), n)
		return
	}
	c.peerToClient.add(len(data), n)
	c.server.count.peerToClient.add(len(data), n)
}

// buffers are scratch space for one batch with its headers.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 68<<10); return &b }}

// toPeer sends datagrams of seg bytes to a peer: the one way out, for channels
// and indications alike. The destination is judged here again, address and
// port, whatever was permitted before.
func (c *relayConn) toPeer(data []byte, seg int, peer netip.AddrPort) {
	s, n, now := c.server, packets(len(data), seg), c.server.now()
	other := s.neighbour(peer)
	if err := s.policy.Check(peer, func(uint16) bool { return other != nil }); err != nil {
		s.count.denied.Add(int64(n))
		s.count.drop(dropDenied, n)
		return
	}
	if !c.afford(len(data), now) {
		s.count.drop(dropBudget, n)
		return
	}
	if other != nil {
		// Another allocation of ours: handed over without the network, so a
		// packet to our own address can never reach another socket on it.
		other.fromPeer(data, seg, c.relayed)
	} else if err := c.sock.Send(data, seg, peer); err != nil {
		s.count.drop(dropFor(err), n)
		return
	}
	c.clientToPeer.add(len(data), n)
	s.count.clientToPeer.add(len(data), n)
}

// neighbour is the live allocation whose relayed address peer is.
func (s *Server) neighbour(peer netip.AddrPort) *relayConn {
	if peer.Addr() != s.cfg.PublicIP {
		return nil
	}
	return s.ledger.atPort(peer.Port())
}

func dropFor(err error) dropReason {
	if errors.Is(err, errQueueFull) {
		return dropQueue
	}
	return dropSend
}

// packets is how many datagrams of seg bytes n bytes are.
func packets(n, seg int) int {
	if n == 0 || seg <= 0 {
		return 1
	}
	return (n + seg - 1) / seg
}

func (c *relayConn) lookupPeer(peer netip.AddrPort, now time.Time) (channel uint16, permitted bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if b := c.peers[peer]; b != nil && now.Before(b.until) {
		return b.number, true
	}
	return 0, now.Before(c.permissions[peer.Addr()])
}

// permitted tells whether the client may send to peer by an indication.
func (c *relayConn) permitted(peer netip.AddrPort, now time.Time) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return now.Before(c.permissions[peer.Addr()])
}

func (c *relayConn) lookupChannel(number uint16, now time.Time) (peer netip.AddrPort, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.channels[number]
	if b == nil || !now.Before(b.until) {
		return peer, false
	}
	return b.peer, true
}

// afford charges the allocation's byte budget, which both directions share.
func (c *relayConn) afford(bytes int, now time.Time) bool {
	rate := float64(c.server.cfg.Limits.BytesPerSecond)
	if rate == 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spent.take(float64(bytes), rate, max(rate, 1<<17), now)
}

// room tells whether all of peers may have a permission, next to those there
// are.
func (c *relayConn) room(peers []netip.Addr, most int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, until := range c.permissions {
		if !now.Before(until) {
			delete(c.permissions, a)
		}
	}
	n := len(c.permissions)
	for _, p := range peers {
		if _, ok := c.permissions[p]; !ok {
			n++
		}
	}
	return n <= most
}

// roomChannel tells whether one more channel may be bound.
func (c *relayConn) roomChannel(number uint16, most int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, b := range c.channels {
		if !now.Before(b.until) {
			delete(c.channels, n)
			delete(c.peers, b.peer)
		}
	}
	return c.channels[number] != nil || len(c.channels) < most
}

func (c *relayConn) permit(peers []netip.Addr, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range peers {
		c.permissions[p] = now.Add(permissionLifetime)
	}
}

// bind enters a channel that pion has accepted.
func (c *relayConn) bind(number uint16, peer netip.AddrPort, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Whatever number or peer were bound to before has expired: pion refuses
	// a second binding of either.
	if old := c.channels[number]; old != nil {
		delete(c.peers, old.peer)
	}
	if old := c.peers[peer]; old != nil {
		delete(c.channels, old.number)
	}
	b := &channelBinding{number, peer, now.Add(channelLifetime)}
	c.channels[number], c.peers[peer] = b, b
	c.permissions[peer.Addr()] = now.Add(permissionLifetime)
}

// What follows is the net.PacketConn that pion has.

var _ net.PacketConn = (*relayConn)(nil)

// ReadFrom gives pion the datagrams of peers without a channel.
func (c *relayConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		select {
		case in := <-c.inbox:
			if len(in.data) > len(p) { // pion would pass on a part
				c.server.count.drop(dropUnexpected, 1)
				continue
			}
			return copy(p, in.data), net.UDPAddrFromAddrPort(in.peer), nil
		case <-c.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

// WriteTo sends what came in a Send indication. An error would make pion give
// up nothing but a log line, so a packet that could not be sent is a loss.
func (c *relayConn) WriteTo(p []byte, to net.Addr) (int, error) {
	peer, ok := addrPort(to)
	if !ok {
		c.server.count.drop(dropUnexpected, 1)
		return len(p), nil
	}
	c.toPeer(p, len(p), peer)
	return len(p), nil
}

// Close ends the allocation. pion calls it: at expiry, after a Refresh with
// lifetime 0, and at the end of everything.
func (c *relayConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		s := c.server
		s.ledger.strike(c.from.fiveTuple, c.relayed.Port(), c)
		s.engine.forget(c.id)
		c.sock.Close()
		s.emit(Event{
			Event: "ended", Client: c.from.client.String(), Over: c.from.transport, User: c.user,
			Relayed: c.relayed.String(), Seconds: s.now().Sub(c.began).Seconds(),
			ClientToPeerBytes: c.clientToPeer.bytes.Load(), PeerToClientBytes: c.peerToClient.bytes.Load(),
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

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
