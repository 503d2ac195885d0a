package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/lab"
	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/spf13/cobra"
)

const jsonPage = "../../docs/json.md"

// outputs are the objects of --json, each under the heading that it has in the page.
// A struct that one of them contains has to be here too.
var outputs = []struct {
	heading string
	value   any
}{
	{"Verdict", trace.Verdict{}},
	{"Program", agent.Status{}},
	{"Server", agent.SignalStatus{}},
	{"Link", agent.LinkStatus{}},
	{"Path", path.Status{}},
	{"Bytes", path.Bytes{}},
	{"Losses", path.Losses{}},
	{"Waiting", agent.PeerStatus{}},
	{"Why", agent.Why{}},
	{"Explanation", explanation{}},
	{"Explained link", explained{}},
	{"NAT", candidates.NAT{}},
	{"Allocation", candidates.Allocation{}},
	{"Port mapping", candidates.PortMapping{}},
	{"Pong", pong{}},
	{"Report", measure.Report{}},
	{"Options", measure.Options{}},
	{"Figures", measure.Figures{}},
	{"Round", measure.Round{}},
	{"Classes", measure.Classes{}},
	{"End", measure.End{}},
	{"Machine", measure.Machine{}},
	{"Peer", listedPeer{}},
	{"Run", lab.Result{}},
	{"Cell", lab.Cell{}},
	{"Proof", lab.Proof{}},
	{"Endpoints", trace.Path{}},
	{"Refused address", trace.AddrRefused{}},
	{"pairing.code", codeShown{}},
}

// A member is one of an object.
type member struct{ name, kind string }

// members lists what encoding/json makes of a struct, those of embedded ones among
// its own.
func members(t *testing.T, headings map[reflect.Type]string, s reflect.Type) (out []member) {
	t.Helper()
	for i := range s.NumField() {
		f := s.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous && name == "":
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			out = append(out, members(t, headings, inner)...)
		case !f.IsExported():
		default:
			if name == "" {
				name = f.Name
			}
			kind := kindOf(t, headings, f.Type)
			if strings.HasPrefix(options, "omit") {
				kind = strings.TrimSuffix(kind, " or null") + ", or absent"
			}
			out = append(out, member{name, kind})
		}
	}
	return out
}

// kindOf is what a value of a type is in JSON, in the page's words.
func kindOf(t *testing.T, headings map[reflect.Type]string, v reflect.Type) string {
	t.Helper()
	if v.Kind() == reflect.Pointer {
		return kindOf(t, headings, v.Elem()) + " or null"
	}
	switch reflect.Zero(v).Interface().(type) {
	case time.Time:
		return "time"
	case netip.Addr, netip.AddrPort:
		return "address"
	case candidates.Dependence:
		return "string or null"
	case encoding.TextMarshaler:
		return "string"
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Array:
		return "array of " + kindOf(t, headings, v.Elem())
	case reflect.Map:
		return "object of " + kindOf(t, headings, v.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "integer"
	case reflect.Struct:
		heading, ok := headings[v]
		if !ok {
			t.Errorf("%v is part of an output and has no heading in outputs", v)
		}
		return fmt.Sprintf("[%s](#%s)", heading, strings.ReplaceAll(strings.ToLower(heading), " ", "-"))
	}
	t.Errorf("no word for %v", v)
	return v.String()
}

// tables reads the tables of members of a page, by heading of the third level.
func tables(t *testing.T, name string) map[string][]member {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]member)
	heading := ""
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			text, _ := strings.CutPrefix(line, "### ") // the others have no members
			heading = strings.Trim(text, "` \n")
			continue
		}
		cells := strings.Split(strings.TrimSpace(line), "|")
		if strings.HasPrefix(heading, "#") || len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		if strings.TrimSpace(cells[3]) == "" {
			t.Errorf("%s: nothing is said of %s", heading, cells[1])
		}
		out[heading] = append(out[heading], member{strings.Trim(cells[1], " `"), strings.TrimSpace(cells[2])})
	}
	return out
}

// docs/json.md has every member of every output, and no other.
func TestJSONPage(t *testing.T) {
	headings := make(map[reflect.Type]string)
	for _, o := range outputs {
		headings[reflect.TypeOf(o.value)] = o.heading
	}
	page := tables(t, jsonPage)
	check := func(heading string, want []member) {
		t.Helper()
		said := page[heading]
		delete(page, heading)
		for _, m := range want {
			row := fmt.Sprintf("| `%s` | %s | ", m.name, m.kind)
			i := 0
			for i < len(said) && said[i].name != m.name {
				i++
			}
			switch {
			case i == len(said):
				t.Errorf("%s: missing is %s", heading, row)
				continue
			// What JSON calls null for want of elements is said where it can be.
			case said[i].kind != m.kind && !(strings.HasPrefix(m.kind, "array") && said[i].kind == m.kind+" or null"):
				t.Errorf("%s: %s has %q, want %s", heading, m.name, said[i].kind, row)
			}
			said = append(said[:i:i], said[i+1:]...)
		}
		for _, m := range said {
			t.Errorf("%s: there is no %s", heading, m.name)
		}
	}
	for _, o := range outputs {
		check(o.heading, members(t, headings, reflect.TypeOf(o.value)))
	}
	for _, e := range trace.Events() {
		if v := reflect.TypeOf(e); headings[v] == "" { // else a shape of its own, named as the event
			check(e.EventName(), members(t, headings, v))
		}
	}
	var record map[string]any
	b, err := json.Marshal(trace.Record{Peer: "x", Event: trace.PeerState{}})
	if err != nil || json.Unmarshal(b, &record) != nil {
		t.Fatal(err)
	}
	for _, m := range page["Record"] {
		if _, ok := record[m.name]; !ok {
			t.Errorf("Record: there is no %s", m.name)
		}
		delete(record, m.name)
	}
	for name := range record {
		t.Errorf("Record: missing is %s", name)
	}
	delete(page, "Record")
	for heading, rest := range page {
		t.Errorf("%s: no output has that heading, or its %v", heading, rest)
	}
}

// What the page calls an array is one where it is empty, in every event and in what is
// told of NATs.
func TestEmptyArrays(t *testing.T) {
	page := tables(t, jsonPage)
	check := func(heading string, value any) {
		t.Helper()
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		object, _ := parse(t, string(b)).(map[string]any)
		for _, m := range page[heading] {
			if _, ok := object[m.name].([]any); strings.HasPrefix(m.kind, "array") && !strings.Contains(m.kind, " or ") && !ok {
				t.Errorf("%s: %s is %v, want %s", heading, m.name, object[m.name], m.kind)
			}
		}
	}
	for _, e := range trace.Events() {
		check(e.EventName(), e)
	}
	check("NAT", candidates.NAT{})
	check("NAT", agent.Why{}.PeerNAT)
}

// Every command that has --json is in the page.
func TestJSONPageCommands(t *testing.T) {
	b, err := os.ReadFile(jsonPage)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		own := c.Flags().Lookup("json") != nil || c.PersistentFlags().Lookup("json") != nil
		if name := strings.TrimPrefix(c.CommandPath(), "p2pagent "); own && !strings.Contains(string(b), "`"+name+" --json`") {
			t.Errorf("%s does not tell of `%s --json`", jsonPage, name)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
}
