package main

import (
	"context"
	"fmt"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/spf13/cobra"
)

// pong is one line of `ping --json`.
type pong struct {
	Path   string  `json:"path"` // direct, relayed
	Local  string  `json:"local"`
	Remote string  `json:"remote"`
	RTT    float64 `json:"rtt_ms"`
	After  int64   `json:"after_ms"` // since the start

	Tunnel   string `json:"tunnel,omitempty"`    // interface of this machine that it leaves by, when that is a tunnel
	InTunnel bool   `json:"in_tunnel,omitempty"` // through a tunnel, here or at the peer
}

func pingCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Tell which path leads to a peer, until it is direct",
		Long: `Link with a peer and print the path and its round-trip time each second, until the
path is direct (exit code 0) or --timeout (30s) is over (exit code 3; 0 when the
path is direct, but inside a VPN's tunnel).`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: first(peerNames),
	}
	c.add(cmd)
	c.name = hostname()
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		emitJSON := c.json
		c.json = false // events are not what ping prints
		s, err := c.prepare(cmd)
		if err != nil {
			return err
		}
		defer s.finish(&err)
		out := &jsonLines{w: cmd.OutOrStdout()}
		start := time.Now()
		print := func(p pong) {
			p.After = time.Since(start).Milliseconds()
			if emitJSON {
				out.write(p)
				return
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s: %s <-> %s%s, rtt %s\n", args[0], p.Path, p.Local, p.Remote, tunnelText(p.Tunnel, p.InTunnel), units.Millis(p.RTT))
		}
		timeout := c.timeout
		if timeout == 0 {
			timeout = defaultTimeout
		}
		return withConnector(cmd.Context(), &c, s, args[0], func(ctx context.Context, conn *agent.Connector) error {
			return pingUntilDirect(ctx, conn, timeout-time.Since(start), print)
		})
	}
	return cmd
}

func pingUntilDirect(ctx context.Context, conn *agent.Connector, timeout time.Duration, print func(pong)) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	late := false
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var last pong
	var verdict string
	for {
		changed := conn.Change()
		for _, l := range conn.Status().Links {
			if !l.Session || l.Path == nil {
				continue
			}
			p := pong{Path: string(l.Path.Kind), Local: l.Path.Local.String(), Remote: l.Path.Remote.String(), RTT: float64(l.Path.RTT.Microseconds()) / 1000,
				Tunnel: l.Path.Tunnel, InTunnel: l.Path.InTunnel}
			verdict = l.Verdict.Text
			if p.Path != last.Path || p.Remote != last.Remote {
				print(p)
			}
			last = p
			if p.Path == "direct" && (!p.InTunnel || late) {
				return nil
			}
		}
		if late && last.Path != "" { // without any path, the connector says which step failed
			return fmt.Errorf("%w: %s", agent.ErrOnlyRelayed, verdict)
		}
		select {
		case <-changed:
		case <-second.C:
			if last.Path != "" {
				print(last)
			}
		case <-deadline.C:
			late = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
