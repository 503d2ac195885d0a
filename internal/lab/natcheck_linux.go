package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
)

// stunServers are the two addresses of the RFC 5780 responder in the signal node.
// One alone would leave open whether no UDP passes or it is down.
func stunServers() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range signalLink().far {
		out = append(out, netip.AddrPortFrom(a.Addr(), 3478))
	}
	return out
}

// CheckNATs measures every NAT from each peer behind it, at the same time, and
// fails with a *NATError where one is not what it should be. The signal node has
// to answer RFC 5780 tests. What it did to the routers' tables stays there until
// ForgetMappings.
func (l *Lab) CheckNATs(ctx context.Context) error {
	errs := make(chan error)
	count := 0
	for _, s := range l.sites {
		for i, peer := range s.hosts {
			count++
			go func() { errs <- l.checkNAT(ctx, s, peer, i) }()
		}
	}
	var all []error
	for range count {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// checkNAT measures a NAT that is not what it should be twice more: a probe that
// came too late, on a machine that stood still, looks like one that was filtered.
func (l *Lab) checkNAT(ctx context.Context, s site, peer string, i int) error {
	var wrong []Difference
	for range 3 {
		got, err := l.observe(ctx, s, peer, i)
		if err != nil {
			return fmt.Errorf("measure %s from %s: %w", s.router, peer, err)
		}
		if wrong = differences(s.kind, got); wrong == nil {
			return nil
		}
	}
	return &NATError{Router: s.router, Peer: peer, Kind: s.kind.Name, Differences: wrong}
}

func (l *Lab) observe(ctx context.Context, s site, peer string, i int) (Observed, error) {
	node := l.nodes[peer]
	nat, err := probeFrom(ctx, node, stunServers())
	got := Observed{NAT: nat}
	if err == nil && nat.Mapping == candidates.EndpointIndependent && nat.Translated != nil && *nat.Translated {
		if got.EarlyProbeMoves, err = earlyProbe(ctx, node, l.nodes[Server], serverLink().far[i].Addr(), s.publicAddr()); err != nil {
			err = fmt.Errorf("early probe: %w", err)
		}
	}
	return got, err
}

// probeFrom runs this very program in the node, as a prober.
func probeFrom(ctx context.Context, n *Node, servers []netip.AddrPort) (candidates.NAT, error) {
	argv := []string{"/proc/self/exe", "lab", ProbeCommand}
	for _, s := range servers {
		argv = append(argv, s.String())
	}
	out, err := n.Run(ctx, argv...)
	if err != nil {
		return candidates.NAT{}, err
	}
	return parseProbe(out)
}

// earlyProbe sends a packet from a public address to the port that a socket of the
// peer is going to have outside, and only then lets that socket send to that
// address. It reports whether the mapping came out with another port.
func earlyProbe(ctx context.Context, peer, public *Node, publicIP, natIP netip.Addr) (moved *bool, err error) {
	remote, err := public.ListenUDP(ctx, netip.AddrPortFrom(publicIP, 0).String())
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	local, err := peer.ListenUDP(ctx, "0.0.0.0:0")
	if err != nil {
		return nil, err
	}
	defer local.Close()
	marker, err := peer.ListenUDP(ctx, "0.0.0.0:0")
	if err != nil {
		return nil, err
	}
	defer marker.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(5 * time.Second)
	}
	for _, c := range []*net.UDPConn{remote, local, marker} {
		c.SetDeadline(deadline)
	}

	// The marker opens a mapping to another port of the same address. What goes
	// back through it follows the early packet on the same way, so when it comes
	// out the early packet has met the router.
	second, err := public.ListenUDP(ctx, netip.AddrPortFrom(publicIP, 0).String())
	if err != nil {
		return nil, err
	}
	defer second.Close()
	second.SetDeadline(deadline)
	behind, err := exchange(marker, second)
	if err != nil {
		return nil, err
	}
	port := local.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if _, err := remote.WriteToUDPAddrPort([]byte("early"), netip.AddrPortFrom(natIP, port)); err != nil {
		return nil, err
	}
	if _, err := second.WriteToUDPAddrPort([]byte("late"), behind); err != nil {
		return nil, err
	}
	if _, err := marker.Read(make([]byte, 16)); err != nil {
		return nil, err
	}
	src, err := exchange(local, remote)
	if err != nil {
		return nil, err
	}
	m := src.Port() != port
	return &m, nil
}

// exchange sends from one socket to the other, again where a packet is lost, and
// returns the source address that arrives.
func exchange(from, to *net.UDPConn) (netip.AddrPort, error) {
	b := make([]byte, 16)
	for try := 0; ; try++ {
		if _, err := from.WriteTo([]byte("ours"), to.LocalAddr()); err != nil {
			return netip.AddrPort{}, err
		}
		to.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, src, err := to.ReadFromUDPAddrPort(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) || try == 4 {
			return src, err
		}
	}
}

// ForgetMappings empties the routers' connection tables of UDP and what they
// remember of destinations, as a restart of the routers would. TCP connections
// live on.
func (l *Lab) ForgetMappings(ctx context.Context) error {
	for _, s := range l.sites {
		n := l.nodes[s.router]
		// conntrack -D reports failure where there was nothing to delete.
		if _, err := n.Run(ctx, "sh", "-c", "conntrack -D -p udp >/dev/null 2>&1 || test $? -eq 1"); err != nil {
			return err
		}
		if !remembers(s.kind) {
			continue
		}
		if _, err := n.Run(ctx, "nft", "flush", "set", "ip", nftTable, nftPeers); err != nil {
			return err
		}
	}
	return nil
}

// remembers reports whether the kind's router has a memory beside its connections.
func remembers(k Kind) bool { return k.Filtering == candidates.AddressDependent }
