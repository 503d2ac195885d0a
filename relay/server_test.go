package relay

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

func TestRelayOverUDPAndTCP(t *testing.T) {
	s := startServer(t, labConfig())
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) { checkRelay(t, s, transport) })
	}
}

func TestIndications(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.permit(netip.AddrPortFrom(p.addr().Addr(), 0)), 0)
	c.sendIndication(p.addr(), "hello")
	p.want(relayed, "hello")
	p.send(relayed, "hello yourself")
	c.wantIndication(p.addr(), "hello yourself")

	want := LegStats{
		ClientToPeerBytes: 5, ClientToPeerPackets: 1, PeerToClientBytes: 14, PeerToClientPackets: 1,
		FromClientBytes: 5, FromClientPackets: 1, ToPeerBytes: 5, ToPeerPackets: 1,
		FromPeerBytes: 14, FromPeerPackets: 1, ToClientBytes: 14, ToClientPackets: 1,
	}
	waitFor(t, "the counters", func() bool { return s.Stats().Relay == want })
}

// Two peers that can only use relayed addresses of the same server.
func TestRelayToRelay(t *testing.T) {
	cfg := labConfig()
	cfg.Allow = nil // the relay's own address needs no --allow-peer
	s := startServer(t, cfg)
	a, b := dialTURN(t, s, "udp", "a"), dialTURN(t, s, "tcp", "b")
	ra, rb := a.allocate(), b.allocate()
	wantCode(t, a.permit(rb), 0)
	wantCode(t, b.permit(ra), 0)
	a.sendIndication(rb, "from a")
	b.wantIndication(ra, "from a")
	wantCode(t, b.bind(0x4001, ra), 0)
	b.sendChannel(0x4001, "from b")
	a.wantIndication(rb, "from b")
	wantCode(t, a.bind(0x4002, rb), 0)
	a.sendChannel(0x4002, "both bound")
	b.wantChannel(0x4001, "both bound")

	// Without a permission of the receiver nothing passes.
	stranger := dialTURN(t, s, "udp", "c")
	stranger.allocate()
	wantCode(t, stranger.bind(0x4000, ra), 0)
	before := s.count.drops[dropNoPermission].Load()
	wantCode(t, a.refresh(time.Minute), 0)
	stranger.sendChannel(0x4000, "not wanted")
	// a has a permission for the relay's address, not for the port: TURN
	// permissions are by address, so this one does pass, as an indication.
	if m, err := stunmsg.Decode(a.read()); err != nil || m.Method != stunmsg.MethodData {
		t.Fatalf("got %v, %v", m, err)
	}
	if after := s.count.drops[dropNoPermission].Load(); after != before {
		t.Errorf("dropped %d packets", after-before)
	}

	// A dead port of the relay is refused, and so is every other own address.
	wantCode(t, a.bind(0x4003, netip.AddrPortFrom(loopback, s.UDPAddr().Port())), codeForbidden)
	wantCode(t, a.permit(netip.MustParseAddrPort("127.0.0.2:9")), codeForbidden)
}

// A packet to the relay's own address at a port that has no allocation (any
// more) goes nowhere, even with a permission and a socket there.
func TestOwnAddressAtDeadPort(t *testing.T) {
	cfg := labConfig()
	cfg.Allow = nil
	s := startServer(t, cfg)
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	c.allocate()
	wantCode(t, c.permit(p.addr()), 0) // by address, where it is the relay's own
	c.sendIndication(p.addr(), "must not arrive")
	waitFor(t, "the denial", func() bool { return s.count.drops[dropDenied].Load() == 1 })
	if st := s.Stats(); st.Relay.ClientToPeerPackets != 0 || st.Denied != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestRequestsRefused(t *testing.T) {
	s := startServer(t, labConfig())
	c := dialTURN(t, s, "udp", "u")
	public := netip.MustParseAddrPort("8.8.8.8:53")

	wantCode(t, c.permit(public), codeAllocationMismatch)
	wantCode(t, c.bind(0x4000, public), codeAllocationMismatch)
	wantCode(t, c.refresh(time.Minute), codeAllocationMismatch)
	wantCode(t, c.request(stunmsg.MethodAllocate, nil), codeBadRequest)
	wantCode(t, c.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) { b.RequestedTransport(6) }), codeTransportUnsupported)
	wantCode(t, c.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		requestUDP(b)
		b.Attr(stunmsg.AttrRequestedAddressFamily, []byte{2, 0, 0, 0})
	}), codeFamilyUnsupported)
	wantCode(t, c.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		requestUDP(b)
		b.Attr(stunmsg.AttrReservationToken, make([]byte, 8))
	}), codeInsufficientCapacity)

	resp := c.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		requestUDP(b)
		b.Attr(stunmsg.AttrDontFragment, nil).Attr(0x7777, nil)
	})
	wantCode(t, resp, codeUnknownAttribute)
	if v, _ := resp.Attr(stunmsg.AttrUnknownAttributes); string(v) != "\x00\x1a\x77\x77" {
		t.Errorf("UNKNOWN-ATTRIBUTES %x", v)
	}
	if n := s.ledger.live(); n != 0 {
		t.Fatalf("%d allocations after refusals", n)
	}

	c.allocate()
	wantCode(t, c.tryAllocate(0), codeAllocationMismatch)
	wantCode(t, c.permit(), codeBadRequest)
	wantCode(t, c.bind(0x3fff, public), codeBadRequest)
	wantCode(t, c.permit(netip.MustParseAddrPort("[2606:4700::1111]:53")), codeFamilyMismatch)
	wantCode(t, c.bind(0x4000, netip.MustParseAddrPort("[2606:4700::1111]:53")), codeFamilyMismatch)
	wantCode(t, c.bind(0x4000, public), 0)
	wantCode(t, c.bind(0x4000, netip.MustParseAddrPort("8.8.4.4:53")), codeBadRequest) // channel is another's
	wantCode(t, c.bind(0x4001, public), codeBadRequest)                                // peer has another
	wantCode(t, c.bind(0x4000, public), 0)                                             // a refresh
	wantCode(t, c.refresh(0), 0)
	wantCode(t, c.refresh(0), codeAllocationMismatch)
}

// A CreatePermission with one denied peer installs none of its permissions.
func TestPermissionsAllOrNone(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.permit(p.addr(), netip.MustParseAddrPort("10.0.0.1:1")), codeForbidden)
	c.sendIndication(p.addr(), "not permitted")
	waitFor(t, "the drop", func() bool { return s.count.drops[dropNoPermission].Load() == 1 })
	p.send(relayed, "not permitted either")
	waitFor(t, "the drop", func() bool { return s.count.drops[dropNoPermission].Load() == 2 })
	wantCode(t, c.permit(p.addr()), 0)
	c.sendIndication(p.addr(), "permitted")
	p.want(relayed, "permitted")
}

func TestAllocateRetransmitted(t *testing.T) {
	s := startServer(t, labConfig())
	c := dialTURN(t, s, "udp", "u")
	wantCode(t, c.refresh(1), codeAllocationMismatch) // fetches a nonce
	b := stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP).
		Username(c.username).Realm(c.realm).Nonce(c.nonce).Sign(c.key())
	first := c.exchange(b)
	again := c.exchange(b)
	wantCode(t, first, 0)
	wantCode(t, again, 0)
	r1, _ := first.XORRelayed()
	r2, _ := again.XORRelayed()
	if r1 != r2 || s.ledger.live() != 1 {
		t.Errorf("relayed %v, then %v; %d allocations", r1, r2, s.ledger.live())
	}
}

func TestReservation(t *testing.T) {
	s := startServer(t, labConfig())
	rtp, rtcp := dialTURN(t, s, "udp", "u"), dialTURN(t, s, "udp", "u")
	resp := rtp.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		requestUDP(b)
		b.Attr(stunmsg.AttrEvenPort, []byte{evenPortReserve})
	})
	wantCode(t, resp, 0)
	even, _ := resp.XORRelayed()
	token, ok := resp.Attr(stunmsg.AttrReservationToken)
	if !ok || even.Port()%2 != 0 {
		t.Fatalf("relayed %v, token %x", even, token)
	}
	resp = rtcp.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		requestUDP(b)
		b.Attr(stunmsg.AttrReservationToken, token)
	})
	wantCode(t, resp, 0)
	if odd, _ := resp.XORRelayed(); odd.Port() != even.Port()+1 {
		t.Errorf("reserved %v beside %v", odd, even)
	}
}

// Who allocates pairs again and again holds no more ports than allocations, and
// a reservation that nobody used is forgotten.
func TestReservationsEnd(t *testing.T) {
	clk := newClock()
	cfg := labConfig()
	cfg.Now = clk.now
	s := startServer(t, cfg)
	held := func() int {
		s.ledger.mu.Lock()
		defer s.ledger.mu.Unlock()
		return len(s.ledger.held)
	}
	pair := func(c *turnClient) {
		t.Helper()
		wantCode(t, c.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
			requestUDP(b)
			b.Attr(stunmsg.AttrEvenPort, []byte{evenPortReserve})
		}), 0)
	}
	c := dialTURN(t, s, "udp", "u")
	for range 10 {
		pair(c)
		if n := held(); n != 1 {
			t.Fatalf("%d reservations of one allocation", n)
		}
		wantCode(t, c.refresh(0), 0)
	}
	if n := held(); n != 0 {
		t.Errorf("%d reservations of no allocation", n)
	}
	pair(c)
	clk.advance(s.ledger.reserveFor + time.Second)
	pair(dialTURN(t, s, "udp", "u"))
	if n := held(); n != 1 {
		t.Errorf("%d reservations, one of them unused for too long", n)
	}
}

// A pair is found wherever it is: here half of the even ports have a
// neighbour in use.
func TestReservationFindsThePair(t *testing.T) {
	s := startServer(t, labConfig())
	now := s.now()
	holder := &relayConn{}
	pairs := 0
	for p := int(s.cfg.PortMin) | 1; p <= int(s.cfg.PortMax); p += 2 {
		if pairs++; pairs%2 == 0 && !s.ledger.claim(holder, uint16(p), now) {
			t.Fatalf("port %d is in use", p)
		}
	}
	for range 20 {
		resp := dialTURN(t, s, "udp", "u").request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
			requestUDP(b)
			b.Attr(stunmsg.AttrEvenPort, []byte{evenPortReserve})
		})
		wantCode(t, resp, 0)
	}
}

func TestLifetime(t *testing.T) {
	s := startServer(t, labConfig())
	for _, tc := range []struct{ asked, got time.Duration }{
		{0, 10 * time.Minute},
		{time.Minute, time.Minute},
		{24 * time.Hour, 59 * time.Minute},
	} {
		c := dialTURN(t, s, "udp", "u")
		if got, _ := c.tryAllocate(tc.asked).Lifetime(); got != tc.got {
			t.Errorf("asked for %v, got %v, want %v", tc.asked, got, tc.got)
		}
	}
	c := dialTURN(t, s, "udp", "u")
	n := s.ledger.live()
	wantCode(t, c.tryAllocate(time.Second), 0)
	waitFor(t, "the allocation to expire", func() bool { return s.ledger.live() == n })
	wantCode(t, c.refresh(time.Minute), codeAllocationMismatch)
}

func TestDrain(t *testing.T) {
	s := startServer(t, labConfig())
	c, late := dialTURN(t, s, "udp", "u"), dialTURN(t, s, "udp", "v")
	c.allocate()
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context()) }()
	waitFor(t, "draining", s.draining.Load)
	wantCode(t, late.tryAllocate(0), codeInsufficientCapacity)
	select {
	case err := <-drained:
		t.Fatalf("drained with an allocation left: %v", err)
	default:
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Drain(short); err == nil {
		t.Error("Drain in no time succeeded with an allocation left")
	}
	wantCode(t, c.refresh(0), 0)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*ServerConfig){
		"no address":      func(c *ServerConfig) { c.PublicIP = netip.Addr{} },
		"IPv6":            func(c *ServerConfig) { c.PublicIP = netip.IPv6Loopback() },
		"all addresses":   func(c *ServerConfig) { c.LocalIP = netip.IPv4Unspecified() },
		"same alternate":  func(c *ServerConfig) { c.AltIP = c.PublicIP },
		"ports":           func(c *ServerConfig) { c.PortMin, c.PortMax = 3, 2 },
		"open to all":     func(c *ServerConfig) { c.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} },
		"open to all v6":  func(c *ServerConfig) { c.Allow = []netip.Prefix{netip.MustParsePrefix("::/0")} },
		"empty secret":    func(c *ServerConfig) { c.Secrets = [][]byte{nil} },
		"not our address": func(c *ServerConfig) { c.LocalIP = netip.MustParseAddr("192.0.2.99") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := labConfig()
			change(&cfg)
			if s, err := NewServer(cfg); err == nil {
				s.Close()
				t.Error("accepted")
			}
		})
	}
}

// An allocation that nobody could hear is none.
func TestAllocationThatCannotBeRead(t *testing.T) {
	s, err := NewServer(labConfig())
	if err != nil {
		t.Fatal(err)
	}
	read, failing := s.read, true
	s.read = func(sock *udpsock.Socket, h udpsock.Handler) error {
		if failing {
			failing = false
			return syscall.ENOSPC // of epoll watches
		}
		return read(sock, h)
	}
	serve(t, s)
	c := dialTURN(t, s, "udp", "u")
	wantCode(t, c.tryAllocate(0), codeInsufficientCapacity)
	if n := s.ledger.live(); n != 0 {
		t.Errorf("%d allocations are left", n)
	}
	checkRelay(t, s, "udp")
}
