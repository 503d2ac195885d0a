package measure

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// The plots draw in the size of their text: the page shows them at about 1:1.
const (
	narrow = 340
	wide   = 920

	foot = 40 // for what is written below the lower axis
)

// throughput draws what arrived in each tenth of a second, round after round.
func (r *Report) throughput(id, shape string, width int) *chart {
	if len(r.measured()) == 0 {
		return nil
	}
	const failed = "\u00d7"
	c := &chart{ID: id, Shape: shape, W: width, H: 270, Title: "Throughput over time"}
	c.Desc = r.inWords(func(f *Figures) string { return "median " + number(f.Goodput) + " Mbit/s" })
	c.Note = "Each tenth of a second. The dotted lines are the medians of what counts."
	if slices.ContainsFunc(r.Rounds, Round.failed) {
		c.Note += " " + failed + " is a round without a result."
	}
	columns := 1
	if width == wide {
		columns = 3
	}
	top := c.legend(columns, r.throughputKeys()) + 30
	bottom := float64(c.H) - foot
	most, first, last := r.extent()
	x := scale{min: first, max: last, from: 42, to: float64(width) - 8}
	y := fromZero(most, bottom, top)
	c.grid(x, y, max(5, width/90), 5, "Mbit/s", "seconds since the start")

	for _, round := range r.Rounds {
		if round.failed() {
			c.text("middle failed "+kindClass(round.Path), max(x.at(round.Start), x.from), bottom-4, failed)
			continue
		}
		c.round(round, r.Options.Skip, x, y)
	}
	for _, p := range r.measured() {
		level := y.at(p.Goodput)
		c.rule("median "+p.kind, x.from, level, x.to, level)
	}
	return c
}

// extent is how far the rounds reach: their highest rate, and from when to when.
func (r *Report) extent() (most, first, last float64) {
	first = math.Inf(1)
	for _, round := range r.Rounds {
		first, last = min(first, round.Start), max(last, round.Start)
		if round.failed() {
			continue
		}
		most = max(most, slices.Max(round.Intervals))
		last = max(last, round.Start+float64(len(round.Intervals))*interval.Seconds())
	}
	if first < last/4 { // else waiting for a path is no part of the picture
		first = 0
	}
	return most, first, last
}

func (r *Report) throughputKeys() (keys []key) {
	for _, p := range r.measured() {
		keys = append(keys, key{"data " + p.kind, p.kind + ", median " + number(p.Goodput) + " Mbit/s"})
	}
	if r.Options.Skip > 0 {
		keys = append(keys, key{"data skipped", "start of a round, not counted"})
	}
	return keys
}

// round draws one round in steps, its start muted.
func (c *chart) round(r Round, skip float64, x, y scale) {
	start, counted := new(pen), new(pen)
	skipped := int(skip/interval.Seconds() + 0.5)
	for i, v := range r.Intervals {
		left := x.at(r.Start + float64(i)*interval.Seconds())
		right := x.at(r.Start + float64(i+1)*interval.Seconds())
		level := y.at(v)
		p := counted
		if i < skipped {
			p = start
		}
		if p.b.Len() == 0 {
			p.move(left, level)
		} else {
			p.to(left, level)
		}
		p.to(right, level)
		if i == skipped-1 && i+1 < len(r.Intervals) { // they meet
			p.to(right, y.at(r.Intervals[i+1]))
		}
	}
	c.line("data skipped "+kindClass(r.Path), start)
	c.line("data "+kindClass(r.Path), counted)
}

// latency draws which part of the round trips took how long at most.
func (r *Report) latency() *chart {
	type series struct {
		class, name string
		ms          []float64
	}
	var all []series
	for _, p := range r.measured() {
		all = append(all, series{"data " + p.kind, p.kind + ", idle", p.rtts(func(r Round) []float64 { return r.RTTs })},
			series{"data loaded " + p.kind, p.kind + ", under load", p.rtts(func(r Round) []float64 { return r.LoadedRTTs })})
	}
	all = slices.DeleteFunc(all, func(s series) bool { return len(s.ms) == 0 })
	if len(all) == 0 {
		return nil
	}
	c := &chart{ID: "latency", W: narrow, H: 280, Title: "Round trips"}
	c.Desc = r.inWords(func(f *Figures) string {
		return fmt.Sprintf("median %s ms idle, %s ms under load", optional(f.RTT50), optional(f.LoadedRTT50))
	})
	c.Note = "How many of the round trips took no longer."
	var keys []key
	low, high := all[0].ms[0], 0.0
	for _, s := range all {
		keys = append(keys, key{s.class, s.name})
		low, high = min(low, s.ms[0]), max(high, s.ms[len(s.ms)-1])
	}
	top := c.legend(2, keys) + 30
	bottom := float64(c.H) - foot
	x := fromZero(high, 42, narrow-12)
	unit := "ms"
	if low > 0 && high > 10*low {
		x.min, x.max, x.log, unit = low, high, true, "ms, logarithmic"
	}
	y := scale{max: 100, from: bottom, to: top}
	c.grid(x, y, 6, 2, "% of round trips", unit)
	for _, s := range all {
		p := new(pen)
		p.move(x.at(s.ms[0]), bottom)
		for _, i := range spread(len(s.ms), 250) {
			p.to(x.at(s.ms[i]), y.at(float64(i+1)/float64(len(s.ms))*100))
		}
		c.line(s.class, p)
	}
	return c
}

// goodput draws each path's median as a bar, its rounds as dots, their range
// as whiskers.
func (r *Report) goodput() *chart {
	paths := r.measured()
	if len(paths) == 0 {
		return nil
	}
	const row, thick = 100, 40.0
	c := &chart{ID: "goodput", W: narrow, H: len(paths)*row + foot, Title: "Goodput"}
	c.Note = "Bars are medians, whiskers the range, dots the rounds."
	c.Desc = r.inWords(func(f *Figures) string {
		return fmt.Sprintf("median %s Mbit/s, %s to %s", number(f.Goodput), number(f.GoodputSpread[0]), number(f.GoodputSpread[1]))
	})
	var most float64
	for _, p := range paths {
		most = max(most, p.Goodput, p.GoodputSpread[1])
	}
	x := fromZero(most, 6, narrow-2)
	bottom := float64(len(paths) * row)
	for _, v := range x.ticks(5) {
		c.gridline(x.at(v), 0, x.at(v), bottom+4)
		c.tick(x.at(v), bottom+18, v)
	}
	c.text("tick end", narrow-2, bottom+36, "Mbit/s")
	for i, p := range paths {
		y := float64(i*row) + 26
		c.text("start name", 6, y-7, p.kind)
		c.text("end value", narrow-2, y-7, number(p.Goodput)+" Mbit/s")
		c.box("bar "+p.kind, x.from, y, max(1, x.at(p.Goodput)-x.from), thick)
		c.whisker(x.at(p.GoodputSpread[0]), x.at(p.GoodputSpread[1]), y+thick/2)
		for _, round := range p.rounds {
			c.dot("round "+p.kind, x.at(round.Goodput), y+thick+9)
		}
	}
	return c
}

func (c *chart) whisker(from, to, y float64) {
	if to-from < 1 {
		return // a single round has no range
	}
	c.rule("whisker", from, y, to, y)
	c.rule("whisker", from, y-6, from, y+6)
	c.rule("whisker", to, y-6, to, y+6)
}

// grid draws the axes with few lines: across only.
func (c *chart) grid(x, y scale, columns, rows int, above, below string) {
	for _, v := range y.ticks(rows) {
		c.gridline(x.from, y.at(v), x.to, y.at(v))
		c.text("tick end", x.from-6, y.at(v)+4, axis(v))
	}
	c.text("tick start", 0, y.to-12, above)
	for _, v := range x.ticks(columns) {
		c.gridline(x.at(v), y.from, x.at(v), y.from+4)
		c.tick(x.at(v), y.from+17, v)
	}
	c.text("tick end", x.to, y.from+32, below)
}

// tick names a value below an axis, within the picture.
func (c *chart) tick(x, y, v float64) {
	const half = 18 // of the longest name
	switch right := float64(c.W); {
	case x < half:
		c.text("tick start", x, y, axis(v))
	case x > right-half:
		c.text("tick end", right, y, axis(v))
	default:
		c.text("tick middle", x, y, axis(v))
	}
}

// rtts are the round trips of all of a path's rounds, the shortest first.
func (p *measuredPath) rtts(of func(Round) []float64) (ms []float64) {
	for _, round := range p.rounds {
		ms = append(ms, of(round)...)
	}
	slices.Sort(ms)
	return ms
}

// inWords says something about each path that was measured.
func (r *Report) inWords(say func(*Figures) string) string {
	var b strings.Builder
	for _, p := range r.measured() {
		fmt.Fprintf(&b, "%s: %s, %s. ", p.kind, say(p.Figures), many(len(p.rounds), "round"))
	}
	return strings.TrimSpace(b.String())
}

// spread are about most of n indices, evenly, the last one included.
func spread(n, most int) (list []int) {
	step := max(1, n/most)
	for i := 0; i < n-1; i += step {
		list = append(list, i)
	}
	return append(list, n-1)
}

// kindClass is the class of a path's colour.
func kindClass(kind string) string {
	if kind == Direct {
		return Direct
	}
	return Relayed
}
