package path

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// A wire is a network of in-process carriers, each with one address.
type wire struct {
	mu    sync.Mutex
	nodes map[netip.AddrPort]*simCarrier
	links map[[2]netip.AddrPort]*link
	rand  *rand.Rand
}

// A link is one direction between two addresses.
type link struct {
	delay time.Duration
	loss  float64
	mtu   int // larger datagrams vanish; 0: none do
	down  bool
	rate  int // bytes per second; 0: no bound
	queue time.Duration

	freeAt time.Time
}

func newWire() *wire {
	return &wire{
		nodes: make(map[netip.AddrPort]*simCarrier),
		links: make(map[[2]netip.AddrPort]*link),
		rand:  rand.New(rand.NewPCG(1, 2)),
	}
}

// carrier makes a carrier with the given address.
func (w *wire) carrier(addr string) *simCarrier {
	s := &simCarrier{
		wire:   w,
		addr:   netip.MustParseAddrPort(addr),
		wakeup: make(chan struct{}, 1),
		closed: make(chan struct{}),
		to:     make(map[netip.AddrPort]int),
	}
	s.seen = s.addr
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[s.addr] = s
	return s
}

// set changes both directions between two carriers.
func (w *wire) set(a, b *simCarrier, change func(*link)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.link(a.addr, b.addr))
	change(w.link(b.addr, a.addr))
}

// setOneWay changes the direction from a to b.
func (w *wire) setOneWay(a, b *simCarrier, change func(*link)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w.link(a.addr, b.addr))
}

func (w *wire) link(from, to netip.AddrPort) *link {
	k := [2]netip.AddrPort{from, to}
	if w.links[k] == nil {
		w.links[k] = &link{delay: 5 * time.Millisecond}
	}
	return w.links[k]
}

// remap has a carrier appear under another address, as a NAT does that has
// lost its mapping.
func (w *wire) remap(s *simCarrier, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, s.seen)
	s.seen = netip.MustParseAddrPort(addr)
	w.nodes[s.seen] = s
}

// A simCarrier is one end of the wire.
type simCarrier struct {
	wire *wire
	addr netip.AddrPort
	seen netip.AddrPort // its address for others; guarded by wire.mu

	wakeup    chan struct{}
	closed    chan struct{}
	closeOnce sync.Once

	mu       sync.Mutex
	inbox    arrivals
	seq      int
	sends    int // calls of Send with payload
	segments int // datagrams in them
	longest  int // most datagrams in one Send
	largest  int // longest datagram sent that was not STUN
	payload  int // bytes that were not STUN
	tap      func(b []byte, dst netip.AddrPort)
	to       map[netip.AddrPort]int // sends by destination
	own      int                    // longest datagram that its own network takes; 0: any
}

func (s *simCarrier) LocalAddr() netip.AddrPort { return s.addr }
func (s *simCarrier) Network() string           { return "sim" }

func (s *simCarrier) Close() error {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.wire.mu.Lock()
		delete(s.wire.nodes, s.seen)
		s.wire.mu.Unlock()
	})
	return nil
}

func (s *simCarrier) Send(b []byte, seg int, dst netip.AddrPort) error {
	select {
	case <-s.closed:
		return net.ErrClosed
	default:
	}
	if s.refuses(min(seg, len(b))) {
		return &udpsock.LossError{Dst: dst, Err: errTooLong}
	}
	s.count(b, seg, dst)
	if s.tap != nil {
		s.tap(b, dst)
	}
	s.wire.mu.Lock()
	src := s.seen
	s.wire.mu.Unlock()
	s.wire.transmit(src, dst, b, seg)
	return nil
}

func (s *simCarrier) refuses(length int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own > 0 && length > s.own
}

func (s *simCarrier) refuseLonger(than int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = than
}

func (s *simCarrier) count(b []byte, seg int, dst netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to[dst]++
	if stunmsg.Is(b) {
		return
	}
	n := (len(b) + seg - 1) / seg
	s.sends++
	s.segments += n
	s.longest = max(s.longest, n)
	s.largest = max(s.largest, min(seg, len(b)))
	s.payload += len(b)
}

func (s *simCarrier) sentTo(dst netip.AddrPort) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to[dst]
}

func (s *simCarrier) longestDatagram() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.largest
}

func (s *simCarrier) sentPayload() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payload
}

// transmit moves a batch, from whatever address: also what is forged.
func (w *wire) transmit(src, dst netip.AddrPort, b []byte, seg int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to, l := w.nodes[dst], w.link(src, dst)
	if to == nil || l.down {
		return
	}
	now := time.Now()
	at := now.Add(l.delay)
	var batch []byte
	for d := range udpsock.Cut(b, seg) {
		if l.mtu > 0 && len(d) > l.mtu || w.rand.Float64() < l.loss {
			continue
		}
		if l.rate > 0 {
			if l.freeAt.Before(now) {
				l.freeAt = now
			}
			if l.freeAt.Sub(now) > l.queue {
				continue // tail drop
			}
			l.freeAt = l.freeAt.Add(time.Duration(len(d)) * time.Second / time.Duration(l.rate))
			at = l.freeAt.Add(l.delay)
		}
		batch = append(batch, d...)
	}
	if len(batch) > 0 {
		to.deliver(arrival{at: at, pkt: udpsock.NewPacket(batch, seg, src)})
	}
}

func (s *simCarrier) deliver(a arrival) {
	s.mu.Lock()
	s.seq++
	a.seq = s.seq
	heap.Push(&s.inbox, a)
	s.mu.Unlock()
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// Serve hands over what has arrived, when its time has come.
func (s *simCarrier) Serve(ctx context.Context, h udpsock.Handler) error {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, a := range s.inbox {
			a.pkt.Release()
		}
		s.inbox = nil
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		wait := time.Hour
		var pkt *udpsock.Packet
		if len(s.inbox) > 0 {
			if wait = time.Until(s.inbox[0].at); wait <= 0 {
				pkt = heap.Pop(&s.inbox).(arrival).pkt
			}
		}
		s.mu.Unlock()
		if pkt != nil {
			if stunmsg.Is(pkt.Data) {
				if stunmsg.Check(pkt.Data, stunmsg.AsPeer) == nil {
					h.HandleSTUN(pkt.Data, pkt.Src)
				}
				pkt.Release()
			} else {
				h.HandleData(pkt)
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wakeup:
		case <-s.closed:
			return net.ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

type arrival struct {
	at  time.Time
	seq int
	pkt *udpsock.Packet
}

type arrivals []arrival

func (a arrivals) Len() int { return len(a) }
func (a arrivals) Less(i, j int) bool {
	if !a[i].at.Equal(a[j].at) {
		return a[i].at.Before(a[j].at)
	}
	return a[i].seq < a[j].seq
}
func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)   { *a = append(*a, x.(arrival)) }
func (a *arrivals) Pop() any {
	old := *a
	x := old[len(old)-1]
	*a = old[:len(old)-1]
	return x
}

// testConn returns a Conn that is closed with the test.
func testConn(t *testing.T, initiator bool, change ...func(*Config)) *Conn {
	t.Helper()
	seed := rand.New(rand.NewPCG(3, 4))
	cfg := Config{
		Key: []byte("0123456789abcdef0123456789abcdef"), ID: "link", Initiator: initiator,
		jitter: func(d time.Duration) time.Duration { return time.Duration(seed.Int64N(max(int64(d), 1))) },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// add gives a Conn a carrier.
func add(t *testing.T, c *Conn, s *simCarrier, kind Kind) *simCarrier {
	t.Helper()
	if err := c.AddCarrier(s, kind, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// try has c probe the peer's carrier.
func try(t *testing.T, c *Conn, from, to *simCarrier, kind Kind) {
	t.Helper()
	if err := c.Try(from, to.addr, kind); err != nil {
		t.Fatal(err)
	}
}

// usable waits for a path.
func usable(t *testing.T, conns ...*Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, c := range conns {
		if err := c.WaitUsable(ctx); err != nil {
			t.Fatalf("%v; paths %+v", err, c.Status())
		}
	}
}
