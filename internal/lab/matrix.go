package lab

import (
	"fmt"
	"slices"
	"strings"
)

// Pairs lists what the matrix measures: every kind with every kind, then each kind
// as one NAT for both peers.
func Pairs() []Topology {
	var out []Topology
	for _, a := range Kinds() {
		for _, b := range Kinds() {
			out = append(out, Topology{A: a, B: b})
		}
	}
	for _, k := range Kinds() {
		out = append(out, Topology{A: k, SameNAT: true})
	}
	return out
}

// Cell is what the matrix found of one pair.
type Cell struct {
	Result
	Expected Path `json:"expected"`
	// Error says why the run has no result; the rest then is empty.
	Error string `json:"error,omitempty"`
}

// OK reports whether the run found what it had to.
func (c Cell) OK() bool { return c.Error == "" && c.Path == c.Expected }

// Matrix is the results of all pairs, every run of each.
type Matrix []Cell

// Err names the cells that are not as expected.
func (m Matrix) Err() error {
	var wrong []string
	for _, c := range m {
		if c.OK() {
			continue
		}
		found := string(c.Path)
		if c.Error != "" {
			found = c.Error
		}
		wrong = append(wrong, fmt.Sprintf("%s: %s, expected %s", pairName(c.A, c.B, c.SameNAT), found, c.Expected))
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("%d of %d runs are not as expected:\n  %s", len(wrong), len(m), strings.Join(wrong, "\n  "))
}

// runs returns the runs of one pair.
func (m Matrix) runs(a, b string, sameNAT bool) Matrix {
	return slices.DeleteFunc(slices.Clone(m), func(c Cell) bool { return c.A != a || c.SameNAT != sameNAT || !sameNAT && c.B != b })
}

// String is the matrix as a table: A down, B across, D with the median time to the
// direct path in milliseconds, R for relayed, an exclamation mark where that is not
// what had to be found.
func (m Matrix) String() string {
	names := []string{}
	for _, k := range Kinds() {
		names = append(names, k.Name)
	}
	rows := [][]string{append(append([]string{`A \ B`}, names...), "same NAT")}
	for _, a := range names {
		row := []string{a}
		for _, b := range names {
			row = append(row, m.runs(a, b, false).summary())
		}
		rows = append(rows, append(row, m.runs(a, a, true).summary()))
	}
	return alignColumns(rows) + "\nD 120: direct, median of ms from the start to the direct path; R: relayed; !: not as expected\n"
}

// summary is the content of one field of the table.
func (m Matrix) summary() string {
	if len(m) == 0 {
		return "·"
	}
	var words []string
	var times []int64
	for _, c := range m {
		words = append(words, c.letter())
		if c.DirectMS != nil {
			times = append(times, *c.DirectMS)
		}
	}
	s := strings.Join(slices.Compact(slices.Sorted(slices.Values(words))), "/")
	if len(times) > 0 {
		s += fmt.Sprintf(" %d", median(times))
	}
	if slices.ContainsFunc(m, func(c Cell) bool { return !c.OK() }) {
		s += " !"
	}
	return s
}

func (c Cell) letter() string {
	switch {
	case c.Error != "":
		return "error"
	case c.Path == Direct:
		return "D"
	case c.Path == Relayed:
		return "R"
	}
	return string(c.Path)
}

// median of an even number is the higher of the two in the middle.
func median(v []int64) int64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func alignColumns(rows [][]string) string {
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, field := range row {
			width := 0
			for _, r := range rows {
				width = max(width, len([]rune(r[i])))
			}
			line += field + strings.Repeat(" ", width-len([]rune(field))+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
