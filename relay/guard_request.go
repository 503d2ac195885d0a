package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

const (
	protocolUDP = 17 // of REQUESTED-TRANSPORT

	familyIPv4 = 1 // of REQUESTED-ADDRESS-FAMILY

	// Channel numbers: RFC 8656 ends at 0x4FFF, RFC 5766 at 0x7FFF, and its
	// clients are still about.
	minChannel, maxChannel = 0x4000, 0x7FFF

	evenPortReserve = 0x80 // the R bit of EVEN-PORT

	defaultLifetime = 10 * time.Minute // RFC 8656 section 3.2
)

// An answer is the outcome of a request: a code, 0 for success, and what goes
// into the response beside it. why is for the operator.
type answer struct {
	code    int
	unknown []stunmsg.AttrType
	why     string
	peer    netip.Addr // whom it concerns, if refused for one

	transaction stunmsg.TransactionID
	relayed     netip.AddrPort
	mapped      netip.AddrPort
	lifetime    time.Duration
	hasLifetime bool
	reservation *[8]byte
	traffic     *Traffic
}

func refuse(code int, why string) answer { return answer{code: code, why: why} }

// build makes the response, signed with the key of who asked.
func (a answer) build(to stunmsg.Header, key []byte) []byte {
	var b *stunmsg.Builder
	if a.code != 0 {
		b = stunmsg.Error(to, a.code, "")
		if a.unknown != nil {
			b = b.UnknownAttributes(a.unknown)
		}
		return b.Sign(key).Bytes()
	}
	b = stunmsg.Success(to)
	if a.relayed.IsValid() {
		b = b.XORRelayedAddress(a.relayed).XORMappedAddress(a.mapped)
	}
	if a.hasLifetime {
		b = b.Lifetime(a.lifetime)
	}
	if a.reservation != nil {
		b = b.Attr(stunmsg.AttrReservationToken, a.reservation[:])
	}
	if a.traffic != nil {
		b = b.Attr(attrTraffic, a.traffic.bytes())
	}
	return b.Sign(key).Bytes()
}

// request authenticates, judges and answers one TURN request.
func (s *Server) request(m *stunmsg.Message, from source) {
	now := s.now()
	auth, code := s.auth.check(m, from.client.Addr(), now)
	if code != 0 {
		budget := s.unproved
		if auth.proved {
			budget = s.proved
		}
		if !budget.allow(from.client.Addr(), now) {
			s.count.drop(dropSilenced, 1)
			return
		}
		s.count.codes[code].Add(1)
		from.write(s.auth.refusal(m.Header, code, from.client.Addr(), now), 0)
		return
	}
	if !s.requests.allow(auth.user, now) {
		s.count.drop(dropRequest, 1)
		return
	}
	a := s.decide(m, from, auth, now)
	if a.code != 0 {
		s.refused(m, from, auth, a)
	}
	if a.code == codeUnauthenticated { // expired: 401 has a challenge, and is not signed
		from.write(s.auth.refusal(m.Header, a.code, from.client.Addr(), now), 0)
		return
	}
	from.write(a.build(m.Header, auth.key), 0)
}

func (s *Server) refused(m *stunmsg.Message, from source, auth authenticated, a answer) {
	s.count.codes[a.code].Add(1)
	e := Event{
		Event: "refused", Client: from.client.String(), Over: from.transport, User: auth.user,
		Code: a.code, Why: m.Method.String() + ": " + a.why,
	}
	if a.code == codeForbidden {
		s.count.denied.Add(1)
		e.Event, e.Peer = "denied", a.peer.String()
	}
	s.emit(e)
}

// decide carries an authenticated request out, or says why not.
func (s *Server) decide(m *stunmsg.Message, from source, auth authenticated, now time.Time) answer {
	if unknown := m.UnknownRequired(known); unknown != nil {
		return answer{code: codeUnknownAttribute, unknown: unknown, why: "unknown attribute"}
	}
	c := s.ledger.find(from.fiveTuple)
	if c != nil && c.user != auth.user {
		return refuse(codeWrongCredentials, "the allocation is another user's")
	}
	if m.Method == stunmsg.MethodAllocate {
		return s.allocate(m, from, auth, c, now)
	}
	if c == nil {
		return refuse(codeAllocationMismatch, "no allocation")
	}
	switch m.Method {
	case stunmsg.MethodRefresh:
		return s.refresh(m, c, now)
	case stunmsg.MethodCreatePermission:
		return s.createPermission(m, c, now)
	case stunmsg.MethodChannelBind:
		return s.channelBind(m, c, now)
	}
	return refuse(codeBadRequest, "method not supported")
}

// known are the comprehension-required attributes that requests here may
// have. DONT-FRAGMENT is not among them: pion cannot set DF per packet, and
// RFC 8656 section 7.2 asks for 420 then.
func known(t stunmsg.AttrType) bool {
	switch t {
	case stunmsg.AttrUsername, stunmsg.AttrRealm, stunmsg.AttrNonce,
		stunmsg.AttrMessageIntegrity, stunmsg.AttrMessageIntegritySHA256,
		stunmsg.AttrRequestedTransport, stunmsg.AttrRequestedAddressFamily, stunmsg.AttrLifetime,
		stunmsg.AttrEvenPort, stunmsg.AttrReservationToken,
		stunmsg.AttrXORPeerAddress, stunmsg.AttrChannelNumber, stunmsg.AttrData:
		return true
	}
	return false
}

// checkAllocate judges the form of an Allocate.
func checkAllocate(m *stunmsg.Message) answer {
	proto, ok := m.RequestedTransport()
	switch {
	case !ok:
		return refuse(codeBadRequest, "no REQUESTED-TRANSPORT")
	case proto != protocolUDP:
		return refuse(codeTransportUnsupported, "transport other than UDP")
	case m.Has(stunmsg.AttrReservationToken) && (m.Has(stunmsg.AttrEvenPort) || m.Has(stunmsg.AttrRequestedAddressFamily)):
		return refuse(codeBadRequest, "RESERVATION-TOKEN beside EVEN-PORT or REQUESTED-ADDRESS-FAMILY")
	}
	if family, ok := m.Attr(stunmsg.AttrRequestedAddressFamily); ok && family[0] != familyIPv4 {
		return refuse(codeFamilyUnsupported, "relays IPv4 only")
	}
	return answer{}
}

// lifetime is what a client gets for what it asks for.
func (s *Server) lifetime(m *stunmsg.Message) time.Duration {
	d, ok := m.Lifetime()
	if !ok || d == 0 {
		d = defaultLifetime
	}
	return min(d, s.cfg.Limits.Lifetime)
}

func (s *Server) allocate(m *stunmsg.Message, from source, auth authenticated, live *relayConn, now time.Time) answer {
	if live != nil {
		if live.answer.transaction == m.TransactionID { // our answer was lost
			return live.answer
		}
		return refuse(codeAllocationMismatch, "there is an allocation already")
	}
	if auth.expired {
		return refuse(codeUnauthenticated, "credential expired")
	}
	if a := checkAllocate(m); a.code != 0 {
		return a
	}
	if s.draining.Load() {
		return refuse(codeInsufficientCapacity, "shutting down")
	}
	if code := s.ledger.admit(auth.user, from.client.Addr()); code != 0 {
		return refuse(code, "too many allocations")
	}
	c := s.newRelayConn(from, auth)
	a := s.openAllocation(c, m, now)
	if a.code != 0 {
		c.abandon()
		return a
	}
	s.count.total.Add(1)
	s.emit(Event{Event: "allocated", Client: from.client.String(), Over: from.transport, User: auth.user, Relayed: c.relayed.String()})
	return a
}

// openAllocation opens the relayed address of c and has pion take it over.
func (s *Server) openAllocation(c *relayConn, m *stunmsg.Message, now time.Time) answer {
	var port uint16
	if token, ok := m.Attr(stunmsg.AttrReservationToken); ok {
		if port, ok = s.ledger.redeem([8]byte(token), c.user, now); !ok {
			return refuse(codeInsufficientCapacity, "unknown reservation")
		}
	}
	even, reserve := false, false
	if v, ok := m.Attr(stunmsg.AttrEvenPort); ok {
		even, reserve = true, v[0]&evenPortReserve != 0
	}
	var token [8]byte
	var err error
	if reserve {
		token, err = c.listenPair(now)
	} else {
		err = c.listen(port, even)
	}
	if err != nil {
		return refuse(codeInsufficientCapacity, err.Error())
	}
	a := answer{
		transaction: m.TransactionID, relayed: c.relayed, mapped: c.from.client,
		lifetime: s.lifetime(m), hasLifetime: true,
	}
	if reserve {
		a.reservation = &token
	}
	c.answer = a
	if err := s.read(c.sock, peerHandler{c}); err != nil { // nobody has a permission yet
		return refuse(codeInsufficientCapacity, fmt.Sprintf("read %v: %v", c.relayed, err))
	}
	if code, err := c.begin(a.lifetime, now); code != 0 || err != nil {
		return engineRefusal(code, err)
	}
	return a
}

// abandon undoes what was done for an allocation that did not come to be.
func (c *relayConn) abandon() {
	c.once.Do(func() {
		c.server.sessions.leave(c.user, c.server.now())
		c.server.ledger.strike(c.from.fiveTuple, c.relayed.Port(), c)
		if c.expiry != nil {
			c.expiry.Stop()
		}
		if c.sock != nil {
			c.sock.Close()
		}
		c.server.ledger.leave(c.user, c.from.client.Addr())
	})
}

func engineRefusal(code int, err error) answer {
	switch {
	case errors.Is(err, net.ErrClosed):
		return refuse(codeInsufficientCapacity, "shutting down")
	case errors.Is(err, errNoAnswer):
		return refuse(codeAllocationMismatch, "the allocation has ended meanwhile")
	case err != nil:
		return refuse(codeServerError, err.Error())
	}
	return refuse(code, "refused by the engine")
}

func (s *Server) refresh(m *stunmsg.Message, c *relayConn, now time.Time) answer {
	d := s.lifetime(m)
	if asked, ok := m.Lifetime(); ok && asked == 0 {
		d = 0
	}
	if code, err := c.prolong(d, now); code != 0 || err != nil {
		return engineRefusal(code, err)
	}
	t := c.count.total()
	return answer{lifetime: d, hasLifetime: true, traffic: &t}
}

// createPermission installs all the permissions asked for, or none.
func (s *Server) createPermission(m *stunmsg.Message, c *relayConn, now time.Time) answer {
	peers := m.XORPeers()
	if len(peers) == 0 {
		return refuse(codeBadRequest, "no XOR-PEER-ADDRESS")
	}
	addrs := make([]netip.Addr, len(peers))
	for i, p := range peers {
		addrs[i] = p.Addr()
		if err := s.policy.CheckAddr(p.Addr()); err != nil {
			return answer{code: codeForbidden, why: err.Error(), peer: p.Addr()}
		}
		if !p.Addr().Is4() {
			return refuse(codeFamilyMismatch, "IPv6 peer of an IPv4 allocation")
		}
	}
	if !c.room(addrs, s.cfg.Limits.PeersPerAllocation, now) {
		return refuse(codeInsufficientCapacity, "too many permissions")
	}
	if code, err := s.engine.permit(c, addrs, now); code != 0 || err != nil {
		return engineRefusal(code, err)
	}
	c.permit(addrs, now)
	return answer{}
}

func (s *Server) channelBind(m *stunmsg.Message, c *relayConn, now time.Time) answer {
	number, ok := m.ChannelNumber()
	peer, okPeer := m.XORPeer()
	if !ok || !okPeer || number < minChannel || number > maxChannel {
		return refuse(codeBadRequest, "no channel number or no peer")
	}
	if err := s.policy.Check(peer, s.ledger.livePort); err != nil {
		return answer{code: codeForbidden, why: err.Error(), peer: peer.Addr()}
	}
	if !peer.Addr().Is4() {
		return refuse(codeFamilyMismatch, "IPv6 peer of an IPv4 allocation")
	}
	if !c.room([]netip.Addr{peer.Addr()}, s.cfg.Limits.PeersPerAllocation, now) || !c.roomChannel(number, s.cfg.Limits.PeersPerAllocation, now) {
		return refuse(codeInsufficientCapacity, "too many channels")
	}
	if code, err := s.engine.bind(c, number, peer, now); code != 0 || err != nil {
		return engineRefusal(code, err)
	}
	c.bind(number, peer, now)
	return answer{}
}
