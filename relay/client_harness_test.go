package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v3"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// impatient makes a client quick to notice things, such as a server that says
// nothing within 3 s; it renews nothing by itself.
var impatient = clientTimes{
	retry: 20 * time.Millisecond, refresh: time.Hour, renew: time.Hour, again: 20 * time.Millisecond, writeWait: time.Second,
}

const (
	testUser     = "user"
	testPassword = "correct horse"
	testRealm    = "test"
)

// scriptedTURN is a TURN server on loopback UDP that does as much of the protocol
// as a client needs, unless a test has it do something else. It relays nothing.
type scriptedTURN struct {
	t    *testing.T
	conn *net.UDPConn
	wait sync.WaitGroup

	mu       sync.Mutex
	nonce    string
	client   netip.AddrPort               // last seen
	requests map[stunmsg.Method]int       // signed ones that were answered
	override func(*stunmsg.Message) reply // nil: none
}

// reply is what an override wants.
type reply struct {
	usual bool   // none of it: do as always
	raw   []byte // nil: silence
}

func scripted(t *testing.T) *scriptedTURN {
	t.Helper()
	return scriptedAt(t, net.IPv4(127, 0, 0, 1))
}

func scriptedAt(t *testing.T, ip net.IP) *scriptedTURN {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip})
	if err != nil {
		t.Fatal(err)
	}
	s := &scriptedTURN{t: t, conn: conn, nonce: "first", requests: make(map[stunmsg.Method]int)}
	s.wait.Go(s.serve)
	t.Cleanup(func() { conn.Close(); s.wait.Wait() })
	return s
}

func (s *scriptedTURN) addr() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// set changes what the server does from now on.
func (s *scriptedTURN) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// instead has f answer from now on, what it wants to.
func (s *scriptedTURN) instead(f func(*stunmsg.Message) reply) { s.set(func() { s.override = f }) }

func (s *scriptedTURN) count(m stunmsg.Method) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[m]
}

func (s *scriptedTURN) serve() {
	buf := make([]byte, 1<<16)
	for {
		n, src, err := s.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		s.set(func() { s.client = src })
		m, err := stunmsg.Decode(buf[:n])
		if err != nil || m.Class != stunmsg.ClassRequest {
			continue
		}
		if b := s.answer(m, src); b != nil {
			s.conn.WriteToUDPAddrPort(b, src)
		}
	}
}

// send sends b to the client, from the server's address.
func (s *scriptedTURN) send(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.conn.WriteToUDPAddrPort(b, s.client); err != nil {
		s.t.Error(err)
	}
}

func (s *scriptedTURN) answer(m *stunmsg.Message, src netip.AddrPort) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.override != nil {
		if r := s.override(m); !r.usual {
			return r.raw
		}
	}
	if m.Method == stunmsg.MethodBinding {
		return stunmsg.Success(m.Header).XORMappedAddress(src).Bytes()
	}
	key := stunmsg.LongTermKey(testUser, testRealm, testPassword)
	switch {
	case m.Nonce() == "":
		return s.challenge(m, 401)
	case m.Nonce() != s.nonce:
		return s.challenge(m, 438)
	case m.Username() != testUser || m.Verify(key) != nil:
		return s.challenge(m, 401)
	}
	s.requests[m.Method]++
	b := stunmsg.Success(m.Header)
	switch m.Method {
	case stunmsg.MethodAllocate:
		b.XORRelayedAddress(netip.MustParseAddrPort("192.0.2.7:50000")).XORMappedAddress(src).Lifetime(10 * time.Minute)
	case stunmsg.MethodRefresh:
		life, _ := m.Lifetime()
		b.Lifetime(life)
	}
	return b.Sign(key).Bytes()
}

func (s *scriptedTURN) challenge(m *stunmsg.Message, code int) []byte {
	return stunmsg.Error(m.Header, code, "").Realm(testRealm).Nonce(s.nonce).Bytes()
}

func (s *scriptedTURN) config() ClientConfig {
	return ClientConfig{Server: s.addr(), Username: testUser, Password: testPassword, times: impatient}
}

// pionTURN starts pion's server as others run it, on UDP, TCP and TLS. The
// permission handler denies 127.0.0.66.
type pionTURN struct {
	udp, tcp, tls netip.AddrPort
	roots         *x509.CertPool
	server        *turn.Server
}

func startPion(t *testing.T, udpPort int) *pionTURN {
	t.Helper()
	var udp *net.UDPConn
	var err error
	waitFor(t, fmt.Sprintf("port %d", udpPort), func() bool { // another socket may have got one that was free a moment ago
		udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: udpPort})
		return err == nil
	})
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, roots := certAndRoots(t)
	overTLS, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	relays := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	allow := func(_ net.Addr, peer net.IP) bool { return !peer.Equal(net.IPv4(127, 0, 0, 66)) }
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	s, err := turn.NewServer(turn.ServerConfig{
		Realm: testRealm, LoggerFactory: quiet,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(user, realm, testPassword), user == testUser
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: udp, RelayAddressGenerator: relays, PermissionHandler: allow}},
		ListenerConfigs: []turn.ListenerConfig{
			{Listener: tcp, RelayAddressGenerator: relays, PermissionHandler: allow},
			{Listener: overTLS, RelayAddressGenerator: relays, PermissionHandler: allow},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &pionTURN{
		udp: udp.LocalAddr().(*net.UDPAddr).AddrPort(), tcp: tcp.Addr().(*net.TCPAddr).AddrPort(),
		tls: overTLS.Addr().(*net.TCPAddr).AddrPort(), roots: roots, server: s,
	}
	t.Cleanup(p.stop)
	return p
}

func (p *pionTURN) stop() { _ = p.server.Close() }

func (p *pionTURN) config(transport string) ClientConfig {
	c := ClientConfig{Transport: transport, RootCAs: p.roots, Username: testUser, Password: testPassword, times: impatient}
	c.Server = map[string]netip.AddrPort{"udp": p.udp, "tcp": p.tcp, "tls": p.tls}[transport]
	return c
}

func certAndRoots(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// inbox is a handler that keeps what comes.
type inbox struct {
	data chan *udpsock.Packet
	stun chan gotSTUN
}

type gotSTUN struct {
	b   string
	src netip.AddrPort
}

func newInbox() *inbox { return &inbox{make(chan *udpsock.Packet, 4096), make(chan gotSTUN, 64)} }

func (i *inbox) HandleData(p *udpsock.Packet) { i.data <- p }

func (i *inbox) HandleSTUN(b []byte, src netip.AddrPort) { i.stun <- gotSTUN{string(b), src} }

// packet waits for the next batch.
func (i *inbox) packet(t *testing.T) *udpsock.Packet {
	t.Helper()
	select {
	case p := <-i.data:
		return p
	case <-time.After(patience):
		t.Fatal("nothing came")
		return nil
	}
}

// allocateAnd makes an allocation and serves it until the test ends.
func allocateAnd(t *testing.T, c ClientConfig) (*Allocation, *inbox) {
	t.Helper()
	a, err := Allocate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	in := newInbox()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Serve(context.Background(), in)
	}()
	t.Cleanup(func() { a.Close(); <-done })
	return a, in
}

// collector keeps the events of one name.
type collector struct {
	mu     sync.Mutex
	events []trace.Event
}

func (c *collector) recorder() *trace.Recorder {
	return trace.New("test", trace.SinkFunc(func(r trace.Record) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.events = append(c.events, r.Event)
	}))
}

func events[E trace.Event](c *collector) (out []E) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e, ok := e.(E); ok {
			out = append(out, e)
		}
	}
	return out
}
