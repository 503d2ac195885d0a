package signaling

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Credentials let an agent use the TURN and STUN servers of a deployment.
type Credentials struct {
	Username, Password string        // TURN REST form; empty: none needed
	TTL                time.Duration // from when they were received
	URIs               []string      // RFC 7065
	STUN               []string      // RFC 7064
}

// ServerConfig is what a server is made of. The zero value is an open server
// without TURN.
type ServerConfig struct {
	// Token is what clients must show. Empty: anybody may come.
	Token string
	// Mint makes TURN credentials for a user, an opaque pseudonym that is the
	// same for one seat as long as the server runs. Nil: none are given out.
	// URIs and STUN are filled from the fields below where Mint leaves them
	// empty. It is called with a lock held and must not block.
	Mint func(user string, now time.Time) Credentials
	// STUN and TURN are the URIs given to clients.
	STUN, TURN []string
	// Hosts are the only names under which the server answers, besides IP
	// addresses and localhost. Nil: under any. The package comment says why
	// none need to be given.
	Hosts []string
	// Origins are the web origins allowed to connect, such as
	// "https://example.org". Agents send none, and need none.
	Origins []string
	// TrustedProxies are believed when they say for whom they speak, in
	// X-Forwarded-For or by the PROXY protocol. Nil: nobody is.
	TrustedProxies []netip.Prefix

	Limits   Limits
	Software string           // told to clients, at most 64 bytes
	Log      *slog.Logger     // nil: nothing is logged
	Now      func() time.Time // nil: time.Now
}

// Stats counts what a server does and did since it began.
type Stats struct {
	Connections  int   `json:"connections"` // that have said hello
	Pending      int   `json:"pending"`     // that have not yet
	Displaced    int64 `json:"displaced"`   // pending ones that made way for others
	Mailboxes    int   `json:"mailboxes"`   // nameplates included
	Nameplates   int   `json:"nameplates"`  // in use or resting
	Accepted     int64 `json:"accepted"`    // connections that said hello rightly
	Refused      int64 `json:"refused"`     // turned away before or at hello, for lack of room above all
	Unauthorized int64 `json:"unauthorized"`
	Breaches     int64 `json:"breaches"` // connections closed for breaking the protocol
	RateLimited  int64 `json:"rate_limited"`
	Overflows    int64 `json:"overflows"` // connections closed for reading too slowly
	Parted       int64 `json:"parted"`    // guests put out of a mailbox in which too much waited
	Relayed      int64 `json:"messages"`  // bodies passed on
	RelayedBytes int64 `json:"message_bytes"`
	FailedJoins  int64 `json:"failed_joins"` // of nameplates
	Alarm        bool  `json:"alarm"`        // too many of them in this minute
}

// A Server is the public side of the rendezvous, an http.Handler.
type Server struct {
	// constant
	cfg      ServerConfig
	log      *slog.Logger
	token    [sha256.Size]byte
	userKey  []byte // makes pseudonyms of seat tokens
	upgrader websocket.Upgrader
	handlers sync.WaitGroup // one per WebSocket

	lacksHeader, lacksTrust sync.Once // advice about proxies that was given

	mu       sync.Mutex
	state    *state
	conns    map[connID]*serverConn
	pending  *pending
	admitted map[netip.Addr]int // connections per source that have said hello
	total    int                // their sum
	lastID   connID
	joins    *perAddress
	claims   *perAddress
	failures alarm
	stats    Stats
	draining bool
	drainNow chan struct{} // closed by the second call of Drain
	hurried  bool
}

// NewServer checks cfg and returns a server that is ready to serve.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg:      cfg,
		log:      cfg.Log,
		token:    sha256.Sum256([]byte(cfg.Token)),
		userKey:  make([]byte, 32),
		conns:    make(map[connID]*serverConn),
		pending:  newPending(cfg.Limits.Pending),
		admitted: make(map[netip.Addr]int),
		joins:    newPerAddress(cfg.Limits.Joins),
		claims:   newPerAddress(cfg.Limits.Claims),
		failures: alarm{threshold: cfg.Limits.FailedJoins},
		drainNow: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	rand.Read(s.userKey) // never fails, see crypto/rand
	s.state = newState(cfg.Limits, randomBelow)
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: cfg.Limits.WriteTimeout,
		ReadBufferSize:   256, // per connection; what is longer is read past it
		WriteBufferSize:  2048,
		WriteBufferPool:  &sync.Pool{},
		CheckOrigin:      func(*http.Request) bool { return true }, // done in admit
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			http.Error(w, reason.Error(), status)
		},
	}
	return s, nil
}

func (cfg *ServerConfig) check() error {
	var errs []error
	if len(cfg.Token) > maxToken {
		errs = append(errs, fmt.Errorf("signaling: access token has %d bytes, at most %d are possible", len(cfg.Token), maxToken))
	}
	if len(cfg.Software) > maxSoftware {
		errs = append(errs, fmt.Errorf("signaling: software name %q is longer than %d bytes", cfg.Software, maxSoftware))
	}
	if len(cfg.TURN) > 0 && cfg.Mint == nil {
		errs = append(errs, errors.New("signaling: TURN servers without a way to make credentials"))
	}
	for _, list := range []struct {
		uris    []string
		schemes []string
	}{{cfg.STUN, []string{"stun:", "stuns:"}}, {cfg.TURN, []string{"turn:", "turns:"}}} {
		if !validURIs(list.uris) {
			errs = append(errs, fmt.Errorf("signaling: more than %d URIs, or one over %d bytes", maxURIs, maxURI))
		}
		for _, uri := range list.uris {
			scheme, rest, _ := strings.Cut(uri, ":")
			if !slices.Contains(list.schemes, scheme+":") || rest == "" || strings.HasPrefix(rest, "//") {
				errs = append(errs, fmt.Errorf("signaling: URI %q: want %shost:port", uri, list.schemes[0]))
			}
		}
	}
	return errors.Join(errs...)
}

func randomBelow(n int) int {
	v, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil { // documented never to happen
		panic("signaling: random number: " + err.Error())
	}
	return int(v.Int64())
}

// HTTPServer returns an http.Server around s with the timeouts it needs. The
// caller listens, wraps that with Listener, serves and shuts down:
// http.Server.Shutdown first, which stops accepting, then Drain for the
// WebSockets, which Shutdown does not know.
func (s *Server) HTTPServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // the WebSocket handshake is one of HTTP/1.1
	return &http.Server{
		Handler:           s,
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers /v1 and /healthz. A WebSocket goes on when it returns; Drain
// ends it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch r.URL.Path {
	case "/healthz":
		s.serveHealth(w)
	case Path:
		s.serveSocket(w, r)
	default:
		http.Error(w, "nothing here: this is a signal server, agents connect to "+Path, http.StatusNotFound)
	}
}

func (s *Server) serveHealth(w http.ResponseWriter) {
	s.mu.Lock()
	draining, full := s.draining, s.total >= s.cfg.Limits.Connections
	s.mu.Unlock()
	switch {
	case draining:
		http.Error(w, "draining", http.StatusServiceUnavailable)
	case full:
		http.Error(w, "full", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	}
}

// serveSocket admits one agent and serves it until the connection ends.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) {
		s.count(func(st *Stats) { st.Refused++ })
		http.Error(w, text, status)
	}
	switch {
	case !hostAllowed(r.Host, s.cfg.Hosts):
		refuse(http.StatusForbidden, wrongHost(r.Host))
		return
	case !websocket.IsWebSocketUpgrade(r):
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		refuse(http.StatusUpgradeRequired, "this is the WebSocket of a signal server, for agents, not for browsers")
		return
	case !originAllowed(r.Header.Values("Origin"), s.cfg.Origins):
		refuse(http.StatusForbidden, "web pages of this origin may not connect to this signal server")
		return
	}
	source, conn := s.sourceOfRequest(r)
	if why := s.mayUpgrade(source); why != "" {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryFull/time.Second)))
		refuse(http.StatusServiceUnavailable, why)
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil { // Upgrade has answered
		s.count(func(st *Stats) { st.Refused++ })
		s.handlers.Done()
		return
	}
	// Not here: as long as a handler runs, its server keeps the request, two
	// buffers and a stack that has parsed it.
	go func() {
		defer s.handlers.Done()
		s.serveConn(ws, conn, source)
	}()
}

// retryFull is how long somebody should wait for whom there is no room.
const retryFull = 5 * time.Second

// mayUpgrade says why a connection may not become a WebSocket. A place it gets
// with its hello; that there is none now is told sooner.
func (s *Server) mayUpgrade(source netip.Addr) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return "this signal server is stopping, try again soon"
	}
	if why := s.fullFor(source); why != "" {
		return why
	}
	s.handlers.Add(1) // under mu: not after Drain has begun to wait
	return ""
}

// fullFor says why there is no room for one more connection that has said
// hello. It is called with mu held.
func (s *Server) fullFor(source netip.Addr) (why string) {
	switch {
	case s.total >= s.cfg.Limits.Connections:
		return "this signal server is full, try again later"
	case s.admitted[source] >= s.cfg.Limits.ConnectionsPerAddress:
		return "too many connections from this address"
	}
	return ""
}

// admit makes a connection that has said a good hello one of those that count.
func (s *Server) admit(c *serverConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.fullFor(c.source); why != "" {
		return &breach{CodeFull, why, websocket.CloseTryAgainLater}
	}
	s.total++
	s.admitted[c.source]++
	s.stats.Accepted++
	c.admitted = true
	if c.conn != nil {
		s.pending.remove(c.conn)
	}
	return nil
}

// release is the end of a connection that was admitted.
func (s *Server) release(source netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.admitted[source]--; s.admitted[source] == 0 {
		delete(s.admitted, source)
	}
}

// hostAllowed decides on the Host header.
func hostAllowed(hostport string, names []string) bool {
	host := hostOf(hostport)
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	return len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, host) })
}

// hostOf is the name in a Host header, in lower case and without the port.
func hostOf(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}

// wrongHost says how the server would answer under the name. It repeats only
// what looks like one.
func wrongHost(hostport string) string {
	name := hostOf(hostport)
	if len(name) > 100 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || name == "" {
		name = "NAME"
	}
	return "this server was told to answer under other names only; start it with --host " + name + " too"
}

// originAllowed decides on the Origin header, which only browsers send.
func originAllowed(sent, allowed []string) bool {
	for _, origin := range sent {
		if !slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, origin) }) {
			return false
		}
	}
	return true
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Connections, st.Pending = s.total, s.pending.total
	st.Mailboxes = len(s.state.boxes)
	st.Nameplates = len(s.state.nameplates)
	st.Parted = s.state.parted
	st.Alarm = s.failures.ringing(s.cfg.Now())
	return st
}

func (s *Server) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// Drain refuses new connections, closes the present ones with 1012 one after
// the other over Limits.DrainSpread, so that they do not all come back at
// once, and returns when all are gone. When ctx ends, or Drain is called a
// second time, the rest is closed at once.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if s.draining && !s.hurried {
		s.hurried = true
		close(s.drainNow)
	}
	s.draining = true
	conns := make([]*serverConn, 0, len(s.conns))
	for _, c := range s.conns { // in random order
		conns = append(conns, c)
	}
	s.mu.Unlock()

	var cause error
	pause := s.cfg.Limits.DrainSpread / time.Duration(max(1, len(conns)))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, c := range conns {
		select {
		case <-timer.C:
			timer.Reset(pause)
		case <-s.drainNow:
		case <-ctx.Done():
			cause = context.Cause(ctx)
		}
		c.shutdown(websocket.CloseServiceRestart, "the server restarts, come back")
	}
	s.handlers.Wait()
	return cause
}
