package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func testDocument() document {
	r := newResults()
	for round, raw := range []float64{10000, 12000, 11000} {
		rec := recorder{r, round}
		rec.set(rawMbps, raw)
		rec.set(quicMbps, raw/4)
		rec.set(quicSendCPU, 2)
		rec.set(quicRecvCPU, 1.5)
		rec.set(quicCPU, 3.5)
		rec.set(directMbps, raw/2)
		rec.set(directCPU, 3.5)
	}
	return document{
		results: r, effort: fullEffort(3), parts: []string{"raw", "quic", "agents"},
		machine: machine{cpu: "Some Processor", kernel: "6.18.0", programs: []string{"iperf3 3.12"}},
		command: "bin/bench -rounds 3", began: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), took: 90 * time.Second,
	}
}

func TestDocument(t *testing.T) {
	var text strings.Builder
	if err := testDocument().write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Made by `make bench` (`bin/bench -rounds 3`) on 1 March 2026, in 1m30s.",
		"- machine: Some Processor, ",
		", iperf3 3.12\n",
		"| direct session over plain quic-go: goodput | ≥ 1.3 | 2.00 (2.00–2.00) | met |",
		"| direct session over plain quic-go: CPU per byte, both ends | ≤ 0.78 | 1.00 (1.00–1.00) | **not met** |",
		"| `-L` over raw TCP: goodput | ≥ 0.22, aim 0.3 | – | not measured |",
		"| raw TCP (iperf3) | 11000 (10000–12000) | 1.00 (1.00–1.00) |  |  |",
		"| plain quic-go | 2750 (2500–3000) | 0.250 (0.250–0.250) | 2.00 (2.00–2.00) | 1.50 (1.50–1.50) |",
		"| `--compare`, relayed | – | – | – | – |",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("without %q:\n%s", want, text.String())
		}
	}
	for _, unwanted := range []string{"## Loss", "## Relays under load", "## Not measured", "-quick"} {
		if strings.Contains(text.String(), unwanted) {
			t.Errorf("with %q, which was not measured", unwanted)
		}
	}
}

func TestDocumentOfAFailure(t *testing.T) {
	d := testDocument()
	d.quick = true
	d.results.failed = []failure{{part: "turn", round: 2, err: errors.New("no answer\nat all")}}
	var text strings.Builder
	if err := d.write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- turn, round 2: no answer; at all\n", "these figures mean nothing"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("without %q:\n%s", want, text.String())
		}
	}
}

// Every row of every table has as many cells as its head.
func TestDocumentTables(t *testing.T) {
	d := testDocument()
	d.parts = []string{"raw", "quic", "agents", "forward", "relayed", "turn", "memory", "loss"}
	var text strings.Builder
	if err := d.write(&text); err != nil {
		t.Fatal(err)
	}
	tables, width := 0, 0
	for line := range strings.Lines(text.String()) {
		cells := strings.Count(line, "|")
		switch {
		case cells == 0:
			width = 0
		case width == 0:
			tables++
			width = cells
		case cells != width:
			t.Errorf("%d cells instead of %d: %s", cells, width, line)
		}
	}
	if tables != 5 {
		t.Errorf("%d tables, want 5", tables)
	}
}

func TestFirstVersion(t *testing.T) {
	for text, want := range map[string]string{
		"iperf 3.12 (cJSON 1.7.15)\nLinux": "3.12",
		"0: : Warning\n4.6.1\n":            "4.6.1",
		"p2pagent (devel) linux/amd64":     "devel",
		"p2pagent v0.1.0-dev+abc":          "0.1.0-dev+abc",
	} {
		if got, ok := firstVersion(text); !ok || got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got, ok := firstVersion("nothing here"); ok {
		t.Errorf("%q out of nothing", got)
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel("processor\t: 0\nmodel name\t: Some: Processor\n"); got != "Some: Processor" {
		t.Errorf("%q", got)
	}
	if got := cpuModel(""); got != "unknown" {
		t.Errorf("%q out of nothing", got)
	}
}
