package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
	"github.com/p2pagent/p2pagent/punch"
)

// maxSockets is how many sockets of one family a link keeps: the newest, and
// the one before it, over which paths may still run.
const maxSockets = 2

// A socket is a UDP socket of the link with what was learned through it.
type socket struct {
	*udpsock.Socket
	mux       *punch.Mux
	found     []candidates.Candidate
	nat       candidates.NAT
	gathering bool
}

// openSockets opens the first socket of each family that this host can use.
func (l *link) openSockets() error {
	if _, err := l.openSocket("udp4", l.env.takePort()); err != nil {
		return err
	}
	if hasGlobalIPv6() {
		if _, err := l.openSocket("udp6", 0); err != nil {
			l.trace.Emit(trace.Failure{Where: "open udp6 socket", Err: err.Error()})
		}
	}
	return nil
}

// checkPort reports a --udp-port that cannot be had: before anybody waits for
// a link that could not open its socket.
func (e *environment) checkPort() error {
	if e.cfg.UDPPort == 0 {
		return nil
	}
	s, err := e.listenUDP("udp4", e.cfg.UDPPort, nil)
	if err != nil {
		return err
	}
	return s.Close()
}

// listenUDP opens a socket for links.
func (e *environment) listenUDP(network string, port int, rec *trace.Recorder) (*udpsock.Socket, error) {
	addr := netip.IPv4Unspecified()
	switch {
	case network == "udp6":
		addr = netip.IPv6Unspecified()
	case e.cfg.Loopback:
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	s, err := udpsock.Listen(udpsock.Config{
		Network: network, Addr: netip.AddrPortFrom(addr, uint16(port)),
		DontFragment: true, Portable: e.cfg.Portable, Trace: rec,
	})
	if err != nil && port != 0 {
		err = fmt.Errorf("--udp-port %d: %w", port, err)
		if advice := cli.ListenAdvice(err, port); advice != "" {
			err = withHint(err, "%s", advice)
		}
		return nil, err
	}
	return s, err
}

func (l *link) openSocket(network string, port int) (*socket, error) {
	raw, err := l.env.listenUDP(network, port, l.trace)
	if err != nil {
		return nil, err
	}
	s := &socket{Socket: raw, mux: punch.NewMux(raw, l.trace)}
	if err := l.conn.AddCarrier(raw, path.Direct, s.mux.HandleSTUN); err != nil {
		raw.Close()
		return nil, err
	}
	l.sockets = append(l.sockets, s)
	return s, nil
}

// freshSockets puts a new socket in front of each family, whose mappings no
// router has spoiled yet, and lets go of those that are no longer needed.
func (l *link) freshSockets() error {
	var families []string
	seen := make(map[string]int)
	for _, s := range l.sockets {
		if seen[s.Network()]++; seen[s.Network()] == 1 {
			families = append(families, s.Network())
		}
	}
	for _, network := range families {
		if seen[network] >= maxSockets {
			l.dropOldest(network)
		}
		if _, err := l.openSocket(network, 0); err != nil {
			return err
		}
	}
	l.tryRelays()
	return nil
}

// dropOldest closes the oldest socket of a family that payload does not use.
func (l *link) dropOldest(network string) {
	active, _ := l.conn.Active()
	for i, s := range l.sockets {
		if s.Network() != network || s.LocalAddr() == active.Local {
			continue
		}
		l.sockets = append(l.sockets[:i:i], l.sockets[i+1:]...)
		s.mux.Close()
		l.conn.RemoveCarrier(s.Socket)
		return
	}
}

// newest returns the sockets that attempts use: the last one of each family.
func (l *link) newest() []*socket {
	byFamily := make(map[string]*socket)
	for _, s := range l.sockets {
		byFamily[s.Network()] = s
	}
	var out []*socket
	for _, s := range l.sockets {
		if byFamily[s.Network()] == s {
			out = append(out, s)
		}
	}
	return out
}

// gather asks the STUN servers through the newest sockets, in workers, and
// calls then on the loop when all have ended.
func (l *link) gather(then func()) {
	waiting := 0
	for _, s := range l.newest() {
		waiting++
		s.gathering = true
		stun := ofFamily(l.servers.stun, s.Network())
		l.work(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
			defer cancel()
			got, err := candidates.Gather(ctx, s.Socket, stun, candidates.GatherOptions{
				Trace: l.trace,
				Found: func(c candidates.Candidate) { l.do(func() { s.noteFound(c) }) },
			})
			l.do(func() {
				s.gathering = false
				if err != nil && len(got.Candidates) == 0 {
					l.trace.Emit(trace.Failure{Where: "gather", Err: err.Error()})
				} else {
					l.whileUDP(func() { s.found, s.nat = got.Candidates, mergeNAT(s.nat, got.NAT) })
				}
				if waiting--; waiting == 0 {
					then()
				}
			})
		})
	}
}

// noteFound adds a candidate while the gathering goes on.
func (s *socket) noteFound(c candidates.Candidate) {
	if s.gathering && !slices.Contains(s.found, c) {
		s.found = append(s.found, c)
	}
}

// mergeNAT keeps what a full probe measured when a later gathering cannot
// tell.
func mergeNAT(old, now candidates.NAT) candidates.NAT {
	if now.Filtering == "" {
		now.Filtering = old.Filtering
	}
	if now.Mapping == "" {
		now.Mapping = old.Mapping
	}
	if now.Hairpin == nil {
		now.Hairpin = old.Hairpin
	}
	return now
}

// localCandidates is what the peer may know: nothing with --relay-only.
func (l *link) localCandidates() []candidates.Candidate {
	if l.relayOnly() {
		return nil
	}
	var out []candidates.Candidate
	for _, s := range l.newest() {
		out = append(out, s.found...)
	}
	return out[:min(len(out), maxCandidates)]
}

// nat is what is known of the NAT in front of us, IPv4 first. Silent STUN servers
// prove nothing when the relay answers over UDP.
func (l *link) nat() candidates.NAT {
	for _, s := range l.newest() {
		if s.nat.UDP == nil && !s.nat.Unanswered() {
			continue
		}
		nat := s.nat
		if (blocked(nat) || nat.Unanswered()) && l.relaying.overUDP() {
			yes := true
			nat.UDP = &yes
		}
		return nat
	}
	return candidates.NAT{}
}

// env describes our place in the network, for judging the peer's candidates.
func (l *link) filterEnv() candidates.Env {
	e, err := candidates.LocalEnv()
	if err != nil {
		l.trace.Emit(trace.Failure{Where: "list interfaces", Err: err.Error()})
	}
	e.Loopback = l.env.cfg.Loopback
	e.NoIPv6 = true
	for _, s := range l.newest() {
		if s.Network() == "udp6" {
			e.NoIPv6 = false
		}
		for _, c := range s.found {
			e.Own = append(e.Own, c.Addr)
			if c.Type == candidates.ServerReflexive {
				e.Mapped = append(e.Mapped, c.Addr.Addr())
			}
		}
	}
	for _, t := range l.servers.turn {
		e.Servers = append(e.Servers, t.addr.Addr())
	}
	return e
}

func ofFamily(addrs []netip.AddrPort, network string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addrs {
		if a.Addr().Is4() == (network == "udp4") {
			out = append(out, a)
		}
	}
	return out
}

func hasGlobalIPv6() bool {
	e, err := candidates.LocalEnv()
	if err != nil {
		return false
	}
	for _, p := range e.Prefixes {
		if a := p.Addr(); a.Is6() && a.IsGlobalUnicast() && !a.IsPrivate() {
			return true
		}
	}
	return false
}
