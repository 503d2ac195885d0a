package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/spf13/cobra"
)

func statusCommand() *cobra.Command {
	return statusLike("status", "Tell which links there are, over which path, and since when",
		`Tell which links there are, over which path, and since when, and for which peers
this user's programs wait. The exit code is 0 when any of them runs, else 1.`,
		printStatus, func(all []agent.Status) any { return all }, func([]agent.Status) error { return nil })
}

func explainCommand() *cobra.Command {
	return statusLike("explain", "Tell why a link takes the path it takes, and what would help",
		`Tell for each link why it takes the path it takes, and for each peer without one what
is waited for; and what would help. The exit code is 7 when nothing passes through a
link, and where there is none that of what a "connect" waits for: 4 for the peer, 6
for the signaling server, 7 for a path, 8 when it was refused. A "listen" waits, and
that is 0. It is 1 when no p2pagent runs.`,
		printVerdicts, explanations, lacking)
}

func statusLike(name, short, long string, print func(io.Writer, agent.Status), object func([]agent.Status) any, judge func([]agent.Status) error) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: name, Short: short, Long: long, Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON on stdout")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := agent.ReadStatuses()
		if err == nil && len(all) == 0 {
			err = errors.New("no p2pagent is running for this user")
		}
		if asJSON {
			err = errors.Join(json.NewEncoder(cmd.OutOrStdout()).Encode(object(all)), err)
		} else {
			for _, st := range all {
				print(cmd.OutOrStdout(), st)
			}
		}
		if err == nil { // there is one, and none did not answer
			err = judge(all)
		}
		return err
	}
	return cmd
}

// An explanation is what `explain --json` prints of one program.
type explanation struct {
	PID     int                `json:"pid"`
	Command string             `json:"command"`
	Version string             `json:"version"`
	Links   []explained        `json:"links"`
	Waiting []agent.PeerStatus `json:"waiting"` // known peers without a link
}

// explained is one link in it.
type explained struct {
	Peer    string        `json:"peer"`
	Role    string        `json:"role"` // connector, listener
	Verdict trace.Verdict `json:"verdict"`
	Why     agent.Why     `json:"why"`
}

func explanations(all []agent.Status) any {
	out := []explanation{}
	for _, st := range all {
		e := explanation{PID: st.PID, Command: st.Command, Version: st.Version, Links: []explained{}, Waiting: st.Waiting}
		for _, l := range st.Links {
			e.Links = append(e.Links, explained{l.Peer, l.Role, l.Verdict, l.Why})
		}
		out = append(out, e)
	}
	return out
}

// silentExit is the end of a command that has said all there is to say.
type silentExit int

func (silentExit) Error() string   { return "" }
func (e silentExit) ExitCode() int { return int(e) }

// lacking is the exit code of the first link that does not work, and of the first
// that somebody wants and has not.
func lacking(all []agent.Status) error {
	for _, st := range all {
		for _, l := range st.Links {
			if l.Verdict.Path == "none" {
				return silentExit(exitNoPath)
			}
		}
	}
	for _, st := range all {
		for _, p := range st.Waiting {
			if p.Role != "connector" {
				continue
			}
			switch p.State {
			case agent.WaitingForPeer:
				return silentExit(exitAbsent)
			case agent.WaitingForSignaling, agent.WaitingForServer:
				return silentExit(exitSignaling)
			case agent.WaitingDeclined, agent.WaitingRefused:
				return silentExit(exitRefused)
			}
			return silentExit(exitNoPath)
		}
	}
	return nil
}

func printStatus(w io.Writer, st agent.Status) {
	signal := "connected"
	if !st.Signal.Connected {
		signal = "no connection: " + st.Signal.Err
	}
	fmt.Fprintf(w, "p2pagent %s (pid %d), signaling %s\n", printable(st.Command), st.PID, printable(signal))
	for _, l := range st.Links {
		fmt.Fprintf(w, "  %s\n", printable(l.Peer+": "+l.Verdict.Text))
		for _, p := range l.Paths {
			fmt.Fprintf(w, "    %s\n", pathStatus(p))
		}
	}
	for _, p := range st.Waiting {
		fmt.Fprintf(w, "  %s: %s\n", printable(p.Peer), printable(p.Verdict.Text))
	}
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
	measured := ""
	if p.RTT > 0 {
		measured += ", rtt " + units.Duration(p.RTT)
	}
	if p.Size > 0 {
		measured += fmt.Sprintf(", %d-byte datagrams%s", p.Size, batching(p.GSO, p.GRO))
	}
	return fmt.Sprintf("%s %-7s %s <-> %s%s  %s for %s%s, %s in, %s out%s",
		mark, p.Kind, p.Local, p.Remote, tunnelText(p.Tunnel, p.InTunnel), state, units.Duration(time.Since(p.Since)), measured,
		units.Bytes(p.In.Payload), units.Bytes(p.Out.Payload), notUsed(p.Barred))
}

// notUsed tells why payload never goes over a path.
func notUsed(why string) string {
	if why == "" {
		return ""
	}
	return "; not used: " + why
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
	if len(st.Links) == 0 && len(st.Waiting) == 0 {
		fmt.Fprintf(w, "p2pagent %s (pid %d): no link, and no peer to wait for\n", printable(st.Command), st.PID)
	}
	say := func(peer string, v trace.Verdict) {
		fmt.Fprintf(w, "%s: %s\n", printable(peer), printable(v.Text))
		if v.Remedy != "" {
			fmt.Fprintf(w, "  remedy: %s\n", printable(v.Remedy))
		}
	}
	for _, l := range st.Links {
		say(l.Peer, l.Verdict)
	}
	for _, p := range st.Waiting {
		say(p.Peer, p.Verdict)
	}
}
