package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// The client half of TURN (RFC 8656). [Allocate] makes an [Allocation] on a
// socket of its own; the files are
//
//	client.go              configuration, and the Allocate request
//	client_request.go      one request: credentials, nonces, what an error means
//	client_transaction.go  its transaction: pion/turn/v3
//	client_conn.go         UDP, TCP and TLS below
//	allocation.go          the allocation's life
//	allocation_upkeep.go   keeping it, its permissions and channels alive
//	channel.go             data to and from peers
//
// Of pion's client only PerformTransaction and HandleInbound are used, for all
// four requests. Its Allocate, CreatePermission and channel binding are not: they
// hide nonce and channel number, lose the server's error code, never recover a
// channel from a stale nonce, and their failed refreshes end in a log line, after
// which reads block for ever. Its Listen is not either: it ends at the first
// message that it does not expect, which anybody may send. So every datagram
// comes through our own loop, and what is not from the server or does not pass
// stunmsg.Check never reaches pion.

// ClientConfig says where and as whom to allocate.
type ClientConfig struct {
	// Server is the TURN server, resolved.
	Server netip.AddrPort
	// Transport to the server: "udp" (also when empty), "tcp" or "tls".
	Transport string
	// ServerName is whom the server's certificate must name with "tls"; empty is
	// the address.
	ServerName string
	// RootCAs judge that certificate; nil is the system's.
	RootCAs *x509.CertPool
	// Username and Password are long-term credentials, as [Mint] makes them.
	Username, Password string
	// Trace records what becomes of requests; nil is fine.
	Trace *trace.Recorder
	// Portable does without the platform's offloads.
	Portable bool

	// times are ours but for tests.
	times clientTimes
}

// clientTimes are the client's own choices; those of the RFC are below.
type clientTimes struct {
	retry     time.Duration // wait before a request is first repeated
	refresh   time.Duration // from one Refresh to the next
	renew     time.Duration // the same for a permission or channel
	again     time.Duration // after a failure that may pass
	farewell  time.Duration // how long Close waits for the server
	writeWait time.Duration // how long a stream may take nothing
}

// What RFC 8656 gives without asking (sections 9 and 12).
const (
	permissionLife = 5 * time.Minute
	channelLife    = 10 * time.Minute
)

func (t clientTimes) orDefault(stream bool) clientTimes {
	d := clientTimes{
		retry: 100 * time.Millisecond,
		// A Refresh is also what keeps the mapping of NATs towards the server
		// alive, 30 s in the shortest-lived, and what notices a server that has
		// lost the allocation.
		refresh:   25 * time.Second,
		renew:     4 * time.Minute,
		again:     5 * time.Second,
		farewell:  time.Second,
		writeWait: 15 * time.Second,
	}
	if stream {
		d.retry = time.Second // nothing is lost, except in our own full queue
	}
	for _, f := range []struct{ ours, tests *time.Duration }{
		{&d.retry, &t.retry}, {&d.refresh, &t.refresh}, {&d.renew, &t.renew},
		{&d.again, &t.again}, {&d.farewell, &t.farewell}, {&d.writeWait, &t.writeWait},
	} {
		if *f.tests != 0 {
			*f.ours = *f.tests
		}
	}
	return d
}

// withDefaults checks c and fills in what was left out.
func (c ClientConfig) withDefaults() (ClientConfig, error) {
	var errs []error
	switch c.Transport {
	case "":
		c.Transport = "udp"
	case "udp", "tcp", "tls":
	default:
		errs = append(errs, fmt.Errorf("transport %q is not udp, tcp or tls", c.Transport))
	}
	c.Server = netip.AddrPortFrom(c.Server.Addr().Unmap(), c.Server.Port())
	if !c.Server.IsValid() || c.Server.Port() == 0 {
		errs = append(errs, errors.New("no server address"))
	}
	if c.Username == "" || c.Password == "" {
		errs = append(errs, errors.New("no credentials"))
	}
	if c.ServerName == "" {
		c.ServerName = c.Server.Addr().WithZone("").String()
	}
	c.times = c.times.orDefault(c.Transport != "udp")
	return c, errors.Join(errs...)
}

// name is the server as errors and events call it.
func (c ClientConfig) name() string {
	if c.Transport == "udp" {
		return "turn " + c.Server.String()
	}
	return "turn " + c.Server.String() + " over " + c.Transport
}

func (c ClientConfig) dial(ctx context.Context) (clientConn, error) {
	if c.Transport == "udp" {
		return listenUDPConn(c)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.Server.String())
	if err != nil {
		return nil, err
	}
	if c.Transport == "tls" {
		t := tls.Client(conn, &tls.Config{ServerName: c.ServerName, RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12})
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = t
	}
	s := newStreamConn(conn, c)
	c.Trace.Emit(trace.SocketOpened{Network: "tcp", Local: s.local()})
	return s, nil
}

// Allocate connects to a TURN server and makes an allocation there. The
// Allocation reads its socket from now on; [Allocation.Serve] gives what comes to
// a handler and keeps the allocation alive, and has to be started at once.
//
// An error that the server gave is a [RequestError].
func Allocate(ctx context.Context, c ClientConfig) (*Allocation, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("allocate on %s: %w", c.name(), err)
	}
	conn, err := c.dial(ctx)
	if err != nil {
		err = &RequestError{What: "allocate", Server: c.name(), Err: err}
		c.refused("allocate", "", err)
		return nil, err
	}
	a, err := newAllocation(c, conn)
	if err != nil {
		conn.close()
		return nil, fmt.Errorf("allocate on %s: %w", c.name(), err)
	}
	if err := a.allocate(ctx); err != nil {
		a.abandon()
		return nil, err
	}
	return a, nil
}

// allocate makes the Allocate request and takes from its answer what it is for.
func (a *Allocation) allocate(ctx context.Context) error {
	m, err := a.request(ctx, "allocate", "", stunmsg.MethodAllocate, func(b *stunmsg.Builder) {
		b.RequestedTransport(protocolUDP)
	})
	if err != nil {
		return err
	}
	relayed, _ := m.XORRelayed()
	if !relayed.IsValid() || relayed.Addr().IsUnspecified() || relayed.Port() == 0 {
		err := &RequestError{What: "allocate", Server: a.cfg.name(), Err: fmt.Errorf("relayed address %v is unusable", relayed)}
		a.cfg.refused("allocate", "", err)
		return err
	}
	a.relayed = relayed
	a.mapped, _ = m.XORMapped()
	a.life = defaultLifetime
	if l, ok := m.Lifetime(); ok {
		a.life = l
	}
	a.duties.add(duty{kind: keepAllocation}, time.Now(), a.cfg.times.refresh, a.life)
	a.cfg.Trace.Emit(trace.RelayAllocated{
		Server: a.Server().String(), Transport: a.cfg.Transport,
		Relayed: a.relayed, Mapped: a.mapped, Lifetime: a.life.Seconds(),
	})
	return nil
}

// credentials are what the server wants requests signed with.
type credentials struct {
	username, password string

	mu    sync.Mutex
	realm string // guarded by mu, like the others; empty until the server said
	nonce string
	key   []byte
}

// sign ends b, with credentials when the server has told its realm, and returns
// the key that its answer must be signed with, nil for none.
func (c *credentials) sign(b *stunmsg.Builder) (key []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key == nil {
		b.Fingerprint()
		return nil
	}
	b.Username(c.username).Realm(c.realm).Nonce(c.nonce).Sign(c.key)
	return c.key
}

// learn takes realm and nonce from a challenge; it is false when m is none.
func (c *credentials) learn(m *stunmsg.Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	realm, nonce := m.Realm(), m.Nonce()
	if realm == "" {
		realm = c.realm
	}
	if realm == "" || nonce == "" {
		return false
	}
	if realm != c.realm {
		c.realm, c.key = realm, stunmsg.LongTermKey(c.username, realm, c.password)
	}
	c.nonce = nonce
	return true
}
