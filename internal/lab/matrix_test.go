package lab

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

func cell(a, b string, path Path, expected Path, directMS int64) Cell {
	c := Cell{Result: Result{A: a, B: b, Connected: true, Path: path}, Expected: expected}
	if directMS > 0 {
		c.DirectMS = &directMS
	}
	return c
}

func TestMatrixTable(t *testing.T) {
	same := cell("full-cone", "full-cone", Direct, Direct, 7)
	same.SameNAT = true
	m := Matrix{
		cell("none", "none", Direct, Direct, 40),
		cell("none", "none", Direct, Direct, 20),
		cell("none", "none", Direct, Direct, 30),
		cell("symmetric", "udp-blocked", Relayed, Relayed, 0),
		cell("full-cone", "symmetric", Relayed, Direct, 0),
		{Result: Result{A: "none", B: "symmetric", Path: NoPath}, Expected: Direct, Error: "signal did not start"},
		same,
	}
	table := m.String()
	for _, want := range []string{"D 30", "R !", "error !", "D 7", `A \ B`} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if strings.Count(table, "!") != 3 { // two fields and the legend
		t.Errorf("marks in\n%s", table)
	}
	err := m.Err()
	if err == nil || !strings.Contains(err.Error(), "2 of 7") || !strings.Contains(err.Error(), "full-cone × symmetric: relayed, expected direct") ||
		!strings.Contains(err.Error(), "none × symmetric: signal did not start") {
		t.Errorf("error %v", err)
	}
	if err := m[:4].Err(); err != nil {
		t.Errorf("all as expected: %v", err)
	}

	var page strings.Builder
	m[3].Verdict.Text = `relayed: no UDP leaves the peer's network: no STUN server answered there`
	r := Report{
		Matrix: m, Time: time.Date(2026, 3, 14, 15, 9, 0, 0, time.UTC), Version: "v1.2.3", Kernel: "6.1.0-13-amd64",
		Command: "p2pagent lab matrix --report <x>.html",
	}
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<td class="direct"><b>D 30</b>`, `<td class="wrong"><b>R !</b>`, `<td class="relayed"><b>R</b> <small>no UDP leaves the peer&#39;s network</small>`,
		"signal did not start", `<td class="unmeasured"><b>·</b>`, "no STUN server answered there",
		"14 March 2026, 15:09 UTC", "v1.2.3", "Linux 6.1.0-13-amd64", "--report &lt;x&gt;.html",
		"Of 7 runs 4 became direct and 1 stayed relayed as they had to, and 2 did not.",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %s in the page", want)
		}
	}
	for _, elsewhere := range []string{"http:", "https:", "src=", "href=", "url("} {
		if strings.Contains(page.String(), elsewhere) {
			t.Errorf("the page needs something from elsewhere: %s", elsewhere)
		}
	}
}

func TestResultJSON(t *testing.T) {
	first, direct := int64(41), int64(120)
	r := Result{A: "port-restricted", B: "port-restricted", Connected: true, Path: Direct, FirstByteMS: &first, DirectMS: &direct,
		Proof: &Proof{1048576, 320, 1101004, 1101004}, Verdict: trace.Verdict{Path: "direct", Text: "...", Remedy: ""}}
	const want = `{"a":"port-restricted","b":"port-restricted","connected":true,"path":"direct","first_byte_ms":41,"direct_ms":120,` +
		`"proof":{"payload_bytes":1048576,"relay_bytes":320,"nat_a_bytes":1101004,"nat_b_bytes":1101004},"verdict":{"path":"direct","text":"...","remedy":""}}`
	if b, err := json.Marshal(r); err != nil || string(b) != want {
		t.Errorf("got  %s\nwant %s, %v", b, want, err)
	}
}

func TestPairs(t *testing.T) {
	if n := len(Pairs()); n != 7*7+7 {
		t.Errorf("%d pairs, want 49 and 7 with one NAT", n)
	}
	for _, p := range Pairs() {
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	if err := (Topology{A: Kinds()[0]}).Validate(); err == nil {
		t.Error("a topology without a second NAT is accepted")
	}
	if err := (Topology{A: Kinds()[0], SameNAT: true, LinkB: Link{MTU: 1400}}).Validate(); err == nil {
		t.Error("a line that does not exist is accepted")
	}
}

func TestInBrief(t *testing.T) {
	for verdict, want := range map[string]string{
		`relayed: both NATs give every destination another port (address-and-port-dependent mapping, "symmetric"), so neither side can know`: "both NATs give every destination another port",
		"relayed: no UDP leaves either network":      "no UDP leaves either network",
		"relayed: no UDP leaves this network: no ST": "no UDP leaves this network",
		"without a path": "without a path",
		"":               "",
	} {
		if got := inBrief(verdict); got != want {
			t.Errorf("%q: %q, want %q", verdict, got, want)
		}
	}
}
