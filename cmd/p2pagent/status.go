package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/spf13/cobra"
)

func statusCommand() *cobra.Command {
	return statusLike("status", "Tell which links there are, over which path, and since when", printStatus)
}

func explainCommand() *cobra.Command {
	return statusLike("explain", "Tell why a link takes the path it takes, and what would help", printVerdicts)
}

func statusLike(name, short string, print func(io.Writer, agent.Status)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON on stdout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := agent.ReadStatuses()
		if err != nil && len(all) == 0 {
			return err
		}
		if asJSON {
			return errors.Join(json.NewEncoder(cmd.OutOrStdout()).Encode(all), err)
		}
		if len(all) == 0 {
			return fmt.Errorf("no p2pagent is running for this user")
		}
		for _, st := range all {
			print(cmd.OutOrStdout(), st)
		}
		return err // of those that did not answer
	}
	return cmd
}

func printStatus(w io.Writer, st agent.Status) {
	signal := "connected"
	if !st.Signal.Connected {
		signal = "no connection: " + st.Signal.Err
	}
	fmt.Fprintf(w, "p2pagent %s (pid %d), signaling %s\n", printable(st.Command), st.PID, printable(signal))
	for _, l := range st.Links {
		fmt.Fprintf(w, "  %s\n", printable(linkText(l)))
		for _, p := range l.Paths {
			fmt.Fprintf(w, "    %s\n", pathStatus(p))
		}
	}
}

func linkText(l agent.LinkStatus) string {
	if l.Path == nil {
		return l.Peer + ": no path yet"
	}
	return fmt.Sprintf("%s: %s", l.Peer, l.Verdict.Text)
}

func pathStatus(p path.Status) string {
	mark := " "
	if p.Active {
		mark = "*"
	}
	state := string(p.State)
	if p.Stream {
		state = "TCP to the relay, " + state
	}
	return fmt.Sprintf("%s %-7s %s <-> %s%s  %s for %s, rtt %s, %d-byte datagrams%s, %d bytes in, %d out",
		mark, p.Kind, p.Local, p.Remote, tunnelText(p.Tunnel, p.InTunnel),
		state, time.Since(p.Since).Round(time.Second), p.RTT.Round(10*time.Microsecond), p.Size, batching(p.GSO, p.GRO), p.In.Payload, p.Out.Payload)
}

// batching tells how datagrams pass the kernel, where that is known.
func batching(gso, gro *bool) string {
	switch {
	case gso == nil || gro == nil:
		return ""
	case *gso && *gro:
		return " (GSO and GRO)"
	case *gso:
		return " (GSO, no GRO)"
	case *gro:
		return " (GRO, no GSO)"
	}
	return " (one per system call)"
}

func printVerdicts(w io.Writer, st agent.Status) {
	if len(st.Links) == 0 {
		fmt.Fprintf(w, "p2pagent %s (pid %d): no link\n", printable(st.Command), st.PID)
	}
	for _, l := range st.Links {
		fmt.Fprintf(w, "%s: %s\n", printable(l.Peer), printable(l.Verdict.Text))
		if l.Verdict.Remedy != "" {
			fmt.Fprintf(w, "  remedy: %s\n", l.Verdict.Remedy)
		}
	}
}
