package measure

import (
	"math"
	"strconv"
	"strings"
)

// A chart is a picture as report.html draws it: its grid, then boxes, lines,
// dots and texts, in a space of W by H. How they look is said by their class, in
// the page's style sheet, once for light and once for dark.
type chart struct {
	ID    string
	Shape string // class: where the page shows it
	Title string
	Desc  string // the same in words
	Note  string // how to read it
	W, H  int

	Grid  []stroke
	Boxes []box
	Lines []stroke
	Dots  []dot
	Texts []text
}

type box struct {
	Class      string
	X, Y, W, H string
}

type stroke struct{ Class, D string }

type dot struct{ Class, X, Y string }

type text struct {
	Class string // "start", "middle" and "end" say which part of it is at X
	X, Y  string
	Text  string
}

// px writes a coordinate.
func px(v float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
}

func (c *chart) box(class string, x, y, w, h float64) {
	c.Boxes = append(c.Boxes, box{class, px(x), px(y), px(max(0, w)), px(h)})
}

func (c *chart) line(class string, p *pen) {
	if p.b.Len() > 0 {
		c.Lines = append(c.Lines, stroke{class, p.b.String()})
	}
}

// rule draws a straight line.
func (c *chart) rule(class string, x1, y1, x2, y2 float64) {
	c.Lines = append(c.Lines, straight(class, x1, y1, x2, y2))
}

// gridline draws a straight line behind all others.
func (c *chart) gridline(x1, y1, x2, y2 float64) {
	c.Grid = append(c.Grid, straight("grid", x1, y1, x2, y2))
}

func straight(class string, x1, y1, x2, y2 float64) stroke {
	p := new(pen)
	p.move(x1, y1)
	p.to(x2, y2)
	return stroke{class, p.b.String()}
}

func (c *chart) dot(class string, x, y float64) {
	c.Dots = append(c.Dots, dot{class, px(x), px(y)})
}

func (c *chart) text(class string, x, y float64, s string) {
	c.Texts = append(c.Texts, text{class, px(x), px(y), s})
}

// A pen writes the d of a path.
type pen struct{ b strings.Builder }

func (p *pen) move(x, y float64) { p.b.WriteString("M" + px(x) + " " + px(y)) }
func (p *pen) to(x, y float64)   { p.b.WriteString("L" + px(x) + " " + px(y)) }

// A key is one entry of a legend.
type key struct {
	class string // of its line
	text  string
}

const (
	keyHeight = 17
	keyLine   = 22
)

// legend writes keys from the top, in columns, and returns where it ends.
func (c *chart) legend(columns int, keys []key) float64 {
	rows := (len(keys) + columns - 1) / columns
	for i, k := range keys {
		x := float64(i%columns) * float64(c.W) / float64(columns)
		y := float64(i/columns)*keyHeight + keyHeight/2
		c.rule(k.class, x+1, y, x+keyLine, y)
		c.text("start", x+keyLine+6, y+4, k.text)
	}
	return float64(rows * keyHeight)
}

// A scale maps values to coordinates, evenly or by their logarithm.
type scale struct {
	min, max float64
	from, to float64
	log      bool
}

func (s scale) at(v float64) float64 {
	low, high := s.min, s.max
	if s.log {
		v, low, high = math.Log(max(v, s.min)), math.Log(low), math.Log(high)
	}
	if high <= low {
		return s.from
	}
	return s.from + (v-low)/(high-low)*(s.to-s.from)
}

// ticks are round values on the scale, about most of them at most.
func (s scale) ticks(most int) (list []float64) {
	if s.log {
		return s.decades(most)
	}
	step := roundStep((s.max - s.min) / float64(most))
	for i := math.Ceil(s.min/step - 1e-9); i*step <= s.max*(1+1e-9); i++ {
		list = append(list, i*step+0) // never -0
	}
	return list
}

// decades are the 1, 2, 5, 10 of a logarithmic scale, or fewer of each ten.
func (s scale) decades(most int) (list []float64) {
	for _, of := range [][]float64{{1, 2, 5}, {1, 3}, {1}} {
		list = nil
		for ten := math.Pow(10, math.Floor(math.Log10(s.min))); ten <= s.max; ten *= 10 {
			for _, m := range of {
				if v := m * ten; v >= s.min*(1-1e-9) && v <= s.max*(1+1e-9) {
					list = append(list, v)
				}
			}
		}
		if len(list) <= most {
			return list
		}
	}
	return list
}

// roundStep is the next 1, 2 or 5 times a power of ten.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	ten := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*ten*(1+1e-9) {
			return m * ten
		}
	}
	return 10 * ten
}

// fromZero is a scale from 0 to a little more than most.
func fromZero(most, from, to float64) scale {
	if most <= 0 {
		most = 1
	}
	return scale{max: most * 1.05, from: from, to: to}
}

// axis names the ticks: a value's own digits, no more than are needed.
func axis(v float64) string {
	return grouped(strconv.FormatFloat(math.Round(v*1e6)/1e6, 'f', -1, 64))
}
