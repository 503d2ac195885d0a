package relay

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A stunClient is an unconnected socket: answers may come from anywhere.
type stunClient struct{ peer }

// binding asks the server at to and returns the answer and where it came from.
func (c stunClient) binding(to netip.AddrPort, b *stunmsg.Builder) (*stunmsg.Message, netip.AddrPort) {
	c.t.Helper()
	if _, err := c.conn.WriteToUDPAddrPort(b.Bytes(), to); err != nil {
		c.t.Fatal(err)
	}
	c.conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2048)
	n, src, err := c.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		c.t.Fatalf("no answer from %v: %v", to, err)
	}
	m, err := stunmsg.Decode(buf[:n])
	if err != nil || m.TransactionID != b.TransactionID() {
		c.t.Fatalf("answer %x: %v", buf[:n], err)
	}
	if err := m.VerifyFingerprint(); err != nil {
		c.t.Error(err)
	}
	return m, src
}

func newBinding() *stunmsg.Builder { return stunmsg.NewRequest(stunmsg.MethodBinding) }

// With two addresses: every one of the four answers, from where it is asked
// to, and tells the opposite one.
func TestResponderWithTwoAddresses(t *testing.T) {
	cfg := labConfig()
	cfg.AltIP = netip.MustParseAddr("127.0.0.2")
	s := startServer(t, cfg)
	c := stunClient{newPeer(t)}
	for ip := range 2 {
		for port := range 2 {
			to := s.responder.addr[ip][port]
			for _, change := range []stunAddr{{0, 0}, {0, 1}, {1, 0}, {1, 1}} {
				t.Run(fmt.Sprintf("%v change %v", to, change), func(t *testing.T) {
					m, src := c.binding(to, newBinding().ChangeRequest(change.ip == 1, change.port == 1))
					wantCode(t, m, 0)
					from := s.responder.addr[ip^change.ip][port^change.port]
					other := s.responder.addr[1-ip][1-port]
					if src != from {
						t.Errorf("answered from %v, want %v", src, from)
					}
					if got, _ := m.ResponseOrigin(); got != from {
						t.Errorf("RESPONSE-ORIGIN %v, want %v", got, from)
					}
					if got, _ := m.OtherAddress(); got != other {
						t.Errorf("OTHER-ADDRESS %v, want %v", got, other)
					}
					if got, _ := m.XORMapped(); got != c.addr() {
						t.Errorf("XOR-MAPPED-ADDRESS %v, want %v", got, c.addr())
					}
				})
			}
		}
	}
	if got := len(s.STUNAddrs()); got != 4 {
		t.Errorf("%d STUN addresses", got)
	}
}

// With one address: two ports, no OTHER-ADDRESS, a change of port and no
// change of address.
func TestResponderWithOneAddress(t *testing.T) {
	s := startServer(t, labConfig())
	c := stunClient{newPeer(t)}
	first, second := s.responder.addr[0][0], s.responder.addr[0][1]
	for _, to := range []netip.AddrPort{first, second} {
		m, src := c.binding(to, newBinding())
		wantCode(t, m, 0)
		if src != to {
			t.Errorf("answered from %v, want %v", src, to)
		}
		if other, ok := m.OtherAddress(); ok {
			t.Errorf("OTHER-ADDRESS %v with one address", other)
		}
	}
	if _, src := c.binding(first, newBinding().ChangeRequest(false, true)); src != second {
		t.Errorf("change of port answered from %v, want %v", src, second)
	}
	m, src := c.binding(first, newBinding().ChangeRequest(true, true))
	wantCode(t, m, codeUnknownAttribute)
	if v, _ := m.Attr(stunmsg.AttrUnknownAttributes); string(v) != "\x00\x03" || src != first {
		t.Errorf("UNKNOWN-ATTRIBUTES %x from %v", v, src)
	}
}

// The answer goes to where the request came from, and is not much longer.
func TestResponderIsNoReflector(t *testing.T) {
	cfg := labConfig()
	cfg.AltIP = netip.MustParseAddr("127.0.0.2")
	cfg.Limits.BindingPerSecond = 10
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	s := startServer(t, cfg)
	c, victim := stunClient{newPeer(t)}, newPeer(t)

	redirected := newBinding().Attr(stunmsg.AttrResponsePort, []byte{byte(victim.addr().Port() >> 8), byte(victim.addr().Port()), 0, 0})
	if m, _ := c.binding(s.UDPAddr(), redirected); m.Class != stunmsg.ClassSuccess {
		t.Errorf("class %v", m.Class)
	}
	padded := newBinding().PadTo(500)
	if m, _ := c.binding(s.UDPAddr(), padded); len(m.Raw()) != len(padded.Bytes()) {
		t.Errorf("%d bytes for a padded request of %d", len(m.Raw()), len(padded.Bytes()))
	}
	if m, _ := c.binding(s.UDPAddr(), newBinding()); len(m.Raw()) > 64 {
		t.Errorf("%d bytes for a plain request", len(m.Raw()))
	}
	for range 20 {
		c.conn.WriteToUDPAddrPort(newBinding().Bytes(), s.UDPAddr())
	}
	waitFor(t, "the budget to be spent", func() bool { return s.count.drops[dropSilenced].Load() == 13 })
	if n := s.Stats().STUN; n != 10 {
		t.Errorf("%d answers, want 10", n)
	}
	victim.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := victim.conn.Read(make([]byte, 100)); !isTimeout(err) {
		t.Errorf("the victim got %d bytes, %v", n, err)
	}
}

// TURN is served at the first address only; the others answer Binding.
func TestOtherAddressesServeNoTURN(t *testing.T) {
	s := startServer(t, labConfig())
	conn, err := net.Dial("udp4", s.responder.addr[0][1].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP).Bytes())
	conn.Write([]byte{0x40, 0, 0, 0})
	waitFor(t, "both to be dropped", func() bool {
		return s.count.drops[dropUnexpected].Load() == 1 && s.count.drops[dropMalformed].Load() == 1
	})
}

func TestBindingOverTCP(t *testing.T) {
	s := startServer(t, labConfig())
	c := dialTURN(t, s, "tcp", "u")
	m := c.exchange(newBinding())
	if got, _ := m.XORMapped(); got.String() != c.conn.LocalAddr().String() {
		t.Errorf("XOR-MAPPED-ADDRESS %v, want %v", got, c.conn.LocalAddr())
	}
	wantCode(t, c.exchange(newBinding().ChangeRequest(false, true)), codeUnknownAttribute)
}
