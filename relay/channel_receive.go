package relay

import (
	"net/netip"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// An unpacker takes the payloads out of the server's messages. They are moved
// together in place, so that a batch of ChannelData of one size on one channel
// stays one batch of datagrams, without a copy of its own.
type unpacker struct {
	h     udpsock.Handler // nil: data goes nowhere
	peers map[uint16]netip.AddrPort

	// response takes what answers a request.
	response func([]byte)

	p          *udpsock.Packet
	start, end int // the current run of datagrams in p.Data
	seg        int
	src        netip.AddrPort
	full       bool // the run ended with a shorter datagram
}

// unpack goes over the messages in p, which is the unpacker's from here on.
func (u *unpacker) unpack(p *udpsock.Packet) {
	u.p, u.start, u.end = p, 0, 0
	data, seg := p.Data, p.Seg
	for at := 0; at < len(data); at += seg {
		d := data[at:min(at+seg, len(data))]
		peer, payload, ok := u.open(d)
		if !ok || u.h == nil || len(payload) == 0 {
			continue
		}
		if payload[0] <= 3 { // STUN or nothing, as in udpsock
			if stunmsg.Check(payload, stunmsg.AsPeer) == nil {
				u.h.HandleSTUN(payload[:len(payload):len(payload)], peer)
			}
			continue
		}
		u.add(peer, payload)
	}
	u.finish()
}

// open returns the payload of a message that carries one. Other messages it
// takes care of.
func (u *unpacker) open(d []byte) (peer netip.AddrPort, payload []byte, ok bool) {
	if stunmsg.IsChannelData(d) {
		n, payload, err := stunmsg.ChannelData(d)
		if err != nil {
			return peer, nil, false
		}
		peer, ok = u.peers[n]
		return peer, payload, ok
	}
	if !stunmsg.Is(d) || stunmsg.Check(d, stunmsg.AsClient) != nil {
		return peer, nil, false
	}
	h, err := stunmsg.Parse(d)
	switch {
	case err != nil:
	case h.Class.Response():
		u.response(d)
	case h.Method == stunmsg.MethodData:
		return openData(d)
	}
	return peer, nil, false
}

// openData reads a checked Data indication.
func openData(d []byte) (peer netip.AddrPort, payload []byte, ok bool) {
	m, err := stunmsg.Decode(d)
	if err != nil {
		return peer, nil, false
	}
	peer, ok = m.XORPeer()
	if !ok {
		return peer, nil, false
	}
	payload, ok = m.Data()
	return peer, payload, ok
}

// add puts a datagram at the end of the run, or begins another run with it.
// Payloads come out of longer messages, so there is always room before the
// message that follows.
func (u *unpacker) add(peer netip.AddrPort, payload []byte) {
	if u.end > u.start && (u.full || peer != u.src || len(payload) > u.seg) {
		u.h.HandleData(udpsock.NewPacket(u.p.Data[u.start:u.end], u.seg, u.src))
		u.start = u.end
	}
	if u.end == u.start {
		u.src, u.seg, u.full = peer, len(payload), false
	}
	u.end += copy(u.p.Data[u.end:], payload)
	u.full = len(payload) < u.seg
}

// finish hands on the last run, in the Packet that it came in.
func (u *unpacker) finish() {
	p := u.p
	u.p = nil
	if u.end == u.start {
		p.Release()
		return
	}
	p.Data, p.Seg, p.Src = p.Data[u.start:u.end], u.seg, u.src
	u.h.HandleData(p)
}
