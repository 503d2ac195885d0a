package punch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/pion/ice/v3"
	"github.com/pion/logging"
	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/units"
)

// The timers of the agent. Its defaults give up on a peer that starts 2.5 s
// late, and wait up to two seconds before they nominate.
const (
	// checkInterval is the time between rounds of checks.
	checkInterval = 20 * time.Millisecond
	// keepalive is the time between checks of the selected pair while the call
	// waits for the peer to say that it selected too.
	keepalive = 500 * time.Millisecond
	// never is longer than any attempt. Zero would not do: an agent without a
	// timeout in its checking state fails at its second round.
	never = 24 * time.Hour
	// closeTimeout bounds the end of an agent, which can hang in v3.
	closeTimeout = 5 * time.Second
)

// agent is a pion ICE agent that lives for one attempt. It gathers nothing but
// our own sockets, and sends through nothing else.
type agent struct{ ice *ice.Agent }

// newAgent makes an agent whose host candidates are the sockets of h. It sends
// nothing before connect.
func newAgent(ctx context.Context, h *hosts, local Credentials) (*agent, error) {
	var zero time.Duration
	interval, alive, silence, requests := checkInterval, keepalive, time.Duration(never), uint16(math.MaxUint16)
	a, err := ice.NewAgent(&ice.AgentConfig{
		LocalUfrag:             local.Ufrag,
		LocalPwd:               local.Pwd,
		NetworkTypes:           []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		CandidateTypes:         []ice.CandidateType{ice.CandidateTypeHost},
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		DisableActiveTCP:       true,
		UDPMux:                 h,
		Net:                    noInterfaces{&stdnet.Net{}},
		LoggerFactory:          &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled},
		CheckInterval:          &interval,
		KeepaliveInterval:      &alive,
		DisconnectedTimeout:    &silence,
		FailedTimeout:          &silence,
		HostAcceptanceMinWait:  &zero,
		SrflxAcceptanceMinWait: &zero,
		PrflxAcceptanceMinWait: &zero,
		RelayAcceptanceMinWait: &zero,
		MaxBindingRequests:     &requests, // the attempt's own timeout and budget end it
	})
	if err != nil {
		return nil, fmt.Errorf("ice agent: %w", err)
	}
	g := &agent{a}
	if err := g.gather(ctx); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// gather makes the host candidates. It involves no network.
func (g *agent) gather(ctx context.Context) error {
	done := make(chan struct{})
	err := g.ice.OnCandidate(func(c ice.Candidate) {
		if c == nil {
			close(done)
		}
	})
	if err != nil {
		return fmt.Errorf("ice gathering: %w", err)
	}
	if err := g.ice.GatherCandidates(); err != nil {
		return fmt.Errorf("ice gathering: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// add adds a remote candidate, before or after connect.
func (g *agent) add(c candidates.Candidate) error {
	remote, err := remoteCandidate(c)
	if err == nil {
		err = g.ice.AddRemoteCandidate(remote)
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", c, err)
	}
	return nil
}

func remoteCandidate(c candidates.Candidate) (ice.Candidate, error) {
	address, port := c.Addr.Addr().String(), int(c.Addr.Port())
	if c.Type == candidates.Host {
		return ice.NewCandidateHost(&ice.CandidateHostConfig{
			Network: "udp", Address: address, Port: port, Component: ice.ComponentRTP})
	}
	return ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
		Network: "udp", Address: address, Port: port, Component: ice.ComponentRTP})
}

// connect checks until a pair is selected, and returns its addresses. Roles
// are fixed: v3 does not resolve a conflict.
func (g *agent) connect(ctx context.Context, controlling bool, remote Credentials) (from, to netip.AddrPort, err error) {
	start := g.ice.Accept
	if controlling {
		start = g.ice.Dial
	}
	conn, err := start(ctx, remote.Ufrag, remote.Pwd)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return from, to, err
	}
	l, lok := conn.LocalAddr().(*net.UDPAddr)
	r, rok := conn.RemoteAddr().(*net.UDPAddr)
	if !lok || !rok {
		return from, to, fmt.Errorf("ice selected %v and %v, not UDP addresses", conn.LocalAddr(), conn.RemoteAddr())
	}
	return canonical(l.AddrPort()), canonical(r.AddrPort()), nil
}

// close ends the agent and waits for its goroutines, but not for ever.
func (g *agent) close() error { return closeWithin(closeTimeout, g.ice.GracefulClose) }

// closeWithin calls f, and leaves it behind when it takes longer than d.
func closeWithin(d time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("ice agent still closing after %s, left behind", units.Duration(d))
	}
}

// noInterfaces keeps the agent from looking for addresses of its own; the
// sockets are all it has.
type noInterfaces struct{ transport.Net }

func (noInterfaces) Interfaces() ([]*transport.Interface, error) { return nil, nil }
