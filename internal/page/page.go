// Package page is what the pages have in common that our commands write: one sheet, and
// that nothing is loaded from anywhere.
package page

import (
	_ "embed"
	"html/template"
)

//go:embed style.css
var style string

// Parse reads the template of a page, in which {{style}} is the sheet.
func Parse(name, text string) (*template.Template, error) {
	return template.New(name).Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(style) },
	}).Parse(text)
}
