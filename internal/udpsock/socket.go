package udpsock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// DefaultBufferBytes is the size asked for each of the kernel's two buffers,
// what a fast QUIC connection wants.
const DefaultBufferBytes = 7 << 20

// A Config says what [Listen] opens.
type Config struct {
	// Network is "udp4" or "udp6". A udp6 socket takes IPv6 only.
	Network string

	// Addr is the local address; the zero value is any address and port.
	Addr netip.AddrPort

	// DontFragment sets DF and has the kernel ignore the path MTUs that it
	// learned (IP_PMTUDISC_PROBE), as direct paths want whose size is probed
	// by QUIC. Without it datagrams may be fragmented (IP_PMTUDISC_DONT), as
	// TURN wants.
	DontFragment bool

	// Portable does without the offloads of the platform.
	Portable bool

	// BufferBytes is asked for each kernel buffer; 0 is DefaultBufferBytes. The
	// kernel may grant less.
	BufferBytes int

	// Raw hands every datagram up as data, STUN and empty ones too and unchecked: for the
	// client of a TURN server, where ChannelData and STUN come from one
	// address. There is no RoundTrip then.
	Raw bool

	// Flow tells apart what one source sends to several receivers behind us,
	// datagram by datagram; nil is one flow. See [Loops].
	Flow func(datagram []byte) uint32

	// Trace records the opening; nil is fine.
	Trace *trace.Recorder
}

func (c Config) validate() error {
	var errs []error
	switch c.Network {
	case "udp4", "udp6":
	default:
		errs = append(errs, fmt.Errorf("network %q is neither udp4 nor udp6", c.Network))
	}
	if a := c.Addr.Addr(); a.IsValid() && a.Unmap().Is4() != (c.Network == "udp4") {
		errs = append(errs, fmt.Errorf("address %v is not for %s", c.Addr, c.Network))
	}
	if c.BufferBytes < 0 {
		errs = append(errs, fmt.Errorf("buffer of %d bytes", c.BufferBytes))
	}
	return errors.Join(errs...)
}

// A Socket is one bound UDP socket. All methods may be called concurrently.
type Socket struct {
	// Constant after Listen.
	network string
	raw     bool
	flow    func([]byte) uint32
	local   netip.AddrPort
	conn    conn
	closed  chan struct{}

	closeOnce sync.Once
	closeErr  error

	serving atomic.Bool
	noGSO   atomic.Bool // the kernel failed to cut; see send.go
	counts  counts

	mu      sync.Mutex
	waiters map[stunmsg.TransactionID]*waiter
}

// Listen opens a socket. Nothing is read before Serve.
func Listen(c Config) (*Socket, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("listen udp: %w", err)
	}
	var laddr *net.UDPAddr
	if c.Addr.IsValid() {
		laddr = net.UDPAddrFromAddrPort(c.Addr)
	}
	udp, err := net.ListenUDP(c.Network, laddr)
	if err != nil {
		return nil, err
	}
	s, err := open(c, udp)
	if err != nil {
		udp.Close()
		return nil, listenError(c, err)
	}
	gso, gro := s.Offload()
	c.Trace.Emit(trace.SocketOpened{Network: s.network, Local: s.local, GSO: gso, GRO: gro})
	return s, nil
}

func listenError(c Config, err error) error {
	return fmt.Errorf("listen %s %v: %w", c.Network, c.Addr, err)
}

func open(c Config, udp *net.UDPConn) (*Socket, error) {
	rc, err := udp.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := setOptions(c, udp, rc); err != nil {
		return nil, err
	}
	s := newSocket(c, newConn(c, udp, rc))
	s.local = canonical(udp.LocalAddr().(*net.UDPAddr).AddrPort())
	return s, nil
}

func setOptions(c Config, udp *net.UDPConn, rc syscall.RawConn) error {
	size := c.BufferBytes
	if size == 0 {
		size = DefaultBufferBytes
	}
	setBuffers(udp, rc, size)
	return setFragmentation(rc, c.Network, c.DontFragment)
}

func newConn(c Config, udp *net.UDPConn, rc syscall.RawConn) conn {
	if c.Portable {
		return newPortableConn(udp, c.Network, rc)
	}
	return newPlatformConn(udp, c.Network, rc)
}

func newSocket(c Config, cn conn) *Socket {
	return &Socket{
		network: c.Network,
		raw:     c.Raw,
		flow:    c.Flow,
		conn:    cn,
		closed:  make(chan struct{}),
		waiters: make(map[stunmsg.TransactionID]*waiter),
	}
}

// canonical gives IPv4 its own form and leaves a zone to link-local addresses
// only, so that one source has one value.
func canonical(a netip.AddrPort) netip.AddrPort {
	ip := a.Addr().Unmap()
	if ip.Zone() != "" && !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast() {
		ip = ip.WithZone("")
	}
	return netip.AddrPortFrom(ip, a.Port())
}

// LocalAddr is the bound address, with its port; the address is unspecified if
// none was asked for.
func (s *Socket) LocalAddr() netip.AddrPort { return s.local }

// Network is "udp4" or "udp6".
func (s *Socket) Network() string { return s.network }

// Offload says whether sends are cut and reads coalesced by the kernel. GSO
// turns false for good when the kernel turns out unable to.
func (s *Socket) Offload() (gso, gro bool) {
	gso, gro = s.conn.offload()
	return gso && !s.noGSO.Load(), gro
}

// SyscallConn gives access to the file descriptor, for options only.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

// Close closes the socket. Serve, RoundTrip and sends under way return
// net.ErrClosed; Close waits for none of them, so that a Handler may call it:
// whoever runs Serve waits for Serve.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		s.conn.drops() // remembered from here on
		close(s.closed)
		s.closeErr = s.conn.Close()
	})
	return s.closeErr
}

func (s *Socket) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}
