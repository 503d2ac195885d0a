package punch

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// The packet network of these tests: hosts behind rows of routers around one
// core router. Time is synctest's, so a test that waits ten seconds takes none.
//
//	host - box - ... - box - core - box - ... - box - host

// kind is what a home router does, by the names people use.
type kind string

const (
	none               kind = "none" // a router without NAT
	fullCone           kind = "full-cone"
	addressRestricted  kind = "address-restricted"
	portRestricted     kind = "port-restricted"
	portRestrictedOpen kind = "port-restricted-open" // accepts packets to itself: the early-probe trap
	symmetric          kind = "symmetric"
	cgnat              kind = "cgnat" // two port-restricted in a row
	udpBlocked         kind = "udp-blocked"
)

var kinds = []kind{none, fullCone, addressRestricted, portRestricted, portRestrictedOpen, symmetric, cgnat, udpBlocked}

// nat is what the agent behind it would have measured.
func (k kind) nat() candidates.NAT {
	yes, no := true, false
	n := candidates.NAT{UDP: &yes, Translated: &yes, Mapping: candidates.EndpointIndependent}
	switch k {
	case none:
		n.Translated = &no
	case symmetric:
		n.Mapping = candidates.AddressAndPortDependent
	case udpBlocked:
		return candidates.NAT{UDP: &no}
	}
	return n
}

func (k kind) nats() int {
	switch k {
	case none, udpBlocked:
		return 0
	case cgnat:
		return 2
	}
	return 1
}

// flow is a connection as a router tracks it.
type flow struct{ near, far netip.AddrPort }

// box is one router, in the manner of netfilter.
type box struct {
	kind     kind
	wan      netip.Addr
	rng      *rand.Rand
	out      map[flow]netip.AddrPort // inner and remote → outer
	back     map[flow]netip.AddrPort // outer and remote → inner
	inner    map[uint16]netip.AddrPort
	spoken   map[netip.Addr]bool // remote addresses that were sent to
	captured map[flow]bool       // outer and remote: flows to the router itself
}

func newBox(k kind, wan netip.Addr, rng *rand.Rand) *box {
	return &box{kind: k, wan: wan, rng: rng, out: map[flow]netip.AddrPort{}, back: map[flow]netip.AddrPort{},
		inner: map[uint16]netip.AddrPort{}, spoken: map[netip.Addr]bool{}, captured: map[flow]bool{}}
}

// outbound translates the source of a packet that leaves.
func (b *box) outbound(src, dst netip.AddrPort) (netip.AddrPort, bool) {
	switch b.kind {
	case none:
		return src, true
	case udpBlocked:
		return src, false
	}
	b.spoken[dst.Addr()] = true
	if outer, ok := b.out[flow{src, dst}]; ok {
		return outer, true
	}
	outer := netip.AddrPortFrom(b.wan, src.Port())
	if b.kind == symmetric || b.captured[flow{outer, dst}] {
		outer = netip.AddrPortFrom(b.wan, uint16(1024+b.rng.IntN(64512)))
	} else {
		b.inner[outer.Port()] = src
	}
	b.out[flow{src, dst}] = outer
	b.back[flow{outer, dst}] = src
	return outer, true
}

// inbound translates the destination of a packet that comes. What is for no
// host is for the router itself.
func (b *box) inbound(src, dst netip.AddrPort) (netip.AddrPort, bool) {
	switch b.kind {
	case none:
		return dst, true
	case udpBlocked:
		return dst, false
	}
	if inner, ok := b.back[flow{dst, src}]; ok {
		return inner, true
	}
	inner, ok := b.inner[dst.Port()]
	switch {
	case ok && b.kind == fullCone:
		return inner, true
	case ok && b.kind == addressRestricted && b.spoken[src.Addr()]:
		return inner, true
	case b.kind == portRestrictedOpen:
		b.captured[flow{dst, src}] = true
	}
	return dst, false
}

// world is the core router and everything around it.
type world struct {
	latency time.Duration // one way, from host to host
	drop    func(from *node, b []byte) bool

	mu    sync.Mutex
	rng   *rand.Rand
	nodes []*node
}

// node is a host with one socket. It is the Sender of its mux.
type node struct {
	world *world
	addr  netip.AddrPort
	boxes []*box // the innermost first
	mux   *Mux

	mu   sync.Mutex
	sent []sentPacket
}

type sentPacket struct {
	at  time.Time
	dst netip.AddrPort
	ttl int
	b   []byte
}

func newWorld() *world {
	return &world{rng: rand.New(rand.NewPCG(1, 2)), drop: func(*node, []byte) bool { return false }}
}

// add places a host behind routers of the given kind, at a site of its own.
func (w *world) add(k kind, port uint16, t *trace.Recorder) *node {
	site := byte(len(w.nodes) + 1)
	n := &node{world: w, addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, site, 0, 2}), port)}
	wan := netip.AddrFrom4([4]byte{198, 51, 100, site})
	switch k {
	case none:
		n.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, site}), port)
		n.boxes = []*box{newBox(none, netip.Addr{}, w.rng)}
	case cgnat:
		n.boxes = []*box{
			newBox(portRestricted, netip.AddrFrom4([4]byte{100, 64, site, 2}), w.rng),
			newBox(portRestricted, wan, w.rng)}
	default:
		n.boxes = []*box{newBox(k, wan, w.rng)}
	}
	n.mux = NewMux(n, t)
	w.nodes = append(w.nodes, n)
	return n
}

// sees is the address under which a host is seen by dst; asking makes the
// mapping, as a question to a STUN server does.
func (w *world) sees(n *node, dst netip.AddrPort) netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	src := n.addr
	for _, b := range n.boxes {
		src, _ = b.outbound(src, dst)
	}
	return src
}

var stunServer = netip.MustParseAddrPort("192.0.2.1:3478")

// candidate is what the host announces.
func (n *node) candidate() candidates.Candidate {
	seen := n.world.sees(n, stunServer)
	if seen == n.addr {
		return candidates.Candidate{Type: candidates.Host, Addr: seen}
	}
	return candidates.Candidate{Type: candidates.ServerReflexive, Addr: seen}
}

func (n *node) Network() string {
	if n.addr.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}
func (n *node) LocalAddr() netip.AddrPort { return n.addr }

func (n *node) Send(b []byte, _ int, dst netip.AddrPort) error { return n.SendTTL(b, dst, 64) }

func (n *node) SendTTL(b []byte, dst netip.AddrPort, ttl int) error {
	b = slices.Clone(b)
	n.mu.Lock()
	n.sent = append(n.sent, sentPacket{time.Now(), dst, ttl, b})
	n.mu.Unlock()
	n.world.carry(n, b, dst, ttl)
	return nil
}

func (w *world) carry(from *node, b []byte, dst netip.AddrPort, ttl int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	src, ok := from.addr, true
	for _, box := range from.boxes {
		if ttl--; ttl == 0 {
			return
		}
		if src, ok = box.outbound(src, dst); !ok {
			return
		}
	}
	if ttl--; ttl == 0 || w.drop(from, b) { // the core
		return
	}
	time.AfterFunc(w.latency, func() { w.arrive(b, src, dst, ttl) })
}

func (w *world) arrive(b []byte, src, dst netip.AddrPort, ttl int) {
	if to := w.forward(src, dst, ttl); to != nil {
		to.mux.HandleSTUN(b, src)
	}
}

// forward takes a packet through the routers of the site it goes to.
func (w *world) forward(src, dst netip.AddrPort, ttl int) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		outer := n.boxes[len(n.boxes)-1]
		if dst.Addr() != outer.wan && dst.Addr() != n.addr.Addr() {
			continue
		}
		for _, box := range slices.Backward(n.boxes) {
			var ok bool
			if dst, ok = box.inbound(src, dst); !ok {
				return nil
			}
			if ttl--; ttl == 0 {
				return nil
			}
		}
		if dst == n.addr {
			return n
		}
	}
	return nil
}

// packets returns what the host sent so far.
func (n *node) packets() []sentPacket {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.sent)
}

// side is one end of a simulated attempt.
type side struct {
	node  *node
	cfg   Config
	late  time.Duration // starts later by this
	res   Result
	err   error
	took  time.Duration // from its own start
	trace *recording
}

// match is two sides about to attempt, with signaling between them.
type match struct {
	world *world
	a, b  *side

	signaling    time.Duration // one way
	loseOpened   bool
	loseSelected bool
}

// newMatch sets two hosts up, a controlling, with everything as the product
// does it. Tests change what they are about.
func newMatch(ka, kb kind) *match {
	w := newWorld()
	m := &match{world: w, signaling: 10 * time.Millisecond, a: newSide(w, ka, 5000), b: newSide(w, kb, 6000)}
	m.a.cfg.Controlling = true
	m.a.cfg.Remote, m.b.cfg.Remote = m.b.cfg.Local, m.a.cfg.Local
	m.a.cfg.Candidates = []candidates.Candidate{m.b.node.candidate()}
	m.b.cfg.Candidates = []candidates.Candidate{m.a.node.candidate()}
	return m
}

func newSide(w *world, k kind, port uint16) *side {
	rec := &recording{}
	t := trace.New(string(k), rec)
	n := w.add(k, port, t)
	return &side{node: n, trace: rec, cfg: Config{
		ID: string(k), Muxes: []*Mux{n.mux}, Local: NewCredentials(), Trace: t,
		OpenerTTL: OpenerTTL(k.nat(), k.nats()), Timeout: 5 * time.Second, Trigger: TriggerFirst,
	}}
}

// run runs both sides to their end.
func (m *match) run(ctx context.Context) {
	m.connect(m.a, m.b)
	m.connect(m.b, m.a)
	var wg sync.WaitGroup
	for _, s := range []*side{m.a, m.b} {
		wg.Go(func() {
			time.Sleep(s.late)
			start := time.Now()
			s.res, s.err = Run(ctx, s.cfg)
			s.took = time.Since(start)
		})
	}
	wg.Wait()
}

// connect makes from's messages reach to after the signaling delay.
func (m *match) connect(from, to *side) {
	opened, selected := make(chan struct{}), make(chan struct{})
	from.cfg.Opened = m.message(opened, m.loseOpened)
	from.cfg.Selected = m.message(selected, m.loseSelected)
	to.cfg.PeerOpened, to.cfg.PeerSelected = opened, selected
}

func (m *match) message(c chan struct{}, lose bool) func(context.Context) error {
	return func(context.Context) error {
		if !lose {
			time.AfterFunc(m.signaling, func() { close(c) })
		}
		return nil
	}
}

// connected fails the test unless both sides selected the same pair.
func (m *match) connected(t *testing.T) {
	t.Helper()
	for _, s := range []*side{m.a, m.b} {
		if s.err != nil {
			t.Fatalf("%s: %v", s.cfg.ID, s.err)
		}
	}
	if to := m.world.forward(m.world.sees(m.a.node, m.a.res.Remote), m.a.res.Remote, 64); to != m.b.node {
		t.Errorf("a's packets to %s do not reach b", m.a.res.Remote)
	}
	if to := m.world.forward(m.world.sees(m.b.node, m.b.res.Remote), m.b.res.Remote, 64); to != m.a.node {
		t.Errorf("b's packets to %s do not reach a", m.b.res.Remote)
	}
}

// recording keeps the events of one side.
type recording struct {
	mu     sync.Mutex
	events []trace.Event
}

func (r *recording) Record(rec trace.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, rec.Event)
}

// eventsOf returns the events of one type, in order.
func eventsOf[E trace.Event](r *recording) []E {
	r.mu.Lock()
	defer r.mu.Unlock()
	var es []E
	for _, e := range r.events {
		if e, ok := e.(E); ok {
			es = append(es, e)
		}
	}
	return es
}

// isClass reports whether b is a STUN message of a class.
func isClass(b []byte, c stunmsg.Class) bool {
	h, err := stunmsg.Parse(b)
	return err == nil && h.Class == c
}
