package relay

import (
	"errors"
	"iter"
	"net/netip"
	"sync"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// The way of a byte, in batches: data are datagrams of seg bytes each, of which
// the last may be shorter, and what arrived as one batch leaves as one. Data of
// no bytes is one empty datagram, which is relayed too (RFC 8656 section 12.4).
//
//	client ── fromClient ── shaper ── toPeer ────── peer
//	client ── toClient ──── shaper ── fromPeer ──── peer
//
// There is a shaper only with Limits.SessionRate. Each step counts.

// fromClient takes what the client sent to a peer that it has a channel or a
// permission for.
func (c *relayConn) fromClient(data []byte, seg int, peer netip.AddrPort) {
	n := packets(len(data), seg)
	c.count.fromClient.add(len(data), n)
	c.server.count.fromClient.add(len(data), n)
	if c.session == nil {
		c.toPeer(data, seg, peer)
		return
	}
	c.session.up.pass(parcel{send: c.toPeer, peer: peer, data: data, seg: seg})
}

// toPeer sends to a peer: the one way out, for channels and indications alike.
// The destination is judged here again, address and port, whatever was
// permitted before.
func (c *relayConn) toPeer(data []byte, seg int, peer netip.AddrPort) {
	s, n := c.server, packets(len(data), seg)
	other := s.neighbour(peer)
	if err := s.policy.Check(peer, func(uint16) bool { return other != nil }); err != nil {
		s.count.denied.Add(int64(n))
		s.count.drop(dropDenied, n)
		return
	}
	var err error
	if other != nil {
		// Another allocation of ours: handed over without the network, so a
		// packet to our own address can never reach another socket on it.
		other.fromPeer(data, seg, c.relayed)
	} else {
		err = c.sock.Send(data, seg, peer)
	}
	lost, lostBytes := lossOf(err, n, len(data), 0)
	s.count.drop(dropFor(err), lost)
	c.count.toPeer.add(len(data)-lostBytes, n-lost)
	s.count.toPeer.add(len(data)-lostBytes, n-lost)
}

// neighbour is the live allocation whose relayed address peer is.
func (s *Server) neighbour(peer netip.AddrPort) *relayConn {
	if peer.Addr() != s.cfg.PublicIP {
		return nil
	}
	return s.ledger.atPort(peer.Port())
}

// peerHandler is the udpsock.Handler of the relayed address.
type peerHandler struct{ *relayConn }

func (h peerHandler) HandleData(p *udpsock.Packet) {
	h.fromPeer(p.Data, p.Seg, p.Src)
	p.Release()
}

// HandleSTUN is not called on a raw socket.
func (h peerHandler) HandleSTUN([]byte, netip.AddrPort) {}

// fromPeer takes what came to the relayed address.
func (c *relayConn) fromPeer(data []byte, seg int, peer netip.AddrPort) {
	n := packets(len(data), seg)
	if _, permitted := c.lookupPeer(peer, c.server.now()); !permitted {
		c.server.count.drop(dropNoPermission, n)
		return
	}
	c.count.fromPeer.add(len(data), n)
	c.server.count.fromPeer.add(len(data), n)
	if c.session == nil {
		c.toClient(data, seg, peer)
		return
	}
	c.session.down.pass(parcel{send: c.toClient, peer: peer, data: data, seg: seg})
}

// toClient sends what a peer sent as ChannelData or, without a channel, as Data
// indications.
func (c *relayConn) toClient(data []byte, seg int, peer netip.AddrPort) {
	number, permitted := c.lookupPeer(peer, c.server.now())
	if !permitted { // any more, after it waited in a shaper
		c.server.count.drop(dropNoPermission, packets(len(data), seg))
		return
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := (*buf)[:0]
	long := 0
	if number == 0 {
		for d := range datagrams(data, seg) {
			b = append(b[:0], stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peer).Data(d).Bytes()...)
			if !c.from.takes(len(b)) {
				long++
				continue
			}
			c.sendToClient(b, 0, len(d), 1)
		}
	} else {
		payload, n := 0, 0
		for d := range datagrams(data, seg) {
			end := len(b)
			b = stunmsg.AppendChannelData(b, number, d, c.from.stream())
			if !c.from.takes(len(b) - end) {
				b = b[:end]
				long++
				continue
			}
			payload += len(d)
			n++
		}
		if n > 0 {
			c.sendToClient(b, seg+stunmsg.ChannelDataHeaderSize, payload, n)
		}
	}
	c.server.count.drop(dropTooLong, long)
	*buf = b[:0]
}

// sendToClient sends messages of seg bytes that hold n datagrams of payload
// bytes in all.
func (c *relayConn) sendToClient(b []byte, seg, payload, n int) {
	err := c.from.write(b, seg)
	header := (len(b) - payload) / n // and padding over a stream, which takes all or nothing
	lost, lostBytes := lossOf(err, n, payload, header)
	c.server.count.drop(dropFor(err), lost)
	c.count.toClient.add(payload-lostBytes, n-lost)
	c.server.count.toClient.add(payload-lostBytes, n-lost)
}

// buffers are scratch space for one batch with its headers.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 68<<10); return &b }}

// lossOf is how many of n datagrams, payload bytes in all, were lost by a write
// that returned err, and how much payload: each had so long a header. Only a
// socket loses a part.
func lossOf(err error, n, payload, header int) (datagrams, bytes int) {
	var loss *udpsock.LossError
	switch {
	case err == nil:
		return 0, 0
	case errors.As(err, &loss) && loss.Datagrams > 0:
		return loss.Datagrams, loss.Bytes - loss.Datagrams*header
	}
	return n, payload
}

func dropFor(err error) dropReason {
	if errors.Is(err, errQueueFull) {
		return dropQueue
	}
	return dropSend
}

// datagrams yields each datagram of seg bytes in data.
func datagrams(data []byte, seg int) iter.Seq[[]byte] {
	if len(data) == 0 {
		return func(yield func([]byte) bool) { yield(nil) }
	}
	return udpsock.Cut(data, seg)
}

// packets is how many datagrams of seg bytes n bytes are.
func packets(n, seg int) int {
	if n == 0 || seg <= 0 {
		return 1
	}
	return (n + seg - 1) / seg
}
