package measure

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/p2pagent/p2pagent/internal/page"
	"github.com/p2pagent/p2pagent/internal/trace"
)

//go:embed report.html
var reportHTML string

// WriteHTML writes the report as one page that needs nothing else: no network,
// no script. What was not measured is said to be so. A report that JSON cannot
// hold is refused.
func (r *Report) WriteHTML(w io.Writer) error {
	if _, err := json.Marshal(r); err != nil { // not a number, or an infinite one
		return fmt.Errorf("report: %w", err)
	}
	t, err := page.Parse("report", reportHTML)
	if err != nil {
		return err
	}
	return t.Execute(w, r.sheet())
}

// A sheet is what report.html shows, in its order.
type sheet struct {
	Title    string
	Date     string
	Version  string
	Headline string
	Verdict  trace.Verdict
	Cards    []card

	Plots   []*chart // over time, the same in two widths
	Pair    []*chart // the others
	Figures table
	Relay   string // what it carried
	Crossed []crossing
	Ends    table
	Options table
	Rounds  table
}

// A card is a path at a glance.
type card struct {
	Kind   string
	Rate   string // "" where it was not measured
	Facts  []string
	Reason string // why not
}

// A crossing says what crossed the other path while one was measured.
type crossing struct {
	Text    string
	Alarm   bool // more than probes
	Classes table
}

// A table has a name before the cells of each row, if it has rows.
type table struct {
	Head []string
	Rows []row
}

type row struct {
	Name, Unit string
	Cells      []string
	Rest       string // in the place of all the cells that are left
	Span       int    // how many these are
}

func (t *table) add(name, unit string, cells ...string) {
	t.Rows = append(t.Rows, row{Name: name, Unit: unit, Cells: cells})
}

func (r *Report) sheet() *sheet {
	p := &sheet{
		Title: r.title(), Version: r.Version, Headline: r.headline(),
		Verdict: r.Verdict, Cards: r.cards(),
		Figures: r.figures(), Relay: r.relay(), Crossed: r.crossed(),
		Ends: r.ends(), Options: r.options(), Rounds: r.rounds(),
	}
	if !r.Time.IsZero() {
		p.Date = r.Time.UTC().Format("2 January 2006, 15:04 UTC")
	}
	for _, c := range []*chart{r.throughput("time-wide", "wide", wide), r.throughput("time-narrow", "narrow", narrow)} {
		if c != nil {
			p.Plots = append(p.Plots, c)
		}
	}
	for _, c := range []*chart{r.goodput(), r.latency()} {
		if c != nil {
			p.Pair = append(p.Pair, c)
		}
	}
	return p
}

// A measuredPath is a path with its figures and the rounds that they are of.
type measuredPath struct {
	kind string
	*Figures
	rounds []Round
}

// measured are the paths that have figures.
func (r *Report) measured() (paths []measuredPath) {
	for _, kind := range []string{Direct, Relayed} {
		if f := r.of(kind); f != nil {
			paths = append(paths, measuredPath{kind, f, r.roundsOf(kind)})
		}
	}
	return paths
}

func (r *Report) of(kind string) *Figures {
	if kind == Direct {
		return r.Direct
	}
	return r.Relayed
}

// roundsOf are the rounds of a path that have a result.
func (r *Report) roundsOf(kind string) (rounds []Round) {
	for _, round := range r.Rounds {
		if round.Path == kind && !round.failed() {
			rounds = append(rounds, round)
		}
	}
	return rounds
}

// failed reports whether a round has no result.
func (r Round) failed() bool { return r.Result == nil }

// asked are the paths that were to be measured, whether they were or not.
func (r *Report) asked() (kinds []string) {
	tried := map[string]bool{}
	for _, round := range r.Rounds {
		tried[round.Path] = true
	}
	for _, kind := range []string{Direct, Relayed} {
		if r.Options.Compare || r.of(kind) != nil || tried[kind] {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

func (r *Report) title() string {
	from, to := cmp.Or(r.Sender.Name, "this side"), cmp.Or(r.Peer, r.Receiver.Name, "its peer")
	if r.Options.Direction == "receive" {
		from, to = cmp.Or(r.Peer, r.Sender.Name, "the peer"), cmp.Or(r.Receiver.Name, "this side")
	}
	arrow := " \u2192 "
	if r.Options.Direction == "both" {
		arrow = " \u21c4 "
	}
	return from + arrow + to
}

// headline is the result in a sentence or two.
func (r *Report) headline() string {
	s := r.result()
	if r.Cut != "" {
		s += fmt.Sprintf(" It ended early, after %s: %s.", many(len(r.Rounds), "round"), strings.TrimSuffix(r.Cut, "."))
	}
	return s
}

func (r *Report) result() string {
	d, v := r.Direct, r.Relayed
	switch {
	case d == nil && v == nil:
		return "Nothing was measured."
	case d == nil || v == nil:
		kind := r.measured()[0].kind
		s := fmt.Sprintf("The %s path carries %s Mbit/s.", kind, number(r.of(kind).Goodput))
		for _, other := range r.asked() {
			if other != kind {
				if r.Cut != "" {
					s += fmt.Sprintf(" The %s path was not measured.", other)
				} else {
					s += fmt.Sprintf(" The %s path could not be measured.", other)
				}
			}
		}
		return s
	}
	s := r.Compared()
	if d.RTT50 != nil && v.RTT50 != nil {
		s += fmt.Sprintf(" A round trip takes %s ms direct, %s ms relayed.", number(*d.RTT50), number(*v.RTT50))
	}
	return s
}

// provingRounds is how many rounds of each path it takes for a difference of the two to
// be more than a chance.
const provingRounds = 3

// Compared says which of the two paths carries more, and by how much; "" where not both
// were measured. What differs less from path to path than from round to round is not
// said without that, and neither is what fewer than provingRounds tell.
func (r *Report) Compared() string {
	if r.Direct == nil || r.Relayed == nil {
		return ""
	}
	const alike = 1.05
	direct, relayed := r.Direct.Goodput, r.Relayed.Goodput
	more, less, ratio := "direct", "relayed", direct/relayed
	if relayed > direct {
		more, less, ratio = less, more, relayed/direct
	}
	switch {
	case direct == 0 && relayed == 0:
		return "Nothing came through either path."
	case direct == 0 || relayed == 0:
		return fmt.Sprintf("Nothing came through the %s path.", less)
	case min(len(r.roundsOf(Direct)), len(r.roundsOf(Relayed))) < provingRounds:
		if ratio < alike {
			return "The direct path carried about as much as the relayed one, in too few rounds to tell: measure longer to be sure."
		}
		return fmt.Sprintf("The %s path carried %s times as much as the %s one, in too few rounds to tell: measure longer to be sure.", more, number(ratio), less)
	case ratio < alike:
		return "The direct path carries about as much as the relayed one."
	case r.overlap():
		return fmt.Sprintf("In the median the %s path carried %s times as much as the %s one, but their rounds overlap: measure longer to be sure.", more, number(ratio), less)
	}
	return fmt.Sprintf("The %s path carries %s times as much as the %s one.", more, number(ratio), less)
}

// overlap reports whether a round of the slower path was as fast as one of the faster.
func (r *Report) overlap() bool {
	d, v := r.Direct.GoodputSpread, r.Relayed.GoodputSpread
	return d[0] <= v[1] && v[0] <= d[1]
}

func (r *Report) cards() (cards []card) {
	for _, kind := range r.asked() {
		f := r.of(kind)
		if f == nil {
			cards = append(cards, card{Kind: kind, Reason: r.whyNot(kind)})
			continue
		}
		loss := "packet loss"
		if r.Options.UDPMbps > 0 {
			loss = "datagram loss"
		}
		cards = append(cards, card{Kind: kind, Rate: number(f.Goodput), Facts: []string{
			r.spreadIn(kind),
			"round trip: " + unit(optional(f.RTT50), "ms"),
			"under load: " + unit(optional(f.LoadedRTT50), "ms"),
			loss + ": " + unit(percent(f.Loss), "%"),
		}})
	}
	return cards
}

func spreadOf(f *Figures) string {
	return number(f.GoodputSpread[0]) + " to " + number(f.GoodputSpread[1])
}

// spreadIn is the range of a path's rounds, if there is more than one.
func (r *Report) spreadIn(kind string) string {
	n := len(r.roundsOf(kind))
	if n == 1 {
		return many(n, "round")
	}
	return spreadOf(r.of(kind)) + " in " + many(n, "round")
}

// unit follows a figure, if there is one.
func unit(figure, unit string) string {
	if figure == unknown {
		return figure
	}
	return figure + space + unit
}

// whyNot is why a path has no figures.
func (r *Report) whyNot(kind string) string {
	return cmp.Or(r.Missing[kind], "no reason was recorded")
}

// relay tells what TURN costs: each byte comes in on one leg and goes out on
// the other.
func (r *Report) relay() string {
	f := r.Relayed
	switch {
	case f == nil:
		return ""
	case f.RelayBytesIn == nil || f.RelayBytesOut == nil:
		return fmt.Sprintf("%s of payload crossed the relay. What it counted on its legs: %s.", byteSize(f.PayloadBytes), unknown)
	}
	in, out := *f.RelayBytesIn, *f.RelayBytesOut
	s := fmt.Sprintf("%s of payload crossed the relay's two legs as %s: %s came in and %s went out",
		byteSize(f.PayloadBytes), byteSize(in+out), byteSize(in), byteSize(out))
	if times := per(float64(in+out), float64(f.PayloadBytes)); times != nil {
		s += fmt.Sprintf(", %s bytes for each byte of payload", number(*times))
	}
	return s + "."
}

// crossings adds up what crossed here and elsewhere while a path was measured.
func crossings(rounds []Round) (here, elsewhere Classes) {
	for _, round := range rounds {
		here, elsewhere = here.plus(round.Here), elsewhere.plus(round.Elsewhere)
	}
	return here, elsewhere
}

func (r *Report) crossed() (list []crossing) {
	for _, p := range r.measured() {
		here, e := crossings(p.rounds)
		c := crossing{Alarm: e.Payload+e.Fragments+e.Replays > 0}
		if c.Alarm {
			c.Text = fmt.Sprintf("While the %s path was measured, %s of payload crossed another path: the figures are not of the %[1]s path alone.",
				p.kind, byteSize(e.Payload+e.Fragments+e.Replays))
		} else {
			c.Text = fmt.Sprintf("While the %s path was measured, only probes crossed another path: %s, beside %s of payload on this one.",
				p.kind, byteSize(e.Probes), byteSize(here.Payload+here.Fragments+here.Replays))
		}
		c.Classes.Head = []string{p.kind + " path measured", "on it", "elsewhere"}
		c.Classes.add("payload", "", byteSize(here.Payload), byteSize(e.Payload))
		c.Classes.add("in fragments", "", byteSize(here.Fragments), byteSize(e.Fragments))
		c.Classes.add("again at a switch", "", byteSize(here.Replays), byteSize(e.Replays))
		c.Classes.add("probes", "", byteSize(here.Probes), byteSize(e.Probes))
		list = append(list, c)
	}
	return list
}

// figures are all of them, a column for each path.
func (r *Report) figures() (t table) {
	kinds := r.asked()
	t.Head = append([]string{"figure"}, kinds...)
	of := func(name, unit string, value func(*Figures) string) {
		cells := make([]string, len(kinds))
		for i, kind := range kinds {
			if cells[i] = unknown; r.of(kind) != nil {
				cells[i] = value(r.of(kind))
			}
		}
		t.add(name, unit, cells...)
	}
	jitter, loss := "jitter of idle round trips", "loss of QUIC packets"
	if r.Options.UDPMbps > 0 {
		jitter, loss = "jitter of datagrams", "loss of datagrams"
	}
	of("goodput, median", "Mbit/s", func(f *Figures) string { return number(f.Goodput) })
	of("goodput, range", "Mbit/s", spreadOf)
	if r.Options.Direction == "both" {
		of("of it sent by bench", "Mbit/s", func(f *Figures) string { return optional(f.Sent) })
		of("of it received by bench", "Mbit/s", func(f *Figures) string { return optional(f.Received) })
	}
	of("round trip, median", "ms", func(f *Figures) string { return optional(f.RTT50) })
	of("round trip, 99 of 100", "ms", func(f *Figures) string { return optional(f.RTT99) })
	of("under load, median", "ms", func(f *Figures) string { return optional(f.LoadedRTT50) })
	of("under load, 99 of 100", "ms", func(f *Figures) string { return optional(f.LoadedRTT99) })
	of(jitter, "ms", func(f *Figures) string { return optional(f.Jitter) })
	of(loss, "%", func(f *Figures) string { return percent(f.Loss) })
	of("longest datagram", "bytes", func(f *Figures) string {
		if f.MTU == nil {
			return unknown
		}
		return strconv.Itoa(*f.MTU)
	})
	of("CPU of bench", "s/GB", func(f *Figures) string { return optional(f.CPUPerGB) })
	of("dropped at sockets", "datagrams", func(f *Figures) string { return count(f.SocketDrops) })
	of("payload moved", "", func(f *Figures) string { return byteSize(f.PayloadBytes) })
	if r.Relayed != nil {
		relay := func(name string, value func(*Figures) *uint64) {
			of(name, "", func(f *Figures) string {
				if f != r.Relayed {
					return "\u2013" // has no relay
				}
				return optionalBytes(value(f))
			})
		}
		relay("into the relay", func(f *Figures) *uint64 { return f.RelayBytesIn })
		relay("out of the relay", func(f *Figures) *uint64 { return f.RelayBytesOut })
	}
	if len(kinds) == 0 {
		t.Rows = nil
	}
	return t
}

// ends are the two machines.
func (r *Report) ends() (t table) {
	t.Head = []string{"machine", "sender", "receiver"}
	if r.Options.Direction == "both" {
		t.Head = []string{"machine", "ran bench", "its peer"}
	}
	of := func(name, unit string, value func(*End) string) {
		t.add(name, unit, cmp.Or(value(&r.Sender), "not told"), cmp.Or(value(&r.Receiver), "not told"))
	}
	far := &r.Receiver
	if r.Options.Direction == "receive" {
		far = &r.Sender
	}
	of("name", "", func(e *End) string {
		if e == far && r.Peer != "" && e.Name != r.Peer {
			return strings.TrimPrefix(e.Name+", "+r.Peer+" to its peer", ", ")
		}
		return e.Name
	})
	of("version", "", func(e *End) string { return e.Version })
	of("system", "", func(e *End) string { return strings.Trim(e.Machine.OS+"/"+e.Machine.Arch, "/") })
	of("kernel", "", func(e *End) string { return e.Machine.Kernel })
	of("processor", "", func(e *End) string { return e.Machine.CPU })
	of("processors", "", func(e *End) string {
		if e.Machine.CPUs == 0 {
			return ""
		}
		return strconv.Itoa(e.Machine.CPUs)
	})
	for _, kind := range r.asked() {
		of("CPU, "+kind, "s/GB", func(e *End) string {
			if kind == Direct {
				return optional(e.CPUDirect)
			}
			return optional(e.CPURelayed)
		})
	}
	of("memory at the end", "", func(e *End) string { return optionalBytes(e.RSSBytes) })
	of("dropped at its socket", "datagrams", func(e *End) string { return count(e.SocketDrops) })
	of("kernel cuts sends (GSO)", "", func(e *End) string { return yesNo(e.GSO) })
	of("kernel joins reads (GRO)", "", func(e *End) string { return yesNo(e.GRO) })
	return t
}

// options are what was asked for.
func (r *Report) options() (t table) {
	o := r.Options
	t.Head = []string{"option", "value"}
	paths := "the one in use, or asked for"
	if o.Compare {
		paths = "direct and relayed, in turn"
	}
	load := many(o.Streams, "stream")
	if o.UDPMbps > 0 {
		load = "datagrams, " + number(o.UDPMbps) + " Mbit/s"
	}
	t.add("peer", "", cmp.Or(r.Peer, "not told"))
	t.add("paths", "", paths)
	t.add("direction", "", cmp.Or(o.Direction, "not told"))
	t.add("load", "", load)
	t.add("rounds of each path", "", strconv.Itoa(o.Rounds))
	t.add("one round", "s", number(o.Seconds))
	t.add("of it not counted", "s", number(o.Skip))
	return t
}

// rounds are all of them, in the order in which they ran.
func (r *Report) rounds() (t table) {
	t.Head = []string{"round", "from", "Mbit/s", "payload", "idle ms", "loaded ms", "loss %"}
	for i, round := range r.Rounds {
		name := fmt.Sprintf("%d, %s", i+1, round.Path)
		if round.failed() {
			t.Rows = append(t.Rows, row{
				Name: name, Cells: []string{number(round.Start) + " s"},
				Rest: "no result: " + round.Error, Span: len(t.Head) - 2,
			})
			continue
		}
		t.add(name, "", number(round.Start)+" s", number(round.Goodput), byteSize(round.Bytes),
			optional(median(round.RTTs)), optional(median(round.LoadedRTTs)), percent(round.Loss))
	}
	return t
}
