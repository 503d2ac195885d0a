package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/udpsock"
	"github.com/p2pagent/p2pagent/internal/units"
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
		tell, err := newTeller(cmd.ErrOrStderr(), c.verbose, c.color)
		if err != nil {
			return err
		}
		sinks := []trace.Sink{tell}
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
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("nothing is measured within %s: --timeout", units.Duration(timeout)))
		defer cancel()
		if len(c.stun) == 0 {
			c.warnOfPlaintext(cmd.ErrOrStderr())
		}
		servers, err := c.stunServers(ctx, cmd.ErrOrStderr(), rec)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "asking %s, which takes up to 4 s\n", list(servers))
		nat, err := probe(ctx, servers, c.udpPort)
		if err != nil {
			return err
		}
		rec.Emit(nat.Event())
		if c.json {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(nat)
		} else {
			err = printNAT(cmd.OutOrStdout(), nat)
		}
		if err == nil && nat.Unanswered() {
			err = unanswered{nat.Silent, len(c.stun) == 0}
		}
		return err
	}
	return cmd
}

// maxSTUN bounds the addresses that are asked, whatever DNS says.
const maxSTUN = 8

// stunServers are those of the command line, or those of the signaling server.
func (c *common) stunServers(ctx context.Context, stderr io.Writer, rec *trace.Recorder) ([]netip.AddrPort, error) {
	uris, err := parseURIs("--stun", c.stun, "stun")
	if err != nil {
		return nil, err
	}
	if len(uris) == 0 {
		if c.signal == "" {
			return nil, usageError{errors.New("no STUN server; give --stun stun:HOST, or --signal URL")}
		}
		address, _, err := signaling.ParseURL(c.signal)
		if err != nil {
			return nil, usageError{err}
		}
		fmt.Fprintf(stderr, "asking %s for its STUN servers\n", address)
		texts, err := askSTUN(ctx, c.signal, rec)
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

// askSTUN asks a signaling server for its STUN servers. rec has why it does not answer.
func askSTUN(ctx context.Context, url string, rec *trace.Recorder) ([]string, error) {
	client, err := signaling.NewClient(signaling.ClientConfig{URL: url, Software: "p2pagent/" + version(), Trace: rec})
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
			if ctx.Err() == nil {
				return nil, agent.SignalingError(err)
			}
		case <-ctx.Done():
		}
		switch { // its end may be seen before that of ctx, and is the same
		case ctx.Err() == nil:
		case errors.Is(context.Cause(ctx), context.Canceled):
			return nil, context.Canceled // interrupted
		default:
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

// unanswered is the end of a measurement in which no server has answered, and all
// have one address. It says nothing of the NAT.
type unanswered struct {
	servers  []netip.AddrPort
	signaled bool // signaling names them, and itself answers
}

func (e unanswered) Error() string {
	return fmt.Sprintf("no answer from %s: down, or no UDP passes between here and there", list(e.servers))
}

// Hint returns what would tell which of the two.
func (e unanswered) Hint() string {
	if e.signaled {
		return "open UDP 3478 and 3479 at the server, or allow outgoing UDP here; a server at another address tells which: --stun stun:HOST"
	}
	return "give a server at another address too: --stun stun:HOST; when both are silent, it is this network"
}

func printNAT(w io.Writer, n candidates.NAT) error {
	why := "" // something was not measured
	if n.OneAddress {
		why = ": the server has one address"
	}
	noNAT := ""
	if n.Translated != nil && !*n.Translated {
		noNAT = ": there is none"
	}
	lines := [][2]string{
		{"NAT", natName(n)},
		{"UDP", yesNo(n.UDP, "")},
		{"mapping", measured(string(n.Mapping), why)},
		{"filtering", measured(string(n.Filtering), why)},
		{"hairpinning", yesNo(n.Hairpin, noNAT)},
		{"allocation", allocation(n.Allocation, noNAT)},
	}
	for _, m := range n.Mapped {
		lines = append(lines, [2]string{"mapped to", m.String()})
	}
	for _, s := range n.Silent {
		lines = append(lines, [2]string{"no answer", s.String()})
	}
	var text strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&text, "%-12s %s\n", l[0], l[1])
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// natName is the name of a NAT, and how it is known that there is none.
func natName(n candidates.NAT) string {
	name := n.Name()
	switch {
	case n.Translated != nil && !*n.Translated:
		if name == "" {
			name = "none"
		}
		return fmt.Sprintf("%s: %s is this machine's own", name, n.Mapped[0].Addr())
	case name == "":
		return "not known well enough for a name"
	}
	return name
}

func allocation(a candidates.Allocation, why string) string {
	switch {
	case a.Pattern == nil:
		return measured("", why)
	case a.Step != nil:
		return fmt.Sprintf("%s, step %d", *a.Pattern, *a.Step)
	}
	return string(*a.Pattern)
}

// measured is a word, or that there is none, and why.
func measured(s, why string) string {
	if s == "" {
		return "not measured" + why
	}
	return s
}

func yesNo(b *bool, why string) string {
	switch {
	case b == nil:
		return measured("", why)
	case *b:
		return "yes"
	}
	return "no"
}
