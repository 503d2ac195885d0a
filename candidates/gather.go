package candidates

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// GatherOptions are the optional parts of [Gather].
type GatherOptions struct {
	// Found is called with each candidate as soon as it is known, host ones
	// first, by the goroutine that called Gather.
	Found func(Candidate)
	// Trace records the candidates and the mapping behaviour.
	Trace *trace.Recorder
}

// Gathered is what [Gather] found.
type Gathered struct {
	Candidates []Candidate
	// NAT is known as far as plain Binding requests can tell: UDP, mapping and
	// allocation, not filtering.
	NAT NAT
	// RTT is the time to the fastest server, 0 when none answered.
	RTT time.Duration
}

// Gather lists the host candidates of sock and its server-reflexive ones, as
// seen by all servers of sock's family at once. Two servers or two ports of one
// are needed to learn anything of the mapping. [udpsock.Socket.Serve] must be
// running on sock.
//
// It returns when all servers have answered, or when those that have not are
// given up on: soon after the first answer, and after 1.55 s without any. That
// no server answers is no error but NAT.UDP == false, or [NAT.Unanswered] where all
// have one address. An error goes with what was found until then.
func Gather(ctx context.Context, sock *udpsock.Socket, servers []netip.AddrPort, opt GatherOptions) (Gathered, error) {
	g := gatherer{opt: opt}
	ifaces, err := interfaceAddrs()
	if err != nil {
		return g.Gathered, err
	}
	o, tunnels := observed{Local: localAddrs(sock, ifaces)}, tunnelsOf(ifaces)
	for _, c := range hostCandidates(sock.LocalAddr(), ifaces, defaultSource(sock.Network() == "udp4")) {
		g.found(c)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	servers = sameFamily(sock, servers)
	answers := make([]answer, len(servers)) // kept in the order of asking
	done := make(chan int, len(servers))
	for i, s := range servers {
		go func() {
			answers[i] = binding(ctx, sock, s)
			done <- i
		}()
	}
	var late <-chan time.Time
	for left := len(servers); left > 0; left-- {
		select {
		case i := <-done:
			a := answers[i]
			if a.err != nil {
				continue
			}
			g.found(Candidate{Type: ServerReflexive, Addr: a.mapped, Tunnel: tunnels.To(a.dst.Addr()) != ""})
			if g.RTT == 0 {
				g.RTT = a.rtt
				late = time.After(patience(a.rtt))
			}
		case <-late:
			late = nil
			cancel(errLate)
			left++ // this turn brought no answer
		}
	}
	for _, a := range answers {
		o.add(a)
	}
	g.NAT = classify(o)
	opt.Trace.Emit(g.NAT.Event())
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errLate) {
		return g.Gathered, fmt.Errorf("gather candidates on %s: %w", sock.LocalAddr(), cause)
	}
	return g.Gathered, nil
}

var errLate = errors.New("others answered long ago")

// patience is how long servers may answer after the first one did, which took
// rtt: long enough for two retransmissions, or for a server four times as far.
func patience(rtt time.Duration) time.Duration {
	return max(200*time.Millisecond, 3*rtt)
}

type gatherer struct {
	Gathered
	opt GatherOptions
}

// found records c unless its address is known already: a server-reflexive
// candidate that equals a host one is redundant (RFC 8445 section 5.1.3).
func (g *gatherer) found(c Candidate) {
	if slices.ContainsFunc(g.Candidates, func(k Candidate) bool { return k.Addr == c.Addr }) {
		return
	}
	g.Candidates = append(g.Candidates, c)
	g.opt.Trace.Emit(trace.Candidate{Type: string(c.Type), Addr: c.Addr, Tunnel: c.Tunnel})
	if g.opt.Found != nil {
		g.opt.Found(c)
	}
}
