package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
	"github.com/p2pagent/p2pagent/signaling"
	"github.com/spf13/cobra"
)

func natCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "nat",
		Short: "Measure the NAT in front of this machine",
		Long: `Measure the NAT in front of this machine with the STUN servers of the signaling
server, or those of --stun: mapping, filtering and hairpinning (RFC 5780). Filtering
needs a server with a second address; what was not measured is said to be so.`,
		Args: cobra.NoArgs,
	}
	c.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := c.check(); err != nil {
			return err
		}
		if _, err := newTeller(cmd.ErrOrStderr(), c.verbose, c.color); err != nil {
			return err
		}
		var sinks []trace.Sink
		if c.traceFile != "" {
			file, err := c.openTrace()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, file.Close()) }()
			sinks = append(sinks, file)
		}
		rec := trace.New(c.name, sinks...)
		rec.Emit(trace.ProcessStarted{Version: version(), Command: cmd.CommandPath()})
		timeout := c.timeout
		if timeout == 0 {
			timeout = defaultTimeout
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		if len(c.stun) == 0 {
			c.warnOfPlaintext(cmd.ErrOrStderr())
		}
		servers, err := c.stunServers(ctx)
		if err != nil {
			return err
		}
		nat, err := probe(ctx, servers, c.udpPort)
		if err != nil {
			return err
		}
		rec.Emit(nat.Event())
		if c.json {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(nat)
		}
		printNAT(cmd.OutOrStdout(), nat)
		return nil
	}
	return cmd
}

// maxSTUN bounds the addresses that are asked, whatever DNS says.
const maxSTUN = 8

// stunServers are those of the command line, or those of the signaling server.
func (c *common) stunServers(ctx context.Context) ([]netip.AddrPort, error) {
	uris, err := parseURIs("--stun", c.stun, "stun")
	if err != nil {
		return nil, err
	}
	if len(uris) == 0 {
		if c.signal == "" {
			return nil, usageError{errors.New("no STUN server; give --stun stun:HOST, or --signal URL")}
		}
		texts, err := askSTUN(ctx, c.signal)
		if err != nil {
			return nil, err
		}
		if uris, err = parseURIs("server from signaling", texts, "stun"); err != nil {
			return nil, err
		}
	}
	var lists [][]netip.AddrPort
	for _, u := range uris {
		addrs, err := u.Resolve(ctx, "ip4")
		if err != nil {
			return nil, err
		}
		lists = append(lists, addrs)
	}
	out := candidates.TakeTurns(lists, maxSTUN)
	if len(out) == 0 {
		return nil, errors.New("the signaling server names no STUN server; give --stun")
	}
	return out, nil
}

// askSTUN asks a signaling server for its STUN servers.
func askSTUN(ctx context.Context, url string) ([]string, error) {
	client, err := signaling.NewClient(signaling.ClientConfig{URL: url, Software: "p2pagent/" + version()})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	began := time.Now()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		connected, _, last := client.State()
		if connected {
			return client.STUN(), nil
		}
		select {
		case <-poll.C:
		case err := <-ended:
			ended <- nil
			return nil, agent.SignalingError(err)
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return nil, context.Canceled // interrupted
			}
			return nil, agent.Unreachable(last, time.Since(began))
		}
	}
}

// discard is a udpsock.Handler for a socket that only asks.
type discard struct{}

func (discard) HandleData(p *udpsock.Packet)      { p.Release() }
func (discard) HandleSTUN([]byte, netip.AddrPort) {}

func probe(ctx context.Context, servers []netip.AddrPort, port int) (candidates.NAT, error) {
	sock, err := udpsock.Listen(udpsock.Config{Network: "udp4", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port))})
	if err != nil {
		return candidates.NAT{}, err
	}
	served := make(chan error, 1)
	go func() { served <- sock.Serve(ctx, discard{}) }()
	nat, err := candidates.Probe(ctx, sock, servers)
	sock.Close()
	<-served
	return nat, err
}

func printNAT(w io.Writer, n candidates.NAT) {
	name := n.Name()
	if name == "" {
		name = "not known well enough for a name"
	}
	fmt.Fprintf(w, "NAT          %s\n", name)
	fmt.Fprintf(w, "UDP          %s\n", yesNo(n.UDP))
	fmt.Fprintf(w, "mapping      %s\n", measured(string(n.Mapping)))
	fmt.Fprintf(w, "filtering    %s\n", measured(string(n.Filtering)))
	fmt.Fprintf(w, "hairpinning  %s\n", yesNo(n.Hairpin))
	fmt.Fprintf(w, "allocation   %s\n", allocation(n.Allocation))
	for _, m := range n.Mapped {
		fmt.Fprintf(w, "mapped to    %s\n", m)
	}
}

func allocation(a candidates.Allocation) string {
	switch {
	case a.Pattern == nil:
		return measured("")
	case a.Step != nil:
		return fmt.Sprintf("%s, step %d", *a.Pattern, *a.Step)
	}
	return string(*a.Pattern)
}

func measured(s string) string {
	if s == "" {
		return "not measured"
	}
	return s
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "not measured"
	case *b:
		return "yes"
	}
	return "no"
}
