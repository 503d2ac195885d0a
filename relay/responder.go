package relay

import (
	"net/netip"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A stunAddr is one of the up to four addresses of RFC 5780: two IP addresses
// by two ports.
type stunAddr struct {
	ip   int // 0: the public address, 1: the alternate one
	port int // 0: the port of the relay, 1: the second STUN port
}

func (a stunAddr) other() stunAddr { return stunAddr{1 - a.ip, 1 - a.port} }

// A Responder answers Binding requests (RFC 8489) and lets clients find out
// what their NAT does (RFC 5780): it tells its other address, and answers from
// another one when asked to by CHANGE-REQUEST.
//
// With one public address there are two ports: OTHER-ADDRESS is absent, since
// RFC 5780 wants both to differ, a change of port is served, and a change of
// address is refused with 420.
//
// Sources of requests can be forged, so answers are short, of limited rate,
// and never go to any other address than the request came from: RESPONSE-PORT
// is ignored, PADDING is returned up to the size of the request.
type Responder struct {
	budget *budget
	server *Server

	// addr is what clients see, invalid where there is no socket.
	addr [2][2]netip.AddrPort
	sink [2][2]sink
}

// respond answers one Binding request that came to at.
func (r *Responder) respond(b []byte, from source, at stunAddr) {
	if !r.budget.allow(from.client.Addr(), r.server.now()) {
		r.server.count.drop(dropSilenced, 1)
		return
	}
	m, err := stunmsg.Decode(b)
	if err != nil {
		r.server.count.drop(dropMalformed, 1)
		return
	}
	origin, code := r.plan(m, at, from.stream())
	if code != 0 {
		r.server.count.codes[code].Add(1)
		from.write(stunmsg.Error(m.Header, code, "").
			UnknownAttributes([]stunmsg.AttrType{stunmsg.AttrChangeRequest}).Fingerprint().Bytes(), 0)
		return
	}
	r.server.count.stun.Add(1)
	out := r.sink[origin.ip][origin.port]
	if from.stream() {
		out = from.out
	}
	out.write(r.answer(m, from.client, at, origin), 0, from.client)
}

// plan says from which address to answer, or the error code.
func (r *Responder) plan(m *stunmsg.Message, at stunAddr, stream bool) (origin stunAddr, code int) {
	ip, port, _ := m.ChangeRequest()
	if !ip && !port {
		return at, 0
	}
	origin = at
	if ip {
		origin.ip = 1 - at.ip
	}
	if port {
		origin.port = 1 - at.port
	}
	if stream || !r.addr[origin.ip][origin.port].IsValid() {
		return at, codeUnknownAttribute
	}
	return origin, 0
}

func (r *Responder) answer(m *stunmsg.Message, client netip.AddrPort, at, origin stunAddr) []byte {
	b := stunmsg.Success(m.Header).XORMappedAddress(client)
	if o := r.addr[origin.ip][origin.port]; o.IsValid() {
		b = b.ResponseOrigin(o)
	}
	other := at.other()
	if o := r.addr[other.ip][other.port]; o.IsValid() {
		b = b.OtherAddress(o)
	}
	if m.Has(stunmsg.AttrPadding) {
		b = b.PadTo(len(m.Raw()))
	}
	return b.Fingerprint().Bytes()
}
