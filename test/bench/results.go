package main

import (
	"fmt"
	"math"
	"slices"
)

// A key names one figure, the same in each round: "raw.mbps".
type key string

// results are the figures of a run, by round. What was not measured in a round is
// absent there, and never zero.
type results struct {
	figures map[key]map[int]float64
	failed  []failure // in the order in which they happened
}

// A failure is a measurement that did not come about.
type failure struct {
	part  string
	round int // from 1
	err   error
}

func newResults() *results { return &results{figures: map[key]map[int]float64{}} }

// A recorder takes the figures of one round.
type recorder struct {
	r     *results
	round int
}

func (rec recorder) set(k key, v float64) {
	if rec.r.figures[k] == nil {
		rec.r.figures[k] = map[int]float64{}
	}
	rec.r.figures[k][rec.round] = v
}

// A spread is what several rounds found.
type spread struct {
	median, least, most float64
	rounds              int
}

// of is the spread of one figure; ok is false where no round has it.
func (r *results) of(k key) (spread, bool) {
	var values []float64
	for _, v := range r.figures[k] {
		values = append(values, v)
	}
	return spreadOf(values)
}

// ratio is the spread of a/b over the rounds that have both: what changes from
// round to round changes both.
func (r *results) ratio(a, b key) (spread, bool) {
	var values []float64
	for round, over := range r.figures[a] {
		if under, ok := r.figures[b][round]; ok && under != 0 {
			values = append(values, over/under)
		}
	}
	return spreadOf(values)
}

func spreadOf(values []float64) (spread, bool) {
	if len(values) == 0 {
		return spread{}, false
	}
	slices.Sort(values)
	mid := len(values) / 2
	median := values[mid]
	if len(values)%2 == 0 {
		median = (values[mid-1] + values[mid]) / 2
	}
	return spread{median: median, least: values[0], most: values[len(values)-1], rounds: len(values)}, true
}

// String is the median and the range, with the digits that the figure deserves.
func (s spread) String() string {
	if s.rounds == 1 {
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median), number(s.least), number(s.most))
}

// number writes three digits, and thousands in full.
func number(v float64) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Sprint(v)
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 4), v)
}
