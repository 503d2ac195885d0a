package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// patience is how long a test waits for something that should happen at once.
const patience = time.Minute

var (
	loopback   = netip.MustParseAddr("127.0.0.1")
	testSecret = []byte("test secret")
)

// labConfig is a relay on 127.0.0.1 that may relay to 127.0.0.0/8.
func labConfig() ServerConfig {
	return ServerConfig{
		PublicIP: loopback, Secrets: [][]byte{testSecret},
		PortMin: 20000, PortMax: 32000, // below Linux's ephemeral ports
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
}

// startServer serves cfg until the test ends.
func startServer(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s)
	return s
}

// serve serves s until the test ends, and then checks that Serve came back
// without an error.
func serve(t *testing.T, s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve did not return")
		}
		if n := s.ledger.live(); n != 0 {
			t.Errorf("%d allocations outlived Serve", n)
		}
	})
}

// waitFor waits until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A turnClient is a TURN client that does what a test says and no more.
type turnClient struct {
	t                  *testing.T
	conn               net.Conn
	framer             *stunmsg.Framer // nil over UDP
	username, password string
	realm, nonce       string
}

func dialTURN(t *testing.T, s *Server, transport, user string) *turnClient {
	t.Helper()
	username, password := Mint(testSecret, user, time.Hour, time.Now())
	return dialTURNAs(t, s, transport, username, password)
}

func dialTURNAs(t *testing.T, s *Server, transport, username, password string) *turnClient {
	t.Helper()
	var conn net.Conn
	var err error
	switch transport {
	case "udp":
		conn, err = net.Dial("udp4", s.UDPAddr().String())
	case "tcp":
		conn, err = net.Dial("tcp4", s.StreamAddr("tcp").String())
	case "tls":
		conn, err = tls.Dial("tcp4", s.StreamAddr("tls").String(), &tls.Config{InsecureSkipVerify: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &turnClient{t: t, conn: conn, username: username, password: password}
	if transport != "udp" {
		c.framer = stunmsg.NewFramer(conn)
	}
	return c
}

func (c *turnClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("write to relay: %v", err)
	}
}

// read returns the next message from the relay.
func (c *turnClient) read() []byte {
	c.t.Helper()
	b, err := c.readWithin(patience)
	if err != nil {
		c.t.Fatalf("read from relay: %v", err)
	}
	return b
}

func (c *turnClient) readWithin(d time.Duration) ([]byte, error) {
	c.conn.SetReadDeadline(time.Now().Add(d))
	if c.framer != nil {
		return c.framer.Next()
	}
	b := make([]byte, 65536)
	n, err := c.conn.Read(b)
	return b[:n], err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// exchange sends a finished request and returns its response. UDP loses
// nothing on loopback, so it sends once.
func (c *turnClient) exchange(b *stunmsg.Builder) *stunmsg.Message {
	c.t.Helper()
	if b.Err() != nil {
		c.t.Fatal(b.Err())
	}
	c.write(b.Bytes())
	for {
		raw := c.read()
		m, err := stunmsg.Decode(raw)
		if err == nil && m.TransactionID == b.TransactionID() {
			return m
		}
	}
}

func (c *turnClient) key() []byte { return stunmsg.LongTermKey(c.username, c.realm, c.password) }

// request sends an authenticated request, after a first 401 if need be.
func (c *turnClient) request(m stunmsg.Method, attrs func(*stunmsg.Builder)) *stunmsg.Message {
	c.t.Helper()
	for range 2 {
		b := stunmsg.NewRequest(m)
		if attrs != nil {
			attrs(b)
		}
		if c.nonce != "" {
			b.Username(c.username).Realm(c.realm).Nonce(c.nonce).Sign(c.key())
		}
		resp := c.exchange(b)
		code, _, _ := resp.ErrorCode()
		if code == codeStaleNonce || code == codeUnauthenticated && c.nonce == "" {
			c.realm, c.nonce = resp.Realm(), resp.Nonce()
			continue
		}
		if code != codeUnauthenticated {
			if err := resp.Verify(c.key()); err != nil {
				c.t.Fatalf("%v response %d: %v", m, code, err)
			}
		}
		return resp
	}
	c.t.Fatalf("%v: still unauthenticated", m)
	return nil
}

func requestUDP(b *stunmsg.Builder) { b.RequestedTransport(protocolUDP) }

func (c *turnClient) tryAllocate(lifetime time.Duration) *stunmsg.Message {
	c.t.Helper()
	return c.request(stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		requestUDP(b)
		if lifetime != 0 {
			b.Lifetime(lifetime)
		}
	})
}

// allocate must succeed; it returns the relayed address.
func (c *turnClient) allocate() netip.AddrPort {
	c.t.Helper()
	resp := c.tryAllocate(0)
	wantCode(c.t, resp, 0)
	relayed, ok := resp.XORRelayed()
	if !ok {
		c.t.Fatal("no XOR-RELAYED-ADDRESS")
	}
	return relayed
}

// brief allocates for a second, the shortest there is, and does what has to be done
// within that, which says with which code it was answered. When a stalled machine
// has let the second pass, it is done again with another allocation.
func brief(t *testing.T, s *Server, transport string, do func(*turnClient) *stunmsg.Message) *turnClient {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		c := dialTURN(t, s, transport, "u")
		began := time.Now()
		wantCode(t, c.tryAllocate(time.Second), 0)
		answer := do(c)
		late := time.Since(began) > time.Second && time.Now().Before(end)
		if code, _, _ := answer.ErrorCode(); code == codeAllocationMismatch && late {
			continue
		}
		wantCode(t, answer, 0)
		return c
	}
}

func (c *turnClient) permit(peers ...netip.AddrPort) *stunmsg.Message {
	c.t.Helper()
	return c.request(stunmsg.MethodCreatePermission, func(b *stunmsg.Builder) {
		for _, p := range peers {
			b.XORPeerAddress(p)
		}
	})
}

func (c *turnClient) bind(number uint16, peer netip.AddrPort) *stunmsg.Message {
	c.t.Helper()
	return c.request(stunmsg.MethodChannelBind, func(b *stunmsg.Builder) {
		b.ChannelNumber(number).XORPeerAddress(peer)
	})
}

func (c *turnClient) refresh(lifetime time.Duration) *stunmsg.Message {
	c.t.Helper()
	return c.request(stunmsg.MethodRefresh, func(b *stunmsg.Builder) { b.Lifetime(lifetime) })
}

func (c *turnClient) sendIndication(peer netip.AddrPort, payload string) {
	c.t.Helper()
	c.write(stunmsg.NewIndication(stunmsg.MethodSend).XORPeerAddress(peer).Data([]byte(payload)).Bytes())
}

func (c *turnClient) sendChannel(number uint16, payload string) {
	c.t.Helper()
	c.write(stunmsg.AppendChannelData(nil, number, []byte(payload), c.framer != nil))
}

// wantIndication reads one Data indication.
func (c *turnClient) wantIndication(peer netip.AddrPort, payload string) {
	c.t.Helper()
	m, err := stunmsg.Decode(c.read())
	if err != nil {
		c.t.Fatal(err)
	}
	from, _ := m.XORPeer()
	data, _ := m.Data()
	if m.Method != stunmsg.MethodData || m.Class != stunmsg.ClassIndication || from != peer || string(data) != payload {
		c.t.Fatalf("got %v %v from %v: %q, want a Data indication from %v: %q", m.Method, m.Class, from, data, peer, payload)
	}
}

func (c *turnClient) wantChannel(number uint16, payload string) {
	c.t.Helper()
	raw := c.read()
	got, data, err := stunmsg.ChannelData(raw)
	if err != nil || got != number || string(data) != payload {
		c.t.Fatalf("got %x (channel %x, %v), want channel %x: %q", raw, got, err, number, payload)
	}
}

func wantCode(t *testing.T, m *stunmsg.Message, want int) {
	t.Helper()
	got, reason, _ := m.ErrorCode()
	if got != want {
		t.Fatalf("%v: error code %d %s, want %d", m.Method, got, reason, want)
	}
	if (m.Class == stunmsg.ClassError) != (want != 0) {
		t.Fatalf("%v: class %v with code %d", m.Method, m.Class, want)
	}
}

// A peer is a UDP socket on loopback.
type peer struct {
	t    *testing.T
	conn *net.UDPConn
}

func newPeer(t *testing.T) peer {
	t.Helper()
	return newPeerAt(t, loopback.String())
}

func newPeerAt(t *testing.T, ip string) peer {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return peer{t, conn}
}

func (p peer) addr() netip.AddrPort { return p.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p peer) send(to netip.AddrPort, payload string) {
	p.t.Helper()
	if _, err := p.conn.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		p.t.Fatal(err)
	}
}

func (p peer) want(from netip.AddrPort, payload string) {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 65536)
	n, src, err := p.conn.ReadFromUDPAddrPort(b)
	if err != nil {
		p.t.Fatalf("peer waits for %q: %v", payload, err)
	}
	if src != from || string(b[:n]) != payload {
		p.t.Fatalf("peer got %q from %v, want %q from %v", b[:n], src, payload, from)
	}
}

// checkRelay does one good allocation: what must still work after an attack.
func checkRelay(t *testing.T, s *Server, transport string) {
	t.Helper()
	c, p := dialTURN(t, s, transport, "good"), newPeer(t)
	relayed := c.allocate()
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	c.sendChannel(0x4000, "there")
	p.want(relayed, "there")
	p.send(relayed, "and back")
	c.wantChannel(0x4000, "and back")
	wantCode(t, c.refresh(0), 0)
}
