package lab

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/internal/page"
)

//go:embed report.html
var reportHTML string

// A Report is a matrix with what there is to know of the run that made it.
type Report struct {
	Matrix  Matrix
	Time    time.Time // of the start
	Version string    // of p2pagent
	Kernel  string    // whose NAT it is
	Command string    // that made it
}

// WriteHTML writes the report as a page that needs nothing else.
func (r Report) WriteHTML(w io.Writer) error {
	t, err := page.Parse("matrix", reportHTML)
	if err != nil {
		return err
	}
	return t.Execute(w, r.sheet())
}

// A sheet is what report.html shows.
type sheet struct {
	Report
	Date     string
	Headline string
	Kinds    []Kind
	Rows     []matrixRow
}

type matrixRow struct {
	Name   string
	Fields []field
}

func (r Report) sheet() sheet {
	s := sheet{Report: r, Headline: r.Matrix.headline(), Kinds: Kinds()}
	if !r.Time.IsZero() {
		s.Date = r.Time.UTC().Format("2 January 2006, 15:04 UTC")
	}
	for _, a := range s.Kinds {
		row := matrixRow{Name: a.Name}
		for _, b := range s.Kinds {
			row.Fields = append(row.Fields, newField(r.Matrix.runs(a.Name, b.Name, false)))
		}
		row.Fields = append(row.Fields, newField(r.Matrix.runs(a.Name, a.Name, true)))
		s.Rows = append(s.Rows, row)
	}
	return s
}

// headline is the result in a sentence.
func (m Matrix) headline() string {
	direct, relayed, wrong := 0, 0, 0
	for _, c := range m {
		switch {
		case !c.OK():
			wrong++
		case c.Path == Direct:
			direct++
		default:
			relayed++
		}
	}
	if len(m) == 0 {
		return "Nothing was measured."
	}
	text := fmt.Sprintf("Of %d runs %d became direct and %d stayed relayed", len(m), direct, relayed)
	if wrong == 0 {
		return text + ", all as they had to."
	}
	return text + fmt.Sprintf(" as they had to, and %d did not.", wrong)
}

// field is one pair in the table. Its colour is never all it says: the text has the
// letter as well.
type field struct{ Text, Reason, Class string }

func newField(runs Matrix) field {
	f := field{Text: runs.summary()}
	for _, c := range runs {
		switch {
		case !c.OK():
			f.Class = "wrong"
		case f.Class == "":
			f.Class = string(c.Path)
		}
		if c.Path == Relayed {
			f.Reason = cmp.Or(f.Reason, inBrief(c.Why()))
		}
	}
	f.Class = cmp.Or(f.Class, "unmeasured")
	return f
}

// Why is what the agent said of its path, or why there is no result.
func (c Cell) Why() string { return cmp.Or(c.Error, c.Verdict.String()) }

// inBrief is the first clause of a verdict, without the path that it begins with: what
// has room beside a letter.
func inBrief(verdict string) string {
	if _, rest, found := strings.Cut(verdict, ": "); found {
		verdict = rest
	}
	if end := strings.IndexAny(verdict, "(:;,"); end >= 0 {
		verdict = verdict[:end]
	}
	return strings.TrimSpace(verdict)
}
