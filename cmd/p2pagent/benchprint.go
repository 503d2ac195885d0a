package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/units"
)

// printReport writes what was measured for people: a column for each path, and
// what follows from both.
func printReport(w io.Writer, r *measure.Report) {
	fmt.Fprintf(w, "%s %s, rounds of %s, the first %s of each left out\n", sentence(r.Options), printable(r.Peer),
		units.Millis(1000*r.Options.Seconds), units.Millis(1000*r.Options.Skip))
	var paths []*measure.Figures
	names, rounds := []string{""}, []string{"rounds"}
	for _, p := range []struct {
		name string
		f    *measure.Figures
	}{{measure.Direct, r.Direct}, {measure.Relayed, r.Relayed}} {
		if p.f != nil {
			paths, names = append(paths, p.f), append(names, p.name)
			rounds = append(rounds, fmt.Sprint(resultsOf(r, p.name)))
		}
	}
	if len(paths) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, strings.Join(names, "\t"))
		fmt.Fprintln(t, strings.Join(rounds, "\t"))
		for _, line := range benchLines {
			cells := []string{line.name}
			for _, f := range paths {
				cells = append(cells, line.value(f))
			}
			if !slices.ContainsFunc(cells[1:], func(s string) bool { return s != "" }) {
				continue
			}
			fmt.Fprintln(t, strings.Join(cells, "\t"))
		}
		t.Flush()
	}
	if text := r.Compared(); text != "" {
		fmt.Fprintln(w, text)
	}
	printElsewhere(w, r)
	for _, kind := range slices.Sorted(maps.Keys(r.Missing)) {
		fmt.Fprintf(w, "%s path: %s\n", kind, printable(r.Missing[kind]))
	}
	for _, round := range r.Rounds {
		if round.Error != "" {
			fmt.Fprintf(w, "a %s round failed: %s\n", round.Path, printable(round.Error))
		}
	}
	if r.Cut != "" {
		fmt.Fprintf(w, "it ended early: %s\n", printable(r.Cut))
	}
	if r.Verdict.Text != "" {
		fmt.Fprintln(w, printable(r.Verdict.Text))
	}
	if r.Verdict.Remedy != "" {
		fmt.Fprintf(w, "  try: %s\n", printable(r.Verdict.Remedy))
	}
}

func sentence(o measure.Options) string {
	what := "one stream"
	if o.Streams > 1 {
		what = fmt.Sprintf("%d streams", o.Streams)
	}
	if o.UDPMbps > 0 {
		what = "datagrams at " + units.Rate(o.UDPMbps)
	}
	return what + map[string]string{"send": " to", "receive": " from", "both": " each way with"}[o.Direction]
}

var benchLines = []struct {
	name  string
	value func(*measure.Figures) string
}{
	{"goodput, median", func(f *measure.Figures) string { return units.Rate(f.Goodput) }},
	{"  of the rounds", func(f *measure.Figures) string {
		return units.Rate(f.GoodputSpread[0]) + " to " + units.Rate(f.GoodputSpread[1])
	}},
	{"  sent / received", func(f *measure.Figures) string {
		if f.Sent == nil || f.Received == nil {
			return "" // one direction
		}
		return units.Rate(*f.Sent) + " / " + units.Rate(*f.Received)
	}},
	{"rtt idle, p50 / p99", func(f *measure.Figures) string { return millisPair(f.RTT50, f.RTT99) }},
	{"rtt loaded, p50 / p99", func(f *measure.Figures) string { return millisPair(f.LoadedRTT50, f.LoadedRTT99) }},
	{"jitter", func(f *measure.Figures) string { return known(f.Jitter, units.Millis) }},
	{"loss", func(f *measure.Figures) string {
		return known(f.Loss, func(v float64) string { return fmt.Sprintf("%.3g %%", v*100) })
	}},
	{"largest datagram", func(f *measure.Figures) string {
		return known(f.MTU, func(n int) string { return fmt.Sprint(n, " bytes") })
	}},
	{"CPU here, per GB", func(f *measure.Figures) string {
		return known(f.CPUPerGB, func(v float64) string { return units.Millis(1000 * v) })
	}},
	{"socket drops", func(f *measure.Figures) string {
		return known(f.SocketDrops, func(n uint64) string { return fmt.Sprint(n) })
	}},
	{"payload", func(f *measure.Figures) string { return units.Bytes(f.PayloadBytes) }},
	{"relay, in + out", func(f *measure.Figures) string {
		if f.RelayBytesIn == nil || f.RelayBytesOut == nil || f.PayloadBytes == 0 {
			return "-"
		}
		sum := *f.RelayBytesIn + *f.RelayBytesOut
		return fmt.Sprintf("%s + %s, %.2f times the payload", units.Bytes(*f.RelayBytesIn), units.Bytes(*f.RelayBytesOut), float64(sum)/float64(f.PayloadBytes))
	}},
}

// resultsOf is how many rounds the figures of a path are of.
func resultsOf(r *measure.Report, kind string) (n int) {
	for _, round := range r.Rounds {
		if round.Path == kind && round.Result != nil {
			n++
		}
	}
	return n
}

// printElsewhere tells what crossed the path that was not being measured.
func printElsewhere(w io.Writer, r *measure.Report) {
	if !r.Options.Compare || r.Direct == nil || r.Relayed == nil {
		return
	}
	var sum measure.Classes
	for _, round := range r.Rounds {
		if round.Result == nil { // which was found out, and is in no figure
			continue
		}
		e := round.Elsewhere
		sum.Payload, sum.Fragments, sum.Replays, sum.Probes = sum.Payload+e.Payload, sum.Fragments+e.Fragments, sum.Replays+e.Replays, sum.Probes+e.Probes
	}
	if other := sum.Payload + sum.Fragments + sum.Replays; other > 0 {
		fmt.Fprintf(w, "the path that was not measured carried %s of payload meanwhile, which spoils the comparison\n", units.Bytes(other))
		return
	}
	fmt.Fprintf(w, "only probes crossed the path that was not measured: %s\n", units.Bytes(sum.Probes))
}

func known[T any](v *T, text func(T) string) string {
	if v == nil {
		return "not known"
	}
	return text(*v)
}

func millisPair(a, b *float64) string {
	if a == nil || b == nil {
		return "not known"
	}
	return units.Millis(*a) + " / " + units.Millis(*b)
}
