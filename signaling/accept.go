package signaling

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// proxyHeaderTimeout is how long a trusted proxy may take to send its PROXY
// header.
const proxyHeaderTimeout = 5 * time.Second

// An acceptedConn is a connection from the moment it was accepted.
type acceptedConn struct {
	net.Conn // for a trusted proxy, one that takes the PROXY header off
	s        *Server
	peer     netip.Addr // who opened the connection

	// guarded by s.mu
	pending *list.Element // among the pending ones; nil: not one of them
	source  netip.Addr    // for which it is pending
	arrival uint64
}

// Listener returns ln, with connections that count as pending from the moment
// they are accepted, and with the PROXY protocol (versions 1 and 2) where a
// trusted proxy speaks it. TLS goes on top of it.
func (s *Server) Listener(ln net.Listener) net.Listener { return &listener{ln, s} }

type listener struct {
	net.Listener
	s *Server
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &acceptedConn{Conn: conn, s: l.s, peer: addrOf(conn.RemoteAddr())}
	if l.s.trusts(c.peer) {
		c.Conn = proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.USE), proxyproto.SetReadHeaderTimeout(proxyHeaderTimeout))
	}
	l.s.receive(c)
	return c, nil
}

// receive makes c a pending connection, in place of another one when there are
// too many.
func (s *Server) receive(c *acceptedConn) {
	s.mu.Lock()
	displaced := s.pending.add(c, sourceOf(c.peer))
	if displaced != nil {
		s.stats.Displaced++
	}
	s.mu.Unlock()
	if displaced != nil {
		displaced.Conn.Close()
	}
}

// Close closes the connection, which is then pending no more.
func (c *acceptedConn) Close() error {
	c.s.mu.Lock()
	c.s.pending.remove(c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// connKey is the key of the *acceptedConn in the context of a request.
type connKey struct{}

// withConn is the ConnContext of an http.Server: it puts a connection of
// Listener into the context of its requests.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if c, ok := conn.(*acceptedConn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// sourceOfRequest is whom a request counts for, and its connection, which
// counts for the same from now on: nil for one that did not come from Listener.
func (s *Server) sourceOfRequest(r *http.Request) (netip.Addr, *acceptedConn) {
	c, _ := r.Context().Value(connKey{}).(*acceptedConn)
	var peer netip.Addr // stays so for a Unix socket: all of it is one source
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		peer = ap.Addr()
	} else if c != nil { // a proxy that speaks for somebody without an address
		peer = c.peer
	}
	forwarded := r.Header.Values("X-Forwarded-For")
	if c == nil || c.peer == peer { // without a PROXY header
		s.adviseProxy(peer, forwarded)
	}
	source := sourceOf(clientAddr(peer, forwarded, s.trusts))
	if c != nil {
		s.mu.Lock()
		s.pending.move(c, source)
		s.mu.Unlock()
	}
	return source, c
}
