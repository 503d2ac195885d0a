package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/signaling"
)

// servers are the STUN and TURN servers that a link uses, and how.
type servers struct {
	stunURIs, turnURIs []candidates.URI

	stun       []netip.AddrPort // at most maxServers of each family
	turn       []turnServer     // of each transport; the order is that of trying them
	unresolved []loss           // TURN servers whose names led nowhere

	user    string
	pass    string
	minted  bool      // the credentials are signaling's, which renews them
	expires time.Time // of the credentials, by our clock; zero: not known
}

// turnServer is one address of a TURN server, over one transport.
type turnServer struct {
	uri  candidates.URI
	addr netip.AddrPort // not valid: unresolved
}

// none reports that no servers are known, not even by name.
func (s servers) none() bool { return len(s.stunURIs) == 0 && len(s.turnURIs) == 0 }

// maxNames bounds what is remembered of names.
const maxNames = 64

// maxServers bounds the addresses that are asked at once, whatever DNS says.
const maxServers = 8

// serversFor says which servers a link uses: those of the command line, or those
// that the signaling server gave. Their names are looked up.
func (e *environment) serversFor(ctx context.Context, c *signaling.Credentials) servers {
	s := servers{stunURIs: e.cfg.STUN, turnURIs: e.cfg.TURN, user: e.cfg.TURNUser, pass: e.cfg.TURNPass}
	if s.stunURIs == nil {
		texts := e.client.STUN()
		if c != nil && len(c.STUN) > 0 {
			texts = c.STUN
		}
		s.stunURIs = e.parse(texts)
	}
	if s.turnURIs == nil && c != nil {
		s.turnURIs = e.parse(c.URIs)
		s.user, s.pass, s.minted = c.Username, c.Password, true
		if c.TTL > 0 {
			s.expires = time.Now().Add(c.TTL * 9 / 10)
		}
	}
	return e.resolve(ctx, s)
}

// resolve looks the names of servers up, and remembers what they led to.
func (e *environment) resolve(ctx context.Context, s servers) servers {
	e.mu.Lock()
	known := maps.Clone(e.names)
	e.mu.Unlock()
	found := lookUp(ctx, slices.Concat(s.stunURIs, s.turnURIs), candidates.URI.Resolve, known)
	e.mu.Lock()
	if len(e.names) > maxNames {
		e.names = nil // of servers that are no more
	}
	if e.names == nil {
		e.names = make(map[candidates.URI]addresses)
	}
	for u, a := range found {
		if a.any() {
			e.names[u] = a
		}
	}
	e.mu.Unlock()
	return s.at(found)
}

func (e *environment) parse(texts []string) []candidates.URI {
	var out []candidates.URI
	for _, t := range texts {
		u, err := candidates.ParseURI(t)
		if err != nil {
			e.cfg.Trace.Emit(trace.Failure{Where: "server from signaling", Err: err.Error()})
			continue
		}
		out = append(out, u)
	}
	return out
}

// A lookup finds the addresses of a server in one family, "ip4" or "ip6".
type lookup func(u candidates.URI, ctx context.Context, network string) ([]netip.AddrPort, error)

// at takes the addresses of the names.
func (s servers) at(found map[candidates.URI]addresses) servers {
	var v4, v6 [][]netip.AddrPort
	for _, u := range s.stunURIs {
		v4, v6 = append(v4, found[u].v4), append(v6, found[u].v6)
	}
	s.stun = append(candidates.TakeTurns(v4, maxServers), candidates.TakeTurns(v6, maxServers)...)

	s.turn, s.unresolved = nil, nil
	byTransport := make(map[string][][]turnServer)
	for _, u := range s.turnURIs {
		// IPv4 first: what these servers relay to is IPv4, so they have it.
		addrs := candidates.TakeTurns([][]netip.AddrPort{found[u].v4, found[u].v6}, maxServers)
		var list []turnServer
		for _, a := range addrs {
			list = append(list, turnServer{u, a})
		}
		if len(list) == 0 {
			err := found[u].err
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				err = errNoDNS
			}
			s.unresolved = append(s.unresolved, loss{turnServer{uri: u}, err})
		}
		byTransport[u.Transport] = append(byTransport[u.Transport], list)
	}
	for _, transport := range transports {
		s.turn = append(s.turn, candidates.TakeTurns(byTransport[transport], maxServers)...)
	}
	return s
}

// errNoDNS is a name of which nothing was heard in time.
var errNoDNS = errors.New("its name was looked up in vain: no answer from DNS")

// addresses is what DNS says of one server.
type addresses struct {
	v4, v6 []netip.AddrPort
	err    error // of IPv4, when there are none at all
}

func (a addresses) any() bool { return len(a.v4) > 0 || len(a.v6) > 0 }

// lookUp asks for both families of all names at once, for at most
// resolveTimeout. When there is something of every name, the rest is waited for
// a little longer: a resolver that does not answer to AAAA is no reason to wait
// (RFC 8305 section 3). What was known of a name before stays as long as nothing
// else is heard: where UDP has just stopped, so has DNS mostly.
func lookUp(ctx context.Context, uris []candidates.URI, find lookup, known map[candidates.URI]addresses) map[candidates.URI]addresses {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	type result struct {
		uri     candidates.URI
		network string
		addrs   []netip.AddrPort
		err     error
	}
	results := make(chan result)
	found := make(map[candidates.URI]addresses)
	left := 0
	for _, u := range uris {
		if _, twice := found[u]; twice {
			continue
		}
		found[u] = known[u]
		for _, network := range []string{"ip4", "ip6"} {
			left++
			go func() {
				addrs, err := find(u, ctx, network)
				results <- result{u, network, addrs, err}
			}()
		}
	}
	var enough <-chan time.Time
	if everyName(found) {
		enough = time.After(resolveGrace)
	}
	for ; left > 0; left-- {
		select {
		case r := <-results:
			a := found[r.uri]
			switch {
			case r.network == "ip4" && r.err != nil:
				a.err = r.err
			case r.network == "ip4":
				a.v4 = r.addrs
			case r.err == nil:
				a.v6 = r.addrs
			}
			found[r.uri] = a
		case <-enough:
			enough = nil
			cancel() // those under way end now
			left++
		}
		if enough == nil && ctx.Err() == nil && everyName(found) {
			enough = time.After(resolveGrace)
		}
	}
	for u, a := range found {
		if !a.any() && a.err == nil {
			a.err = fmt.Errorf("resolve %s: no address", u)
			found[u] = a
		}
	}
	return found
}

func everyName(found map[candidates.URI]addresses) bool {
	for _, a := range found {
		if !a.any() {
			return false
		}
	}
	return true
}
