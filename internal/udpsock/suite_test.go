package udpsock

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = time.Minute

// A mode is one way to do I/O; what a test of the suite says holds for all.
type mode struct {
	network  string
	loopback string
	portable bool
}

func eachMode(t *testing.T, f func(*testing.T, mode)) {
	for name, m := range map[string]mode{
		"platform/udp4": {"udp4", "127.0.0.1:0", false},
		"platform/udp6": {"udp6", "[::1]:0", false},
		"portable/udp4": {"udp4", "127.0.0.1:0", true},
		"portable/udp6": {"udp6", "[::1]:0", true},
	} {
		t.Run(name, func(t *testing.T) {
			if m.network == "udp6" {
				c, err := net.ListenPacket("udp6", "[::1]:0")
				if err != nil {
					t.Skip("no IPv6 on this machine:", err)
				}
				c.Close()
			}
			f(t, m)
		})
	}
}

func (m mode) config() Config {
	return Config{Network: m.network, Addr: netip.MustParseAddrPort(m.loopback), DontFragment: true, Portable: m.portable}
}

// listen opens a socket on loopback that is closed with the test.
func (m mode) listen(t testing.TB, change ...func(*Config)) *Socket {
	t.Helper()
	c := m.config()
	for _, f := range change {
		f(&c)
	}
	s, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// serve runs Serve until the test ends and checks how it ended.
func serve(t testing.TB, s *Socket, h Handler) {
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), h) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve = %v, want net.ErrClosed", err)
		}
	})
}

// An inbox is a Handler that keeps copies.
type inbox struct {
	data chan []byte // one datagram each
	stun chan []byte
	src  chan netip.AddrPort // of each datagram in data
}

func newInbox() *inbox {
	const room = 1 << 12
	return &inbox{make(chan []byte, room), make(chan []byte, room), make(chan netip.AddrPort, room)}
}

func (in *inbox) HandleData(p *Packet) {
	for d := range p.Datagrams() {
		in.data <- bytes.Clone(d)
		in.src <- p.Src
	}
	p.Release()
}

func (in *inbox) HandleSTUN(b []byte, _ netip.AddrPort) { in.stun <- bytes.Clone(b) }

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing arrived")
	}
	return *new(T)
}

// A responder answers Binding requests as respond says, which may be not at
// all.
type responder struct {
	*inbox
	s       *Socket
	respond func(req *stunmsg.Message, src netip.AddrPort)
}

func (r *responder) HandleSTUN(b []byte, src netip.AddrPort) {
	r.inbox.HandleSTUN(b, src)
	if m, err := stunmsg.Decode(b); err == nil && r.respond != nil {
		r.respond(m, src)
	}
}

// newResponder serves a socket that answers requests with the address they
// came from.
func newResponder(t testing.TB, m mode) *responder {
	r := &responder{inbox: newInbox(), s: m.listen(t)}
	r.respond = func(req *stunmsg.Message, src netip.AddrPort) {
		r.s.Send(stunmsg.Success(req.Header).XORMappedAddress(src).Bytes(), 0, src)
	}
	return r
}

func (r *responder) serve(t testing.TB) *responder {
	serve(t, r.s, r)
	return r
}

func bindingRequest() []byte { return stunmsg.NewRequest(stunmsg.MethodBinding).Bytes() }

// A fakeConn stands for a kernel. Reads come from a channel, writes go to a
// function.
type fakeConn struct {
	reads   chan func(b []byte) (n, seg int, src netip.AddrPort, err error)
	onWrite func(b []byte, seg int, dst netip.AddrPort) error
	gso     bool
	closed  chan struct{}
	late    chan struct{} // a read deadline that passed
}

func newFake(onWrite func([]byte, int, netip.AddrPort) error) *fakeConn {
	return &fakeConn{
		reads:   make(chan func([]byte) (int, int, netip.AddrPort, error)),
		onWrite: onWrite,
		gso:     true,
		closed:  make(chan struct{}),
		late:    make(chan struct{}, 1),
	}
}

func (c *fakeConn) socket() *Socket { return newSocket(Config{Network: "udp4"}, c) }

func (c *fakeConn) read(b []byte) (int, int, netip.AddrPort, error) {
	select {
	case f := <-c.reads:
		return f(b)
	case <-c.late:
		return 0, 0, netip.AddrPort{}, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *fakeConn) write(b []byte, seg int, dst netip.AddrPort) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return c.onWrite(b, seg, dst)
	}
}

func (c *fakeConn) writeTTL(b []byte, dst netip.AddrPort, _ int) error { return c.write(b, 0, dst) }

func (c *fakeConn) offload() (gso, gro bool) { return c.gso, true }
func (c *fakeConn) drops() uint64            { return 0 }

func (c *fakeConn) SetReadDeadline(d time.Time) error {
	if !d.IsZero() {
		c.late <- struct{}{}
	}
	return nil
}

func (c *fakeConn) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }

func (c *fakeConn) Close() error {
	close(c.closed)
	return nil
}
