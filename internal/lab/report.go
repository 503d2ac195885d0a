package lab

import (
	"cmp"
	"html/template"
	"io"
)

// WriteHTML writes the matrix as a page that needs nothing else.
func (m Matrix) WriteHTML(w io.Writer) error {
	page, err := template.New("matrix").Parse(matrixPage)
	if err != nil {
		return err
	}
	var rows []matrixRow
	kinds := Kinds()
	for _, a := range kinds {
		row := matrixRow{Name: a.Name}
		for _, b := range kinds {
			row.Fields = append(row.Fields, newField(m.runs(a.Name, b.Name, false)))
		}
		row.Fields = append(row.Fields, newField(m.runs(a.Name, a.Name, true)))
		rows = append(rows, row)
	}
	return page.Execute(w, struct {
		Kinds []Kind
		Rows  []matrixRow
		Cells Matrix
	}{kinds, rows, m})
}

type matrixRow struct {
	Name   string
	Fields []field
}

// field is one pair in the table. Its colour is never all it says: the text has the
// letter as well.
type field struct{ Text, Class string }

func newField(runs Matrix) field {
	f := field{Text: runs.summary()}
	for _, c := range runs {
		switch {
		case !c.OK():
			f.Class = "wrong"
		case f.Class == "":
			f.Class = string(c.Path)
		}
	}
	f.Class = cmp.Or(f.Class, "unmeasured")
	return f
}

const matrixPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>NAT matrix</title>
<style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border: 1px solid #8886; padding: .3rem .6rem; text-align: left; white-space: nowrap }
td.direct { background: #2a93} td.relayed { background: #c803 } td.wrong { background: #c22; color: #fff; font-weight: bold }
td.number { text-align: right }
</style>
<h1>NAT matrix</h1>
<p>Two agents behind two NATs, site A down, site B across. <b>D</b>: direct, with the median of milliseconds from
the start of the connecting program to the direct path. <b>R</b>: relayed. <b>!</b>: not what had to be found. Each
path was decided by sending payload over it and counting it in the relay and in both routers.</p>
<div class="wide"><table>
<tr><th>A \ B{{range .Kinds}}<th>{{.Name}}{{end}}<th>same NAT
{{range .Rows}}<tr><th>{{.Name}}{{range .Fields}}<td class="{{.Class}}">{{.Text}}{{end}}
{{end}}</table></div>
<h2>The NATs</h2>
<div class="wide"><table><tr><th>name<th>mapping<th>filtering
{{range .Kinds}}<tr><td>{{.Name}}{{if .UDP}}<td>{{.Mapping}}<td>{{.Filtering}}{{else}}<td colspan="2">no UDP passes{{end}}
{{end}}</table></div>
<h2>Every run</h2>
<div class="wide"><table><tr><th>A<th>B<th>path<th>expected<th>first byte, ms<th>direct, ms<th>payload each way<th>relay<th>nat-a<th>nat-b<th>verdict
{{range .Cells}}<tr><td>{{.A}}<td>{{if .SameNAT}}same NAT{{else}}{{.B}}{{end}}<td{{if not .OK}} class="wrong"{{end}}>{{.Path}}<td>{{.Expected}}
<td class="number">{{with .FirstByteMS}}{{.}}{{end}}<td class="number">{{with .DirectMS}}{{.}}{{end}}
{{with .Proof}}<td class="number">{{.PayloadBytes}}<td class="number">{{.RelayBytes}}<td class="number">{{.NATABytes}}<td class="number">{{.NATBBytes}}{{else}}<td><td><td><td>{{end}}<td>{{if .Error}}{{.Error}}{{else}}{{.Verdict}}{{end}}
{{end}}</table></div>
`
