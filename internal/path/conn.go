package path

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// DefaultMaxDatagram is the longest datagram that quic-go sends or takes.
const DefaultMaxDatagram = 1452

// inboundQueue is how many reads may wait for QUIC. Each holds a buffer of
// 64 KiB, so that at most 16 MiB wait: about one largest congestion window.
const inboundQueue = 256

// A Carrier sends and receives datagrams: a UDP socket, or an allocation on a
// relay. Its handler must be called by one goroutine at a time, Send must be
// safe for concurrent use and not wait for the network, and Serve must return
// when ctx ends or Close is called.
type Carrier interface {
	Serve(ctx context.Context, h udpsock.Handler) error
	Send(b []byte, seg int, dst netip.AddrPort) error
	LocalAddr() netip.AddrPort
	Network() string
	Close() error
}

// A Counting carrier tells what the kernel does for it, and what it counted.
type Counting interface {
	Offload() (gso, gro bool)
	Counters() udpsock.Counters
}

// A Transporting carrier tells over what it reaches its relay: "udp", "tcp" or
// "tls". TCP and TLS count for less: one lost packet holds up all behind it.
type Transporting interface {
	Transport() string
}

// A Relaying carrier sends everything to one server.
type Relaying interface {
	Server() netip.AddrPort
}

// A Kind tells what something is reached through.
type Kind string

// The kinds.
const (
	Direct  Kind = "direct"
	Relayed Kind = "relayed"
)

// A Config says how a Conn behaves. Both sides need the same Key and ID.
type Config struct {
	// Key signs the probes, and with it decides who may deliver payload. At
	// least 16 bytes, fresh for each pair of Conns.
	Key []byte

	// ID names the link in the probes, so that carriers can be shared with
	// other users of STUN. Not secret; at most 128 bytes, without '#'.
	ID string

	// Initiator is true on exactly one side.
	Initiator bool

	// RequireDirect never sends or takes payload over a relay.
	RequireDirect bool

	// RelayOnly never sends or takes payload over anything else.
	RelayOnly bool

	// Tunnel returns the name of the tunnel interface of this host by which
	// packets to dst leave now, "" where they leave by none. It is called with
	// the Conn's lock held, for each path when it is new and then every 2 seconds
	// or so. Nil is a host without tunnels.
	Tunnel func(dst netip.Addr) string

	// MaxDatagram is the longest datagram that will be written; 0 is
	// DefaultMaxDatagram.
	MaxDatagram int

	// Trace records what happens to the paths; nil is fine.
	Trace *trace.Recorder

	// OnChange is told of each change, in order, by a goroutine of its own. It
	// must not call Close.
	OnChange func(Change)

	// jitter returns a random duration from 0 to below the one given; nil is
	// the default. Tests have theirs.
	jitter func(time.Duration) time.Duration
}

func randomly(d time.Duration) time.Duration { return mathrand.N(max(d, 1)) }

func (c *Config) validate() error {
	var errs []error
	if len(c.Key) < 16 {
		errs = append(errs, fmt.Errorf("key of %d bytes", len(c.Key)))
	}
	if c.ID == "" || len(c.ID) > 128 {
		errs = append(errs, fmt.Errorf("id of %d bytes", len(c.ID)))
	}
	if c.RequireDirect && c.RelayOnly {
		errs = append(errs, errors.New("require direct and relay only exclude each other"))
	}
	if c.MaxDatagram < 1200 || c.MaxDatagram > DefaultMaxDatagram {
		errs = append(errs, fmt.Errorf("datagrams of %d bytes are not in 1200 to %d", c.MaxDatagram, DefaultMaxDatagram))
	}
	return errors.Join(errs...)
}

// A Conn is the one connection that QUIC sees, whatever carries its packets.
type Conn struct {
	// Constant after New.
	cfg     Config
	start   time.Time
	local   *net.UDPAddr
	remote  *net.UDPAddr
	options optionSocket
	done    chan struct{} // closed by Close
	wg      sync.WaitGroup

	// The data path: no locks but the outbox's and the ring's.
	route    atomic.Pointer[route]
	sentAt   atomic.Int64 // clock time of the last payload that was sent, replays aside
	out      outbox
	sent     chan struct{} // closed when sendAll has returned
	ring     replayRing
	fragment atomic.Uint32 // number of the next datagram to be split
	queue    chan inbound
	in       reader
	lost     losses

	kick    chan struct{} // the engine's schedule has changed
	changes chan Change

	mu       sync.Mutex
	closed   bool
	engine   *engine
	prober   prober
	ledger   *ledger
	fresh    freshness
	carriers map[Carrier]*carrier
	paths    map[int]*path
	lastID   int                             // of carriers
	drops    uint64                          // kernel drops of the carriers that are gone
	left     Status                          // of the last path that was closed while payload went there
	moved    chan struct{}                   // closed and replaced with each new route
	pings    map[uint64]chan<- time.Duration // who waits for the answer to a probe, by its number
}

// New returns a Conn without paths. What is written before there is one is
// kept, as far as it fits the replay ring, and sent over the first.
func New(cfg Config) (*Conn, error) {
	if cfg.MaxDatagram == 0 {
		cfg.MaxDatagram = DefaultMaxDatagram
	}
	if cfg.jitter == nil {
		cfg.jitter = randomly
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	var epoch [8]byte
	if _, err := rand.Read(epoch[:]); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	options, err := openOptions()
	if err != nil {
		return nil, fmt.Errorf("path: socket for options: %w", err)
	}

	c := &Conn{
		cfg:      cfg,
		start:    time.Now(),
		local:    virtualAddr(cfg.Initiator),
		remote:   virtualAddr(!cfg.Initiator),
		options:  options,
		done:     make(chan struct{}),
		sent:     make(chan struct{}),
		queue:    make(chan inbound, inboundQueue),
		kick:     make(chan struct{}, 1),
		changes:  make(chan Change, 256),
		engine:   newEngine(policy{cfg.RequireDirect, cfg.RelayOnly}, cfg.MaxDatagram, cfg.jitter),
		prober:   newProber(cfg.Key, cfg.ID, cfg.Initiator, binary.BigEndian.Uint64(epoch[:])),
		ledger:   newLedger(),
		carriers: make(map[Carrier]*carrier),
		paths:    make(map[int]*path),
		moved:    make(chan struct{}),
		pings:    make(map[uint64]chan<- time.Duration),
	}
	c.engine.tunnelOf = c.tunnelOf
	c.in.init(c)
	c.out.init()
	c.wg.Go(c.keepTime)
	c.wg.Go(c.report)
	c.wg.Go(c.sendAll)
	return c, nil
}

// now is the clock of everything below: the time since New.
func (c *Conn) now() time.Duration { return time.Since(c.start) }

// AddCarrier starts to read a carrier, which is the Conn's from here on. STUN
// that is not the Conn's own goes to stun, if that is not nil; b is valid only
// during the call, which must not call RemoveCarrier or Close.
func (c *Conn) AddCarrier(cr Carrier, kind Kind, stun func(b []byte, src netip.AddrPort)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("add carrier %v: %w", cr.LocalAddr(), net.ErrClosed)
	}
	if c.carriers[cr] != nil {
		return fmt.Errorf("add carrier %v: it is there already", cr.LocalAddr())
	}
	c.lastID++
	k := &carrier{Carrier: cr, id: c.lastID, kind: kind, conn: c, stun: stun, served: make(chan struct{})}
	if t, ok := cr.(Transporting); ok && kind == Relayed {
		k.stream = t.Transport() != "udp"
	}
	k.sources.Store(&map[netip.AddrPort]*path{})
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	c.carriers[cr] = k
	c.engine.addCarrier(k.id, reach{kind == Relayed, k.stream})
	c.wg.Go(func() {
		defer close(k.served)
		c.carrierEnded(ctx, k, cr.Serve(ctx, k))
	})
	return nil
}

// carrierEnded removes a carrier that ended by itself.
func (c *Conn) carrierEnded(ctx context.Context, k *carrier, err error) {
	if ctx.Err() != nil {
		return
	}
	c.detach(k.Carrier, fmt.Sprintf("carrier: %v", err))
	k.cancel()
	k.Close()
	c.cfg.Trace.Emit(trace.Failure{Where: "carrier " + k.Network() + " " + k.LocalAddr().String(), Err: fmt.Sprint(err)})
	c.tell(Change{Event: CarrierFailed, Carrier: k.Carrier, Err: err, Why: fmt.Sprint(err)})
}

// RemoveCarrier closes a carrier and its paths, and waits until it is no
// longer read.
func (c *Conn) RemoveCarrier(cr Carrier) {
	k := c.detach(cr, "carrier removed")
	if k == nil {
		return
	}
	k.cancel()
	k.Close()
	<-k.served
}

// detach forgets a carrier, or returns nil if it is forgotten already.
func (c *Conn) detach(cr Carrier, why string) *carrier {
	var k *carrier
	c.update(func(now time.Duration) {
		if k = c.carriers[cr]; k == nil {
			return
		}
		delete(c.carriers, cr)
		c.drops += k.kernelDrops()
		c.engine.removeCarrier(now, k.id, why)
	})
	return k
}

// Try starts to probe a possible path. Kind is Relayed when remote is an
// address on a relay; a carrier on a relay need not be mentioned. The path is
// given up when nothing has answered for 30 seconds.
func (c *Conn) Try(cr Carrier, remote netip.AddrPort, kind Kind) error {
	var err error
	c.update(func(now time.Duration) {
		k := c.carriers[cr]
		switch {
		case c.closed:
			err = net.ErrClosed
		case k == nil:
			err = errNoCarrier
		default:
			onRelay := kind == Relayed && k.kind == Direct
			err = c.engine.try(now, key{k.id, canonical(remote)}, onRelay)
		}
	})
	return err
}

// Expect announces the peer's addresses on relays, in place of those of the last
// call, so that its probes from there are known as relayed. The peer says so as
// well; this is for paths whose far end it does not know to be one. Paths to
// addresses of earlier calls are closed when they do not work any more.
func (c *Conn) Expect(relays ...netip.AddrPort) {
	known := make([]netip.AddrPort, len(relays))
	for i, a := range relays {
		known[i] = canonical(a)
	}
	c.update(func(now time.Duration) { c.engine.expect(now, known) })
}

// Hold keeps this side's payload on paths of one kind from now on, whatever is
// better, for as long as one of that kind works; "" ends it. It is for
// measuring a path that would not be chosen. The error is ErrNotPermitted, or
// net.ErrClosed.
func (c *Conn) Hold(kind Kind) error {
	if kind == Direct && c.cfg.RelayOnly || kind == Relayed && c.cfg.RequireDirect {
		return fmt.Errorf("hold payload on a %s path: %w", kind, ErrNotPermitted)
	}
	err := fmt.Errorf("hold payload on a %s path: %w", kind, net.ErrClosed)
	c.update(func(now time.Duration) {
		if !c.closed {
			err = nil
			c.engine.hold(now, kind)
		}
	})
	return err
}

// Held is the kind of path that payload is held to; "" is none.
func (c *Conn) Held() Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.engine.holdTo
}

// Nudge probes all paths now: the network has changed, or the machine woke up.
func (c *Conn) Nudge() {
	c.update(func(now time.Duration) { c.engine.nudge(now) })
}

// WaitUsable waits until payload has a path that works.
func (c *Conn) WaitUsable(ctx context.Context) error {
	for {
		c.mu.Lock()
		p := c.engine.byID(c.engine.cur.primary)
		usable, moved := p != nil && p.state == Alive, c.moved
		c.mu.Unlock()
		if usable {
			return nil
		}
		select {
		case <-moved:
		case <-c.done:
			return fmt.Errorf("wait for a path: %w", net.ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("wait for a path: %w", context.Cause(ctx))
		}
	}
}

// keepTime runs the engine's schedule.
func (c *Conn) keepTime() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var wake time.Duration
		c.step(func(now time.Duration) {
			c.observe()
			c.engine.tick(now)
			wake = c.engine.wake() - now
		})
		timer.Reset(max(wake, time.Millisecond))
		select {
		case <-c.done:
			return
		case <-c.kick:
		case <-timer.C:
		}
	}
}

// tunnelOf looks up by which tunnel interface the packets of a path leave. It is
// called with mu held.
func (c *Conn) tunnelOf(k key) string {
	cr := c.carrierByID(k.carrier)
	if cr == nil || c.cfg.Tunnel == nil {
		return ""
	}
	if r, ok := cr.Carrier.(Relaying); ok {
		return c.cfg.Tunnel(r.Server().Addr())
	}
	return c.cfg.Tunnel(k.remote.Addr())
}

// observe tells the engine what the data path saw.
func (c *Conn) observe() {
	for id, p := range c.paths {
		sent := p.out.Payload.Load() + p.out.Fragments.Load()
		c.engine.carried(id, time.Duration(p.dataAt.Load()), sent != p.seenOut)
		p.seenOut = sent
	}
}

// report calls OnChange.
func (c *Conn) report() {
	for {
		select {
		case ch := <-c.changes:
			if c.cfg.OnChange != nil {
				c.cfg.OnChange(ch)
			}
		case <-c.done:
			c.reportRest()
			return
		}
	}
}

func (c *Conn) reportRest() {
	for {
		select {
		case ch := <-c.changes:
			if c.cfg.OnChange != nil {
				c.cfg.OnChange(ch)
			}
		default:
			return
		}
	}
}

// tell queues a change for OnChange.
func (c *Conn) tell(ch Change) {
	select {
	case c.changes <- ch:
	default:
		c.lost.changes.Add(1)
	}
}

// Close ends everything and waits for it. The order: no more writes, and those
// that wait (QUIC's farewell) are sent; no new carriers; then the readers of the
// carriers and of QUIC are told, then the goroutines are waited for, and only
// then what they used is let go.
func (c *Conn) Close() error {
	c.out.end()
	<-c.sent
	var carriers map[Carrier]*carrier
	c.update(func(now time.Duration) {
		if c.closed {
			return
		}
		c.closed = true
		carriers = maps.Clone(c.carriers)
		for _, k := range carriers {
			c.engine.removeCarrier(now, k.id, "closed")
		}
	})
	if carriers == nil {
		c.wg.Wait()
		return nil
	}

	close(c.done)
	var errs []error
	for _, k := range carriers {
		k.cancel()
		errs = append(errs, k.Close())
	}
	c.wg.Wait()
	c.in.drain()
	errs = append(errs, c.options.Close())
	return errors.Join(errs...)
}

func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
