package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/p2pagent/p2pagent/internal/trouble"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// A Server is a TURN server and a STUN server with NAT behaviour discovery.
type Server struct {
	// Constant after NewServer.
	cfg       ServerConfig
	log       *slog.Logger
	now       func() time.Time
	policy    *Policy
	auth      authenticator
	unproved  *budget // of error answers to sources that may be forged
	proved    *budget // and to others, whose nonce is ours
	responder *Responder
	requests  *userRate
	ledger    *ledger
	seats     *seats
	sessions  sessions
	engine    *engine
	loops     *udpsock.Loops                               // read all UDP sockets
	read      func(*udpsock.Socket, udpsock.Handler) error // of a relayed address: loops.Read
	udp       []*udpGuard
	streams   []*streamGuard

	count    counters
	draining atomic.Bool
	close    sync.Once

	eventMu sync.Mutex
	events  []Event
}

// NewServer opens all listeners. [Server.Serve] serves them; a Server that is
// not served is to be closed.
func NewServer(cfg ServerConfig) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("relay config: %w", err)
	}
	own, err := interfaceAddrs()
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	s := &Server{
		cfg: cfg, log: cfg.Log, now: cfg.Now,
		policy:   &Policy{Allow: cfg.Allow, Own: append(own, cfg.PublicIP, cfg.LocalIP, cfg.AltIP), Relay: cfg.PublicIP},
		auth:     authenticator{realm: cfg.Realm, secrets: cfg.Secrets, nonces: nonces{key, cfg.NonceLifetime}},
		unproved: newBudget(cfg.Limits.ErrorsPerSecond, cfg.Limits.ErrorsPerSecondTotal),
		proved:   newBudget(cfg.Limits.ErrorsPerSecond, math.Inf(1)), // nobody else's: a live allocation needs its 438
		requests: newUserRate(cfg.Limits.RequestsPerUser),
		ledger:   newLedger(cfg.Limits),
		seats:    newSeats(cfg.Limits.StreamsPerIP, cfg.Limits.Streams),
	}
	s.sessions = sessions{
		rate: cfg.Limits.SessionRate, byUser: make(map[string]*session),
		drop: func(packets int) { s.count.drop(dropBudget, packets) },
	}
	s.responder = &Responder{
		server: s, budget: newBudget(cfg.Limits.BindingPerSecond, cfg.Limits.BindingPerSecondTotal),
	}
	if s.engine, err = newEngine(); err != nil {
		return nil, err
	}
	s.loops = udpsock.NewLoops(runtime.GOMAXPROCS(0), cfg.Portable)
	s.read = s.loops.Read
	if err := s.loops.Refused(); err != nil {
		s.log.Warn("reading one datagram at a time", "err", err)
	}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// listen opens one socket per address, so that an answer leaves from the
// address that was asked, which a socket on 0.0.0.0 does not promise.
func (s *Server) listen() error {
	const tries = 20 // to find ports that are free everywhere, when any will do
	var err error
	for range tries {
		if err = s.listenUDP(); err == nil {
			err = s.listenStreams()
		}
		if err == nil || s.cfg.Port != 0 {
			return err
		}
		s.closeListeners()
		s.udp, s.streams = nil, nil
	}
	return err
}

func (s *Server) listenUDP() error {
	ports := [2]uint16{s.cfg.Port, 0}
	if s.cfg.Port != 0 {
		ports[1] = s.cfg.Port + 1
	}
	public := [2]netip.Addr{s.cfg.PublicIP, s.cfg.AltIP}
	for ip, local := range []netip.Addr{s.cfg.LocalIP, s.cfg.AltLocalIP} {
		if !local.IsValid() {
			continue
		}
		for port := range ports {
			at := stunAddr{ip, port}
			g, err := s.openUDP(netip.AddrPortFrom(local, ports[port]), at)
			if err != nil {
				return err
			}
			ports[port] = g.sock.LocalAddr().Port() // the same on the other address
			s.responder.addr[ip][port] = netip.AddrPortFrom(public[ip], ports[port])
			s.responder.sink[ip][port] = g
		}
	}
	return nil
}

// openUDP opens one address. That of TURN has a socket for each core; they are
// one listener, so that a client's allocation is found whichever its datagrams
// come to.
func (s *Server) openUDP(addr netip.AddrPort, at stunAddr) (*udpGuard, error) {
	cfg := udpsock.Config{Network: "udp4", Addr: addr, Raw: true, Flow: channelOf, Portable: s.cfg.Portable}
	turn := at == stunAddr{}
	var socks []*udpsock.Socket
	var err error
	if turn {
		socks, err = s.loops.ListenEach(cfg)
	} else {
		socks = make([]*udpsock.Socket, 1)
		socks[0], err = s.loops.Listen(cfg)
	}
	if err != nil {
		return nil, listenError("udp", addr, err)
	}
	listener := s.nextListener()
	for _, sock := range socks {
		s.udp = append(s.udp, &udpGuard{server: s, listener: listener, sock: sock, at: at, turn: turn})
	}
	return s.udp[len(s.udp)-1], nil
}

func (s *Server) listenStreams() error {
	if !s.cfg.NoTCP {
		if err := s.openStream("tcp", s.UDPAddr().Port()); err != nil {
			return err
		}
	}
	if s.cfg.TLS != nil {
		return s.openStream("tls", s.cfg.TLSPort)
	}
	return nil
}

func (s *Server) openStream(transport string, port uint16) error {
	addr := netip.AddrPortFrom(s.cfg.LocalIP, port)
	ln, err := net.Listen("tcp4", addr.String())
	if err != nil {
		return listenError(transport, addr, err)
	}
	g := &streamGuard{server: s, listener: s.nextListener(), transport: transport, ln: s.patient(ln, transport)}
	if transport == "tls" {
		g.tls = s.cfg.TLS
	}
	s.streams = append(s.streams, g)
	return nil
}

// patient makes a listener that waits out what passes, and says so.
func (s *Server) patient(ln net.Listener, transport string) net.Listener {
	return trouble.Listener(ln, func(why string) {
		if why == "" {
			s.log.Info("accepting again", "listener", transport)
			return
		}
		s.log.Warn("accept failed, trying again", "listener", transport, "err", why)
	})
}

func listenError(transport string, addr netip.AddrPort, err error) error {
	return fmt.Errorf("listen turn %s %v: %w", transport, addr, err)
}

func (s *Server) nextListener() int { return len(s.udp) + len(s.streams) }

// UDPAddr is the address of STUN and TURN over UDP, as clients use it.
func (s *Server) UDPAddr() netip.AddrPort { return s.responder.addr[0][0] }

// STUNAddrs are all addresses where Binding requests are answered.
func (s *Server) STUNAddrs() (addrs []netip.AddrPort) {
	for _, row := range s.responder.addr {
		for _, a := range row {
			if a.IsValid() {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// StreamAddr is the address of TURN over "tcp" or "tls", invalid when that is
// not served.
func (s *Server) StreamAddr(transport string) netip.AddrPort {
	for _, g := range s.streams {
		if g.transport == transport {
			port := g.ln.Addr().(*net.TCPAddr).AddrPort().Port()
			return netip.AddrPortFrom(s.cfg.PublicIP, port)
		}
	}
	return netip.AddrPort{}
}

// Serve serves until ctx ends, then ends every allocation and closes every
// socket before it returns. The end of ctx is no error.
func (s *Server) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, g := range s.udp {
		if err := s.loops.Read(g.sock, g); err != nil && !errors.Is(err, net.ErrClosed) {
			s.Close()
			return fmt.Errorf("serve udp %v: %w", g.sock.LocalAddr(), err)
		}
	}
	for _, g := range s.streams {
		group.Go(func() error { return g.serve(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		s.Close()
		return nil
	})
	err := group.Wait()
	<-s.ledger.empty() // pion closes what it has in a goroutine of its own
	return err
}

// Drain refuses new allocations and new connections, and waits until no
// allocation is left or ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	for _, g := range s.streams {
		g.ln.Close()
	}
	select {
	case <-s.ledger.empty():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain relay: %d allocations left: %w", s.ledger.live(), context.Cause(ctx))
	}
}

// Close closes the listeners, so that nothing new comes, then the engine, which
// ends the allocations and their sockets, and then waits for what is being
// read, which may need the engine until then.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.closeListeners()
		s.engine.close()
		s.loops.Close()
		s.sessions.close()
	})
	return nil
}

func (s *Server) closeListeners() {
	for _, g := range s.udp {
		g.sock.Close()
	}
	for _, g := range s.streams {
		g.ln.Close()
	}
}

// release ends the allocation of a stream that is gone.
func (s *Server) release(from source) {
	if c := s.ledger.find(from.fiveTuple); c != nil {
		c.prolong(0, s.now()) // fails when everything is ending, which ends c too
	}
}
