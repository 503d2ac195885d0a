package relay

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// batchFromClient gives the TURN listener a batch, as its loop would.
func batchFromClient(s *Server, src netip.AddrPort, channel uint16, payloads ...string) {
	var b []byte
	for _, p := range payloads {
		b = stunmsg.AppendChannelData(b, channel, []byte(p), false)
	}
	s.udp[0].HandleData(udpsock.NewPacket(b, len(payloads[0])+stunmsg.ChannelDataHeaderSize, src))
}

func batchFromPeer(c *relayConn, src netip.AddrPort, payloads ...string) {
	var b []byte
	for _, p := range payloads {
		b = append(b, p...)
	}
	peerHandler{c}.HandleData(udpsock.NewPacket(b, len(payloads[0]), src))
}

func localAddr(c *turnClient) netip.AddrPort {
	return netip.MustParseAddrPort(c.conn.LocalAddr().String())
}

// What came as a batch leaves with one system call, both ways.
func TestBatchLeavesAsOne(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	conn := s.ledger.atPort(relayed.Port())
	if gso, _ := conn.sock.Offload(); !gso {
		t.Skip("the kernel does not cut batches")
	}
	payloads := []string{"one", "two", "six", "on"}
	waitFor(t, "the answers to be counted", func() bool { // which they are after they have left
		var sent uint64
		for _, g := range s.udp {
			sent += g.sock.Counters().TxPackets
		}
		return sent == 3 // to the first request, Allocate, and ChannelBind
	})

	before := conn.sock.Counters()
	batchFromClient(s, localAddr(c), 0x4000, payloads...)
	after := conn.sock.Counters()
	if after.Sends-before.Sends != 1 || after.TxPackets-before.TxPackets != 4 {
		t.Errorf("to the peer: %d datagrams in %d sends", after.TxPackets-before.TxPackets, after.Sends-before.Sends)
	}
	for _, want := range payloads {
		p.want(relayed, want)
	}

	listener := conn.from.out.(*udpGuard).sock
	before = listener.Counters()
	batchFromPeer(conn, p.addr(), payloads...)
	after = listener.Counters()
	if after.Sends-before.Sends != 1 || after.TxPackets-before.TxPackets != 4 {
		t.Errorf("to the client: %d datagrams in %d sends", after.TxPackets-before.TxPackets, after.Sends-before.Sends)
	}
	for _, want := range payloads {
		c.wantChannel(0x4000, want)
	}
}

// Each rule holds for batches: what it forbids goes nowhere and is counted.
func TestRulesOfTheFastPath(t *testing.T) {
	three := []string{"abc", "def", "ghi"}
	type allocated struct {
		s     *Server
		clk   *clock
		c     *turnClient
		p     peer
		conn  *relayConn
		other *turnClient // bound to at 0x4001
	}
	for name, tc := range map[string]struct {
		do    func(*allocated)
		why   dropReason
		drops int64
	}{
		"expired channel": {func(a *allocated) {
			const renewed = 2 // times, so that the permission is there
			for range renewed {
				a.clk.advance(permissionLifetime - time.Minute)
				wantCode(t, a.c.permit(a.p.addr()), 0)
			}
			a.clk.advance(channelLifetime - renewed*(permissionLifetime-time.Minute) + time.Second)
			batchFromClient(a.s, localAddr(a.c), 0x4000, three...)
		}, dropNoChannel, 3},
		"expired permission": {func(a *allocated) {
			a.clk.advance(channelLifetime + time.Second)
			batchFromPeer(a.conn, a.p.addr(), three...)
		}, dropNoPermission, 3},
		"channel without permission": {func(a *allocated) {
			a.clk.advance(permissionLifetime + time.Second)
			batchFromClient(a.s, localAddr(a.c), 0x4000, three...)
		}, dropNoChannel, 3},
		"channel without permission, from its peer": {func(a *allocated) {
			a.clk.advance(permissionLifetime + time.Second)
			batchFromPeer(a.conn, a.p.addr(), three...)
		}, dropNoPermission, 3},
		"channel that is not bound": {func(a *allocated) {
			batchFromClient(a.s, localAddr(a.c), 0x4444, three...)
		}, dropNoChannel, 3},
		"removed allocation": {func(a *allocated) {
			wantCode(t, a.c.refresh(0), 0)
			batchFromClient(a.s, localAddr(a.c), 0x4000, three...)
		}, dropNoAllocation, 3},
		"removed allocation, from its peer": {func(a *allocated) {
			wantCode(t, a.c.refresh(0), 0)
			batchFromPeer(a.conn, a.p.addr(), three...)
		}, dropNoPermission, 3},
		"forged source of a client": {func(a *allocated) {
			forged := netip.AddrPortFrom(loopback, localAddr(a.c).Port()^1)
			batchFromClient(a.s, forged, 0x4000, three...)
		}, dropNoAllocation, 3},
		"forged source of a peer": {func(a *allocated) {
			batchFromPeer(a.conn, netip.MustParseAddrPort("127.0.0.9:9"), three...)
		}, dropNoPermission, 3},
		"wrong length": {func(a *allocated) {
			b := []byte{0x40, 0, 0, 9, 'a', 'b', 'c', 0x40, 0, 0xff, 0xff, 'd', 'e', 'f'}
			a.s.udp[0].HandleData(udpsock.NewPacket(b, 7, localAddr(a.c)))
		}, dropMalformed, 2},
		"peer denied since": {func(a *allocated) {
			wantCode(t, a.other.refresh(0), 0) // its port is no allocation's any more
			waitFor(t, "the end", func() bool { return a.s.ledger.live() == 1 })
			batchFromClient(a.s, localAddr(a.c), 0x4001, three...)
		}, dropDenied, 3},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := labConfig()
			cfg.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
			clk := newClock()
			cfg.Now = clk.now
			s := startServer(t, cfg)
			c, other, p := dialTURN(t, s, "udp", "u"), dialTURN(t, s, "udp", "v"), newPeerAt(t, "127.0.0.2")
			a := &allocated{s, clk, c, p, s.ledger.atPort(c.allocate().Port()), other}
			wantCode(t, c.bind(0x4000, p.addr()), 0)
			wantCode(t, c.bind(0x4001, other.allocate()), 0)
			tc.do(a)
			if n := s.count.drops[tc.why].Load(); n != tc.drops {
				t.Errorf("%d dropped as %v, want %d; all: %v", n, tc.why, tc.drops, s.Stats().Dropped)
			}
			if st := s.Stats().Relay; st.ToPeerPackets+st.ToClientPackets != 0 {
				t.Errorf("something got through: %+v", st)
			}
		})
	}
}

// A client that binds its channel again every four minutes, as ours does, needs
// no other permission; one that asks for permissions needs to bind only in time.
func TestBindingPermits(t *testing.T) {
	clk := newClock()
	cfg := labConfig()
	cfg.Now = clk.now
	s := startServer(t, cfg)
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	conn := s.ledger.atPort(relayed.Port())
	bind := func() *stunmsg.Message { return c.bind(0x4000, p.addr()) }
	permit := func() *stunmsg.Message { return c.permit(p.addr()) }
	wantCode(t, bind(), 0)
	for _, renew := range []func() *stunmsg.Message{bind, bind, permit, permit} { // the channel has 10 minutes
		clk.advance(4 * time.Minute)
		wantCode(t, renew(), 0)
		clk.advance(30 * time.Second)
		batchFromClient(s, localAddr(c), 0x4000, "there")
		p.want(relayed, "there")
		batchFromPeer(conn, p.addr(), "and back")
		c.wantChannel(0x4000, "and back")
	}
}

// A bad datagram takes none of its neighbours with it.
func TestBadDatagramWithinBatch(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	b := bytes.Join([][]byte{{0x40, 0, 0, 3, 'a', 'b', 'c'}, {0x40, 0, 0, 9, 'x', 'x', 'x'}, {0x40, 0, 0, 3, 'd', 'e', 'f'}}, nil)
	s.udp[0].HandleData(udpsock.NewPacket(b, 7, localAddr(c)))
	p.want(relayed, "abc")
	p.want(relayed, "def")
	if n := s.count.drops[dropMalformed].Load(); n != 1 {
		t.Errorf("%d dropped as malformed", n)
	}
}

// What the kernel refuses of a batch is lost, and only that.
func TestPartialLoss(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	conn := s.ledger.atPort(relayed.Port())
	const tooLong = 65508 // for IPv4

	conn.toPeer(make([]byte, tooLong+7), tooLong, p.addr())
	p.want(relayed, string(make([]byte, 7)))
	conn.toClient(make([]byte, tooLong+7), tooLong, p.addr())
	c.wantChannel(0x4000, string(make([]byte, 7)))

	want := Traffic{ToPeer: 7, ToClient: 7}
	if got := conn.count.total(); got != want {
		t.Errorf("counted for the client %+v", got)
	}
	st := s.Stats()
	if st.Relay.ToPeerPackets != 1 || st.Relay.ToPeerBytes != 7 || st.Relay.ToClientPackets != 1 || st.Relay.ToClientBytes != 7 {
		t.Errorf("counted %+v", st.Relay)
	}
	if n := s.count.drops[dropSend].Load(); n != 2 {
		t.Errorf("%d dropped, want 2", n)
	}
}

// An empty datagram is relayed as others are, by channel and by indication, to
// peers and to another allocation.
func TestEmptyDatagrams(t *testing.T) {
	for name, tc := range map[string]struct {
		transport string
		rate      int64
	}{"udp": {"udp", 0}, "tcp": {"tcp", 0}, "shaped": {"udp", 1e6}} {
		t.Run(name, func(t *testing.T) {
			cfg := labConfig()
			cfg.Limits.SessionRate = tc.rate
			s := startServer(t, cfg)
			a, b := dialTURN(t, s, tc.transport, "a"), dialTURN(t, s, tc.transport, "b")
			p, q := newPeer(t), newPeer(t) // q has no channel
			ra, rb := a.allocate(), b.allocate()
			wantCode(t, a.bind(0x4000, p.addr()), 0)
			wantCode(t, a.bind(0x4001, rb), 0)
			wantCode(t, b.bind(0x4002, ra), 0)

			a.sendChannel(0x4000, "")
			p.want(ra, "")
			a.sendIndication(q.addr(), "")
			q.want(ra, "")
			a.sendChannel(0x4001, "")
			b.wantChannel(0x4002, "")
			p.send(ra, "")
			a.wantChannel(0x4000, "")
			q.send(ra, "")
			a.wantIndication(q.addr(), "")

			waitFor(t, "the counters", func() bool {
				st := s.Stats().Relay
				return st.FromClientPackets == 3 && st.ToPeerPackets == 3 && st.FromPeerPackets == 3 && st.ToClientPackets == 3
			})
			if st := s.Stats().Relay; st.ToClientBytes+st.ToPeerBytes != 0 {
				t.Errorf("counted %+v", st)
			}
		})
	}
}

// What is no message at all is counted.
func TestEmptyFromClient(t *testing.T) {
	s := startServer(t, labConfig())
	dialTURN(t, s, "udp", "u").write(nil)
	waitFor(t, "the drop", func() bool { return s.count.drops[dropMalformed].Load() == 1 })
}

func TestChannelOf(t *testing.T) {
	a := stunmsg.AppendChannelData(nil, 0x4000, []byte("x"), false)
	b := stunmsg.AppendChannelData(nil, 0x4001, []byte("x"), false)
	request := stunmsg.NewRequest(stunmsg.MethodBinding).Bytes()
	if channelOf(a) == channelOf(b) || channelOf(a) == channelOf(request) || channelOf(nil) != channelOf(request) {
		t.Error("flows are not told apart")
	}
}

func TestTraffic(t *testing.T) {
	s := startServer(t, labConfig())
	user, pass := Mint(testSecret, "u", time.Hour, time.Now())
	a, in := allocateAnd(t, ClientConfig{Server: s.UDPAddr(), Username: user, Password: pass, times: impatient})
	p := newPeer(t)
	if err := a.Bind(t.Context(), p.addr()); err != nil {
		t.Fatal(err)
	}
	a.Send([]byte("seven b"), 0, p.addr())
	p.want(a.LocalAddr(), "seven b")
	p.send(a.LocalAddr(), "eleven byte")
	in.packet(t).Release()
	var got Traffic
	want := Traffic{FromClient: 7, ToPeer: 7, FromPeer: 11, ToClient: 11}
	waitFor(t, "the counters", func() bool {
		var err error
		if got, err = a.Traffic(t.Context()); err != nil {
			t.Fatal(err)
		}
		return got == want
	})
}

func TestTrafficOfOtherServers(t *testing.T) {
	s := scripted(t)
	a, _ := allocateAnd(t, ClientConfig{Server: s.addr(), Username: testUser, Password: testPassword, times: impatient})
	if got, err := a.Traffic(t.Context()); !errors.Is(err, ErrNoTraffic) {
		t.Errorf("Traffic = %v, %v", got, err)
	}
	for _, b := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
		if _, ok := parseTraffic(b); ok {
			t.Errorf("%d bytes taken for a traffic", len(b))
		}
	}
}

// Whatever an authenticated client asks for, the server survives, and so does
// pion behind it.
func FuzzRequest(f *testing.F) {
	cfg := labConfig()
	cfg.NoTCP = true
	cfg.Limits.RequestsPerUser = 1e9
	s, err := NewServer(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(); <-s.ledger.empty() })
	client := netip.MustParseAddrPort("127.0.0.1:4")
	from := source{fiveTuple{0, client}, "udp", discard{}}
	f.Add(uint16(stunmsg.MethodAllocate), []byte("\x00\x19\x04\x11\x00\x00\x00"), []byte{0x40, 0, 0, 1, 2})
	f.Add(uint16(stunmsg.MethodRefresh), []byte("\x00\x0d\x04\x00\x00\x00\x00"), []byte{0, 1, 0, 0})
	f.Add(uint16(stunmsg.MethodChannelBind), []byte("\x00\x0c\x04\x40\x00\x00\x00\x00\x12\x08\x00\x01\x12\x34\x5e\x12\xa4\x43"), []byte{})
	f.Add(uint16(stunmsg.MethodCreatePermission), []byte("\x00\x12\x08\x00\x01\x12\x34\x5e\x12\xa4\x43"), []byte{})
	f.Fuzz(func(t *testing.T, method uint16, attrs, datagram []byte) {
		user, pass := Mint(testSecret, "u", time.Hour, time.Now())
		b := stunmsg.NewRequest(stunmsg.Method(method & 0xfff))
		for len(attrs) > 3 {
			n := min(int(attrs[2]), len(attrs)-3)
			b.Attr(stunmsg.AttrType(uint16(attrs[0])<<8|uint16(attrs[1])), attrs[3:3+n])
			attrs = attrs[3+n:]
		}
		b.Username(user).Realm(s.cfg.Realm).Nonce(s.auth.nonces.mint(client.Addr(), s.now()))
		b.Sign(stunmsg.LongTermKey(user, s.cfg.Realm, pass))
		if b.Err() == nil {
			s.message(b.Bytes(), from, stunAddr{}, true)
		}
		s.message(datagram, from, stunAddr{}, true)
		if len(datagram) > 0 {
			s.udp[0].HandleData(udpsock.NewPacket(datagram[:min(len(datagram), 1<<16)], 0, client))
		}
	})
}

type discard struct{}

func (discard) write([]byte, int, netip.AddrPort) error { return nil }
