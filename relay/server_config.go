package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// A ServerConfig says what a [Server] serves.
type ServerConfig struct {
	// PublicIP is the address that clients use and that relayed transport
	// addresses have. IPv4.
	PublicIP netip.Addr

	// LocalIP is bound for it, when it is not PublicIP itself: behind a NAT
	// that maps one address to one address. See [LocalFor].
	LocalIP netip.Addr

	// AltIP, if valid, is a second public address, for the tests of RFC 5780
	// that need one. AltLocalIP is to it what LocalIP is to PublicIP.
	AltIP, AltLocalIP netip.Addr

	// Port is that of STUN and TURN over UDP and TCP, and of STUN on AltIP;
	// the second STUN port is the next one. 0 is any free ports, for tests.
	Port uint16

	// NoTCP leaves out TURN over TCP.
	NoTCP bool

	// TLS, if not nil, serves TURN over TLS ("turns") at TLSPort. DTLS is
	// never served.
	TLS     *tls.Config
	TLSPort uint16

	// Realm is told to clients; default "p2pagent". Short is good, an answer
	// to a forged source carries it.
	Realm string

	// Secrets verify REST credentials, see [Mint]. Several, so that one can
	// take over from another. None: every credential is refused.
	Secrets [][]byte

	// PortMin and PortMax bound the relayed ports; default 49152 to 65535.
	PortMin, PortMax uint16

	// Allow opens ranges that the peer policy denies; see [ParseAllow].
	Allow []netip.Prefix

	Limits Limits

	// NonceLifetime is how long a nonce is good; default one hour.
	NonceLifetime time.Duration

	// Portable does without the offloads of the platform.
	Portable bool

	// Log is for the operator; default none.
	Log *slog.Logger

	// Now is the clock for credentials, permissions and budgets; default
	// time.Now.
	Now func() time.Time
}

// Limits bound what clients can take. Zero fields mean the default.
type Limits struct {
	Allocations        int           // in all; 10000
	AllocationsPerUser int           // distinct sources of one user; 32
	AllocationsPerIP   int           // of one client address; 512, since many may share a NAT
	Lifetime           time.Duration // longest of an allocation; 59 minutes, see longestLifetime
	PeersPerAllocation int           // permissions, and channels; 64
	SessionRate        int64         // bits per second of one user, in each direction; 0: no limit

	RequestsPerUser float64 // authenticated ones per second, ten times as many at once; 100

	ErrorsPerSecond       float64 // unauthenticated error answers to one source; 50
	ErrorsPerSecondTotal  float64 // to all that may be forged; 2000
	BindingPerSecond      float64 // Binding answers to one source; 200
	BindingPerSecondTotal float64 // 20000

	Streams      int           // TCP and TLS connections; 4096
	StreamsPerIP int           // 64
	StreamIdle   time.Duration // for the TLS handshake, and until there is an allocation; 10 s
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Allocations:           or(l.Allocations, 10000),
		AllocationsPerUser:    or(l.AllocationsPerUser, 32),
		AllocationsPerIP:      or(l.AllocationsPerIP, 512),
		Lifetime:              min(or(l.Lifetime, longestLifetime), longestLifetime),
		PeersPerAllocation:    or(l.PeersPerAllocation, 64),
		SessionRate:           l.SessionRate,
		RequestsPerUser:       or(l.RequestsPerUser, 100),
		ErrorsPerSecond:       or(l.ErrorsPerSecond, 50),
		ErrorsPerSecondTotal:  or(l.ErrorsPerSecondTotal, 2000),
		BindingPerSecond:      or(l.BindingPerSecond, 200),
		BindingPerSecondTotal: or(l.BindingPerSecondTotal, 20000),
		Streams:               or(l.Streams, 4096),
		StreamsPerIP:          or(l.StreamsPerIP, 64),
		StreamIdle:            or(l.StreamIdle, 10*time.Second),
	}
}

func (c ServerConfig) withDefaults() ServerConfig {
	c.LocalIP = or(c.LocalIP, c.PublicIP)
	c.AltLocalIP = or(c.AltLocalIP, c.AltIP)
	c.Realm = or(c.Realm, "p2pagent")
	c.PortMin, c.PortMax = or(c.PortMin, 49152), or(c.PortMax, 65535)
	c.NonceLifetime = or(c.NonceLifetime, time.Hour)
	c.Limits = c.Limits.withDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c ServerConfig) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !c.PublicIP.Is4() || c.PublicIP.IsUnspecified() {
		bad("public address %v: an IPv4 address is needed", c.PublicIP)
	}
	if !c.LocalIP.Is4() || c.LocalIP.IsUnspecified() {
		bad("local address %v: an IPv4 address is needed", c.LocalIP)
	}
	if c.AltIP.IsValid() && (!c.AltIP.Is4() || c.AltIP == c.PublicIP || c.AltLocalIP == c.LocalIP) {
		bad("alternate address %v: a second IPv4 address is needed", c.AltIP)
	}
	if c.PortMin > c.PortMax {
		bad("relay ports %d-%d: the first is above the last", c.PortMin, c.PortMax)
	}
	if c.Port == 65535 {
		bad("port 65535: there is no next one for the second STUN port")
	}
	for _, p := range c.Allow {
		if !p.IsValid() || p.Bits() == 0 {
			bad("allow peer %v: would open everything", p)
		}
	}
	for _, s := range c.Secrets {
		if len(s) == 0 {
			bad("empty turn secret")
		}
	}
	return errors.Join(errs...)
}

// LocalFor returns the address of this machine that stands for public: public
// itself if an interface has it, else the one that the default route uses,
// as behind a 1:1 NAT.
func LocalFor(public netip.Addr) (netip.Addr, error) {
	own, err := interfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range own {
		if a == public {
			return a, nil
		}
	}
	return DefaultRouteAddr()
}

// DefaultRouteAddr is the IPv4 address from which this machine would talk to
// the internet. Nothing is sent to find out.
func DefaultRouteAddr() (netip.Addr, error) {
	c, err := net.Dial("udp4", "192.0.2.1:9") // connecting a UDP socket only looks up the route
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the address of the default route: %w", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

func interfaceAddrs() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}
