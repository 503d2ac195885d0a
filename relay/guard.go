package relay

import (
	"net/netip"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// The guard is everything between a listener and pion. A datagram or frame
// enters here, is checked, and takes one of three ways: Binding requests to the
// responder, TURN requests to request, data (ChannelData and Send indications)
// straight to the relayed address.

// udpGuard is the udpsock.Handler of a UDP listener and the sink of its
// clients. Errors of single reads and sends are udpsock's to survive; they
// never reach pion, which would stop for good.
type udpGuard struct {
	server   *Server
	listener int
	sock     *udpsock.Socket
	at       stunAddr
	turn     bool // false: only Binding
}

// HandleData takes what one read returned. The socket is raw, so STUN comes
// this way too.
func (g *udpGuard) HandleData(p *udpsock.Packet) {
	defer p.Release()
	from := source{fiveTuple{g.listener, p.Src}, "udp", g}
	if len(p.Data) == 0 {
		g.server.count.drop(dropMalformed, 1)
	}
	for data := p.Data; len(data) > 0; {
		if g.turn && stunmsg.IsChannelData(data) {
			data = g.server.channelData(data, p.Seg, from)
			continue
		}
		d := data[:min(p.Seg, len(data))]
		data = data[len(d):]
		g.server.message(d, from, g.at, g.turn)
	}
}

// channelOf tells the channels of one client apart, and what is no ChannelData
// from them.
func channelOf(datagram []byte) uint32 {
	if !stunmsg.IsChannelData(datagram) {
		return 0
	}
	return uint32(datagram[0])<<8 | uint32(datagram[1])
}

// HandleSTUN is not called on a raw socket.
func (g *udpGuard) HandleSTUN([]byte, netip.AddrPort) {}

func (g *udpGuard) write(b []byte, seg int, to netip.AddrPort) error {
	return g.sock.Send(b, seg, to)
}

// message takes one datagram or frame that is not ChannelData.
func (s *Server) message(b []byte, from source, at stunAddr, turn bool) {
	if err := stunmsg.Check(b, stunmsg.AsServer); err != nil {
		s.count.drop(dropMalformed, 1)
		return
	}
	h, err := stunmsg.Parse(b)
	switch {
	case err != nil:
		s.count.drop(dropMalformed, 1)
	case h.Method == stunmsg.MethodBinding && h.Class == stunmsg.ClassRequest:
		s.responder.respond(b, from, at)
	case h.Method == stunmsg.MethodBinding: // an indication: keeps a NAT open
	case !turn:
		s.count.drop(dropUnexpected, 1)
	case h.Class == stunmsg.ClassIndication:
		s.indication(b, h, from)
	default:
		s.turnRequest(b, h, from)
	}
}

func (s *Server) turnRequest(b []byte, h stunmsg.Header, from source) {
	switch h.Method {
	case stunmsg.MethodAllocate, stunmsg.MethodRefresh, stunmsg.MethodCreatePermission, stunmsg.MethodChannelBind:
	default:
		s.count.drop(dropUnexpected, 1)
		return
	}
	m, err := stunmsg.Decode(b)
	if err != nil {
		s.count.drop(dropMalformed, 1)
		return
	}
	s.request(m, from)
}

// indication takes a Send indication. It is not authenticated (RFC 8656
// section 11.2); what protects is the permission, and the policy in toPeer.
func (s *Server) indication(b []byte, h stunmsg.Header, from source) {
	if h.Method != stunmsg.MethodSend {
		s.count.drop(dropUnexpected, 1)
		return
	}
	c := s.ledger.find(from.fiveTuple)
	if c == nil {
		s.count.drop(dropNoAllocation, 1)
		return
	}
	m, err := stunmsg.Decode(b)
	if err != nil {
		s.count.drop(dropMalformed, 1)
		return
	}
	peer, ok := m.XORPeer()
	switch {
	case !ok || !m.Has(stunmsg.AttrData) || m.UnknownRequired(known) != nil:
		s.count.drop(dropUnexpected, 1)
		return
	case !c.permitted(peer, s.now()):
		s.count.drop(dropNoPermission, 1)
		return
	}
	data, _ := m.Data()
	c.fromClient(data, len(data), peer)
}

// channelData relays the ChannelData that data, datagrams of seg bytes, begins
// with, and returns what follows it. It works in place.
func (s *Server) channelData(data []byte, seg int, from source) (rest []byte) {
	run := stripChannelData(data, seg)
	if run.bad > 0 {
		s.count.drop(dropMalformed, run.bad)
		return run.rest
	}
	n := packets(len(run.payload), run.size)
	c := s.ledger.find(from.fiveTuple)
	if c == nil {
		s.count.drop(dropNoAllocation, n)
		return run.rest
	}
	peer, ok := c.lookupChannel(run.channel, s.now())
	if !ok {
		s.count.drop(dropNoChannel, n)
		return run.rest
	}
	c.fromClient(run.payload, run.size, peer)
	return run.rest
}

// A channelRun is a piece of a batch that can be sent on as a batch.
type channelRun struct {
	channel uint16
	payload []byte // datagrams of size bytes, the last may be shorter
	size    int
	bad     int // datagrams to be dropped instead
	rest    []byte
}

// stripChannelData takes ChannelData off the front of data, datagrams of seg
// bytes, as far as it is for one channel and of equal size, and moves the
// payloads together over the headers. data begins with a ChannelData header. What
// a batch from one client usually is comes out as one run.
func stripChannelData(data []byte, seg int) channelRun {
	first := data[:min(seg, len(data))]
	channel, payload, err := stunmsg.ChannelData(first)
	if err != nil {
		return channelRun{bad: 1, rest: data[len(first):]}
	}
	run := channelRun{channel: channel, size: max(1, len(payload)), rest: data[len(first):]}
	end := copy(data, payload)
	for len(payload) == run.size && stunmsg.IsChannelData(run.rest) { // a shorter one is the last
		d := run.rest[:min(seg, len(run.rest))]
		channel, payload, err = stunmsg.ChannelData(d)
		if err != nil || channel != run.channel || len(payload) == 0 || len(payload) > run.size {
			break
		}
		end += copy(data[end:], payload)
		run.rest = run.rest[len(d):]
	}
	run.payload = data[:end]
	return run
}
