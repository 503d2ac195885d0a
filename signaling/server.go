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
	// Hosts are the names under which browsers and proxies may address the
	// server, besides IP literals and localhost; "*" is any. This is what
	// stops DNS rebinding.
	Hosts []string
	// Origins are the web origins allowed to connect, such as
	// "https://example.org". Agents send none, and need none.
	Origins []string

	Limits   Limits
	Software string           // told to clients, at most 64 bytes
	Log      *slog.Logger     // nil: nothing is logged
	Now      func() time.Time // nil: time.Now
}

// Stats counts what a server does and did since it began.
type Stats struct {
	Connections  int   `json:"connections"`
	Mailboxes    int   `json:"mailboxes"`  // nameplates included
	Nameplates   int   `json:"nameplates"` // in use or resting
	Accepted     int64 `json:"accepted"`   // connections that said hello rightly
	Refused      int64 `json:"refused"`    // HTTP requests turned away
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
	handlers sync.WaitGroup // one per admitted connection

	mu       sync.Mutex
	state    *state
	conns    map[connID]*serverConn
	admitted map[netip.Addr]int // connections per source, handshakes included
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
		ReadBufferSize:   2048,
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
// caller listens, serves and shuts down: http.Server.Shutdown first, which
// stops accepting, then Drain for the WebSockets, which Shutdown does not know.
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
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers /v1 and /healthz. It returns when the connection ends.
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
		refuse(http.StatusForbidden, "this server does not serve the host name in the request; use its IP address, or name it where the server is started")
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
	source := sourceOf(remoteAddr(r))
	if why := s.admit(source); why != "" {
		w.Header().Set("Retry-After", "5")
		refuse(http.StatusServiceUnavailable, why)
		return
	}
	defer s.handlers.Done()
	defer s.release(source)
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil { // Upgrade has answered
		s.count(func(st *Stats) { st.Refused++ })
		return
	}
	s.serveConn(ws, source)
}

// admit reserves a place for one more connection, or says why there is none.
func (s *Server) admit(source netip.Addr) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return "this signal server is stopping, try again soon"
	case s.total >= s.cfg.Limits.Connections:
		return "this signal server is full, try again later"
	case s.admitted[source] >= s.cfg.Limits.ConnectionsPerAddress:
		return "too many connections from this address"
	}
	s.total++
	s.admitted[source]++
	s.handlers.Add(1) // under mu: not after Drain has begun to wait
	return ""
}

func (s *Server) release(source netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.admitted[source]--; s.admitted[source] == 0 {
		delete(s.admitted, source)
	}
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil { // a Unix socket, say: all of it is one source
		return netip.Addr{}
	}
	return ap.Addr()
}

// hostAllowed decides on the Host header: a name that somebody points at this
// server without being told to is the mark of DNS rebinding.
func hostAllowed(hostport string, names []string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	return slices.ContainsFunc(names, func(name string) bool {
		return name == "*" || strings.EqualFold(name, host)
	})
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
	st.Connections = len(s.conns)
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
