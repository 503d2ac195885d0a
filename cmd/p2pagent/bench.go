package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/spf13/cobra"
)

const (
	benchRound      = 2.0 // seconds
	benchSkip       = 0.5 // of each round: the start is not the steady state
	minComparisons  = 5   // rounds of each path
	maxBenchSeconds = 3600.0
	minDatagramRate = 1000.0 // bits a second
)

// benchOptions are the flags of bench.
type benchOptions struct {
	compare, reverse, both bool
	seconds                float64
	streams                int
	udp, report            string
}

func benchCommand() *cobra.Command { return benchCommandOf(new(common), new(benchOptions)) }

// benchCommandOf is the command with its flags in c and o.
func benchCommandOf(c *common, o *benchOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench PEER",
		Short: "Measure the link with a peer: throughput, latency, loss, and their cost",
		Long: `Measure the link with a peer in rounds of two seconds: goodput of streams (or, with
--udp, loss and jitter of datagrams at a rate), round trips idle and under load, and
the processor time that they take.

--compare measures the relayed and the direct path in turn, with the same payload, so
that what changes meanwhile hits both. Where one of them cannot be had, the other is
measured, the verdict says why, and the exit code is 3.`,
		Args:              onePeer,
		ValidArgsFunction: first(peerNames),
	}
	c.add(cmd)
	c.name = hostname()
	f := cmd.Flags()
	f.BoolVar(&o.compare, "compare", false, "measure the relayed and the direct path, in turn")
	f.Float64VarP(&o.seconds, "time", "t", 10, "seconds for each path; with --compare 10 at least")
	f.IntVarP(&o.streams, "parallel", "P", 1, "streams at once")
	f.BoolVar(&o.reverse, "reverse", false, "the peer sends")
	f.BoolVar(&o.both, "both", false, "both sides send")
	f.StringVar(&o.udp, "udp", "", "datagrams at a rate, 50M or 1.5G bits a second, in place of streams")
	f.StringVar(&o.report, "report", "", "write a report with plots to this HTML file")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		plan, err := o.plan(c)
		if err != nil {
			return err
		}
		emitJSON := c.json
		c.json = false // one object at the end, and no events
		s, err := c.prepare(cmd)
		if err != nil {
			return err
		}
		defer s.finish(&err)
		s.tell.mute = heldThere
		var file *reportFile
		if o.report != "" { // before the measurement, not after it
			if file, err = openReport(o.report); err != nil {
				return err
			}
			defer file.discard()
		}
		progress := newBenchProgress(cmd.ErrOrStderr(), s.tell)
		plan.Progress = progress.show
		plan.Wait = c.timeout
		if plan.Wait == 0 {
			plan.Wait = defaultTimeout
		}
		var report *measure.Report
		err = withConnector(cmd.Context(), c, s, args[0], func(ctx context.Context, conn *agent.Connector) error {
			var err error
			report, err = conn.Measure(ctx, plan)
			progress.clear()
			return err
		})
		if report == nil {
			return err
		}
		if emitJSON {
			err = errors.Join(err, json.NewEncoder(cmd.OutOrStdout()).Encode(report))
		} else {
			printReport(cmd.OutOrStdout(), report)
		}
		if file != nil {
			err = errors.Join(err, file.write(report.WriteHTML))
		}
		return err
	}
	return cmd
}

// plan checks the flags and makes the plan of them.
func (o *benchOptions) plan(c *common) (measure.Plan, error) {
	p := measure.Plan{Options: measure.Options{
		Compare: o.compare, Seconds: benchRound, Skip: benchSkip, Streams: o.streams, Direction: "send",
	}}
	refuse := func(format string, args ...any) (measure.Plan, error) {
		return measure.Plan{}, usageError{fmt.Errorf(format, args...)}
	}
	switch {
	case !(o.seconds >= 1 && o.seconds <= maxBenchSeconds):
		return refuse("-t %v: 1 to %v seconds", o.seconds, maxBenchSeconds)
	case o.streams < 1 || o.streams > measure.MaxStreams:
		return refuse("-P %d: 1 to %d streams", o.streams, measure.MaxStreams)
	case o.reverse && o.both:
		return refuse("--reverse and --both exclude each other")
	case o.compare && c.require == "direct":
		return refuse("--compare sends payload over the relay, and --require direct forbids it")
	case o.compare && c.relayOnly:
		return refuse("--compare needs a direct path, and --relay-only forbids it")
	case o.udp != "" && o.streams != 1:
		return refuse("-P is for streams, and --udp sends datagrams")
	}
	if o.udp != "" {
		bits, err := cli.ParseRate(o.udp)
		if err != nil {
			return refuse("--udp %q: %w", o.udp, err)
		}
		if p.UDPMbps = bits / 1e6; bits < minDatagramRate || p.UDPMbps > measure.MaxMbps {
			return refuse("--udp %q: from 1k to %vM", o.udp, measure.MaxMbps)
		}
	}
	switch {
	case o.reverse:
		p.Direction = "receive"
	case o.both:
		p.Direction = "both"
	}
	if !o.compare && o.seconds < benchRound {
		p.Seconds, p.Skip = o.seconds, o.seconds/4
	}
	p.Rounds = int(math.Ceil(o.seconds / p.Seconds))
	if o.compare {
		p.Rounds = max(p.Rounds, minComparisons)
	}
	return p, nil
}

// heldThere are the changes of path that a measurement makes itself.
func heldThere(r trace.Record) bool {
	e, ok := r.Event.(trace.PathChanged)
	return ok && e.Why == path.WhyHeld
}

// benchProgress is the line that a measurement keeps on a terminal, or one line
// a second where there is none.
type benchProgress struct {
	w    io.Writer
	tell *teller
	live bool
}

func newBenchProgress(w io.Writer, t *teller) *benchProgress {
	return &benchProgress{w: w, tell: t, live: isTerminal(w)}
}

func (b *benchProgress) show(p measure.Progress) {
	text := fmt.Sprintf("round %d of %d  %-7s  %s  %s left", p.Round, p.Rounds, p.Path, units.Rate(p.Mbps), units.Duration(p.Remaining))
	if b.live {
		b.tell.keep(text)
		return
	}
	fmt.Fprintln(b.w, text)
}

// clear takes the line off the terminal.
func (b *benchProgress) clear() {
	if b.live {
		b.tell.keep("")
	}
}
