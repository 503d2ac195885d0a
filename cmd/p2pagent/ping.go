package main

import (
	"context"
	"fmt"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/spf13/cobra"
)

// pong is one line of `ping --json`.
type pong struct {
	Path   string   `json:"path"` // direct, relayed
	Local  string   `json:"local"`
	Remote string   `json:"remote"`
	RTT    *float64 `json:"rtt_ms"`   // of one round trip, measured for this line; null: no answer within 2 s
	After  int64    `json:"after_ms"` // since the start

	Tunnel   string `json:"tunnel,omitempty"`    // interface of this machine that it leaves by, when that is a tunnel
	InTunnel bool   `json:"in_tunnel,omitempty"` // through a tunnel, here or at the peer
}

func pingCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Tell which path leads to a peer, until it is direct",
		Long: `Link with a peer and print the path and a round trip over it, measured anew for each
line: each second and when the path changes, until it is direct (exit code 0) or
--timeout (30s) is over (exit code 3; 0 when the path is direct, but inside a VPN's
tunnel).`,
		Args:              onePeer,
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
			rtt := "no answer within " + units.Duration(pingWait)
			if p.RTT != nil {
				rtt = "rtt " + units.Millis(*p.RTT)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s: %s <-> %s%s, %s\n", args[0], p.Path, p.Local, p.Remote, tunnelText(p.Tunnel, p.InTunnel), rtt)
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

const (
	pingEvery = time.Second
	pingWait  = 2 * time.Second // for an answer
)

// pingUntilDirect measures once for each path that payload takes, and each second,
// until the path is direct. Once is one measurement; nothing is told twice.
func pingUntilDirect(ctx context.Context, conn *agent.Connector, timeout time.Duration, print func(pong)) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	late := false
	second := time.NewTicker(pingEvery)
	defer second.Stop()
	due := true
	var last agent.Ping
	for {
		changed := conn.Change()
		if due || moved(conn.Status(), last.Path) {
			p, ok := conn.Ping(ctx, pingWait)
			if ok && ctx.Err() == nil {
				due, last = false, p
				print(pongOf(p))
			}
		}
		if k := last.Path; k.Kind == path.Direct && last.RTT > 0 && (!k.InTunnel || late) {
			return nil
		}
		if late && last.Path.ID != 0 { // without any path, the connector says which step failed
			return onlyRelayed{timeout, last.Verdict}
		}
		select {
		case <-changed:
		case <-second.C:
			due = true
		case <-deadline.C:
			late = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// moved reports that payload takes another path than the one that was measured.
func moved(st agent.Status, measured path.Status) bool {
	for _, l := range st.Links {
		if l.Session && l.Path != nil {
			return l.Path.ID != measured.ID || l.Path.Kind != measured.Kind
		}
	}
	return false
}

func pongOf(p agent.Ping) pong {
	out := pong{Path: string(p.Path.Kind), Local: p.Path.Local.String(), Remote: p.Path.Remote.String(), Tunnel: p.Path.Tunnel, InTunnel: p.Path.InTunnel}
	if p.RTT > 0 {
		rtt := float64(p.RTT.Microseconds()) / 1000
		out.RTT = &rtt
	}
	return out
}

// onlyRelayed is the end of a ping that found no direct path.
type onlyRelayed struct {
	waited  time.Duration
	verdict trace.Verdict
}

func (e onlyRelayed) Error() string {
	return fmt.Sprintf("no direct path within %s; %s", units.Duration(e.waited), e.verdict.Text)
}
func (e onlyRelayed) ExitCode() int { return exitRelayed }

// Hint returns what would help.
func (e onlyRelayed) Hint() string { return e.verdict.Remedy }
