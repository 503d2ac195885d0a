package path

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
	"github.com/p2pagent/p2pagent/relay"
)

// allocated is an allocation on a relay that counts the payload it carries, and
// in what batches.
type allocated struct {
	*relay.Allocation
	mu      sync.Mutex
	out, in batches
}

type batches struct{ bytes, datagrams, batches, longest int }

func (b *batches) add(bytes, datagrams int) {
	b.bytes += bytes
	b.datagrams += datagrams
	b.batches++
	b.longest = max(b.longest, datagrams)
}

func (a *allocated) counts() (out, in batches) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out, a.in
}

func (a *allocated) Send(b []byte, seg int, dst netip.AddrPort) error {
	if !stunmsg.Is(b) {
		a.mu.Lock()
		a.out.add(len(b), (len(b)+seg-1)/seg)
		a.mu.Unlock()
	}
	return a.Allocation.Send(b, seg, dst)
}

func (a *allocated) Serve(ctx context.Context, h udpsock.Handler) error {
	return a.Allocation.Serve(ctx, counting{h, a})
}

type counting struct {
	udpsock.Handler
	a *allocated
}

func (c counting) HandleData(p *udpsock.Packet) {
	c.a.mu.Lock()
	c.a.in.add(len(p.Data), p.Count())
	c.a.mu.Unlock()
	c.Handler.HandleData(p)
}

// gated is a socket that can be cut off from one address, both ways.
type gated struct {
	*udpsock.Socket
	from netip.AddrPort // set before it is used
	cut  atomic.Bool
}

func (g *gated) Send(b []byte, seg int, dst netip.AddrPort) error {
	if g.cut.Load() && dst == g.from {
		return nil
	}
	return g.Socket.Send(b, seg, dst)
}

// startRelay serves TURN on loopback until the test ends.
func startRelay(t *testing.T) (s *relay.Server, secret []byte) {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	secret = []byte("secret of a test")
	s, err := relay.NewServer(relay.ServerConfig{
		PublicIP: loopback, Secrets: [][]byte{secret},
		PortMin: 12000, PortMax: 19999, // below ephemeral ports
		Allow: []netip.Prefix{netip.PrefixFrom(loopback, 8).Masked()},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("relay: %v", err)
		}
	})
	return s, secret
}

// A flow is a stream that is written to until it is stopped.
type flow struct {
	stop     chan struct{}
	received atomic.Int64
	sent     chan []byte // hash
	err      chan error
}

// startFlow moves random bytes from one side to the other, at most 16 MB/s.
func startFlow(from, to *quic.Conn) *flow {
	f := &flow{stop: make(chan struct{}), sent: make(chan []byte, 1), err: make(chan error, 2)}
	go func() { f.err <- f.write(from) }()
	go func() { f.err <- f.read(to) }()
	return f
}

func (f *flow) write(from *quic.Conn) error {
	s, err := from.OpenUniStream()
	if err != nil {
		return err
	}
	h, chunk := sha256.New(), make([]byte, 64<<10)
	pace := time.NewTicker(4 * time.Millisecond)
	defer pace.Stop()
	for {
		rand.Read(chunk)
		if _, err := s.Write(chunk); err != nil {
			return err
		}
		h.Write(chunk)
		select {
		case <-f.stop:
			f.sent <- h.Sum(nil)
			return s.Close()
		case <-pace.C:
		}
	}
}

func (f *flow) read(to *quic.Conn) error {
	s, err := to.AcceptUniStream(context.Background())
	if err != nil {
		return err
	}
	h, buf := sha256.New(), make([]byte, 64<<10)
	for {
		n, err := s.Read(buf)
		h.Write(buf[:n])
		f.received.Add(int64(n))
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if !bytes.Equal(h.Sum(nil), <-f.sent) {
		return errors.New("the bytes differ")
	}
	return nil
}

// more waits until n more bytes have come.
func (f *flow) more(t *testing.T, n int64) {
	t.Helper()
	until := f.received.Load() + n
	eventually(t, "more bytes", func() bool { return f.received.Load() >= until })
}

func (f *flow) end(t *testing.T) {
	t.Helper()
	close(f.stop)
	for range 2 {
		select {
		case err := <-f.err:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatalf("stuck at %d bytes", f.received.Load())
		}
	}
}

// patience is how long a test on the clock of the machine waits for what must happen.
const patience = 2 * time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestQUICOverRelay moves a QUIC connection under load between a real relay and
// real sockets: relayed at first, then direct, relayed when the direct path
// dies, and direct again.
func TestQUICOverRelay(t *testing.T) {
	server, secret := startRelay(t)
	relayedBytes := func() int {
		s := server.Stats().Relay
		return int(s.ClientToPeerBytes + s.PeerToClientBytes)
	}

	a, b := testConn(t, true), testConn(t, false)
	open := func(c *Conn) *gated {
		s, err := udpsock.Listen(udpsock.Config{Network: "udp4", Addr: netip.MustParseAddrPort("127.0.0.1:0"), DontFragment: true})
		if err != nil {
			t.Fatal(err)
		}
		g := &gated{Socket: s}
		if err := c.AddCarrier(g, Direct, nil); err != nil {
			t.Fatal(err)
		}
		return g
	}
	sa, sb := open(a), open(b)
	sa.from, sb.from = sb.LocalAddr(), sa.LocalAddr()
	cut := func(yes bool) { sa.cut.Store(yes); sb.cut.Store(yes) }

	user, password := relay.Mint(secret, "b", time.Hour, time.Now())
	alloc, err := relay.Allocate(t.Context(), relay.ClientConfig{Server: server.UDPAddr(), Username: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	kb := &allocated{Allocation: alloc}
	if err := b.AddCarrier(kb, Relayed, nil); err != nil {
		t.Fatal(err)
	}
	if err := alloc.Permit(t.Context(), sa.LocalAddr().Addr()); err != nil {
		t.Fatal(err)
	}
	if err := alloc.Bind(t.Context(), sa.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := a.Try(sa, alloc.LocalAddr(), Relayed); err != nil {
		t.Fatal(err)
	}
	usable(t, a, b)
	on := func(k Kind) {
		t.Helper()
		eventually(t, "both sides to send "+string(k), func() bool {
			pa, _ := a.Active()
			pb, _ := b.Active()
			return pa.Kind == k && pb.Kind == k && pa.State == Alive && pb.State == Alive
		})
	}
	on(Relayed)

	const phase = 4 << 20
	q := connect(t, a, b, a.PeerAddr())
	flows := []*flow{startFlow(q.client, q.server), startFlow(q.server, q.client)}
	progress := func() {
		t.Helper()
		for _, f := range flows {
			f.more(t, phase)
		}
	}

	progress()
	eventually(t, "batches to and from the relay", func() bool {
		progress()
		gso, gro := offloads(t)
		out, in := kb.counts()
		return (!gso || out.longest >= 4 && out.datagrams >= 2*out.batches) &&
			(!gro || in.longest >= 4 && in.datagrams >= 2*in.batches)
	})
	out, in := kb.counts()
	t.Logf("to the relay %d datagrams in %d batches, at most %d; from it %d in %d, at most %d",
		out.datagrams, out.batches, out.longest, in.datagrams, in.batches, in.longest)
	if n := relayedBytes(); n < 2*phase {
		t.Errorf("the relay counted %d bytes", n)
	}

	direct := func() {
		t.Helper()
		// A path that was suspected meanwhile, as this machine stood still, sends over
		// two by design: then once more.
		since := func() [2]time.Time {
			pa, _ := a.Active()
			pb, _ := b.Active()
			return [2]time.Time{pa.Since, pb.Since}
		}
		var sent, carried int
		for end := time.Now().Add(patience); time.Now().Before(end); {
			on(Direct)
			for _, f := range flows {
				f.more(t, phase/4) // with what was still on its way over the relay
			}
			calm := since()
			before, _ := kb.counts()
			relayedBefore := relayedBytes()
			progress()
			after, _ := kb.counts()
			sent, carried = int(after.bytes-before.bytes), relayedBytes()-relayedBefore
			if sent == 0 && carried <= 2*phase/100 {
				return
			}
			if since() == calm {
				break
			}
		}
		t.Errorf("while the path was direct, %d bytes of payload went to the relay, and it carried %d", sent, carried)
	}
	if err := a.Try(sa, sb.LocalAddr(), Direct); err != nil {
		t.Fatal(err)
	}
	direct()
	cut(true)
	on(Relayed)
	progress()
	cut(false)
	direct()
	for _, f := range flows {
		f.end(t)
	}
	for name, c := range map[string]*Conn{"a": a, "b": b} {
		if l := c.Losses(); l.Untrusted+l.Forged+l.Malformed+l.Sends+l.NoPath+l.TooLarge > 0 {
			t.Errorf("%s lost %+v", name, l)
		}
	}
}

// offloads tells what this build's sockets do in batches; that Linux's do, is
// udpsock's own test.
func offloads(t *testing.T) (gso, gro bool) {
	t.Helper()
	s, err := udpsock.Listen(udpsock.Config{Network: "udp4", Addr: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Offload()
}
