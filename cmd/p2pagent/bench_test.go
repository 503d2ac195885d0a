package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestBenchPlan(t *testing.T) {
	for _, c := range []struct {
		args      string
		rounds    int
		seconds   float64
		skip      float64
		direction string
	}{
		{"", 5, 2, 0.5, "send"},
		{"-t 3", 2, 2, 0.5, "send"},
		{"-t 1", 1, 1, 0.25, "send"},
		{"-t 1 --compare", 5, 2, 0.5, "send"},
		{"-t 30 --compare --both -P 8", 15, 2, 0.5, "both"},
		{"--reverse --udp 10M", 5, 2, 0.5, "receive"},
	} {
		p, err := planOf(t, c.args)
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		if p.Rounds != c.rounds || p.Seconds != c.seconds || p.Skip != c.skip || p.Direction != c.direction {
			t.Errorf("%s: %+v", c.args, p.Options)
		}
	}
	for args, want := range map[string]string{
		"-t 0":                       "-t 0: 1 to 3600 seconds",
		"-t NaN":                     "-t NaN",
		"-P 0":                       "-P 0: 1 to 64 streams",
		"-P 65":                      "-P 65",
		"--reverse --both":           "--reverse and --both exclude each other",
		"--compare --require direct": "--require direct forbids it",
		"--compare --relay-only":     "--relay-only forbids it",
		"--udp 10M -P 2":             "-P is for streams",
		"--udp 999":                  `--udp "999": from 1k to`,
		"--udp fast":                 `--udp "fast": a rate is a number`,
		"--udp 900G":                 `--udp "900G": from 1k to`,
	} {
		if _, err := planOf(t, args); err == nil || !strings.Contains(err.Error(), want) || exitCode(err) != exitUsage {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// planOf parses bench's flags as the command does.
func planOf(t *testing.T, args string) (measure.Plan, error) {
	t.Helper()
	var c common
	var o benchOptions
	cmd := benchCommandOf(&c, &o)
	if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
		t.Fatal(err)
	}
	return o.plan(&c)
}

// What cannot be known is said to be so, and never shown as nought.
func TestPrintReport(t *testing.T) {
	rtt, loss := 0.5, 0.01
	in, out := uint64(1_050_000_000), uint64(1_040_000_000)
	r := &measure.Report{
		Options: measure.Options{Compare: true, Rounds: 5, Seconds: 2, Skip: 0.5, Streams: 1, Direction: "send"},
		Direct:  &measure.Figures{Goodput: 3000, GoodputSpread: [2]float64{2900, 3100}, RTT50: &rtt, RTT99: &rtt, PayloadBytes: 2e9},
		Relayed: &measure.Figures{Goodput: 1500, GoodputSpread: [2]float64{1400, 1600}, Loss: &loss, PayloadBytes: 1e9, RelayBytesIn: &in, RelayBytesOut: &out},
		Rounds:  []measure.Round{{Path: "relayed", Result: &measure.Result{Elsewhere: measure.Classes{Probes: 1200}}}},
		Peer:    "b\x1b[2J", Verdict: trace.Verdict{Path: "direct", Text: "direct: it is"},
	}
	var b bytes.Buffer
	printReport(&b, r)
	for _, want := range []string{
		"3.00 Gbit/s", "1.50 Gbit/s", "1.40 Gbit/s to 1.60 Gbit/s", "500 µs / 500 µs", "not known", "1 %",
		"1.05 GB + 1.04 GB, 2.09 times the payload", "The direct path carried 2.00 times as much as the relayed one, in too few rounds to tell: measure longer to be sure.", "only probes crossed the path that was not measured: 1.20 kB", "direct: it is",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("a peer's name reached the terminal")
	}

	r.Direct, r.Missing = nil, map[string]string{"direct": "not measured: there is none"}
	r.Rounds = append(r.Rounds, measure.Round{Path: "direct", Error: "the path in use changed meanwhile"})
	b.Reset()
	printReport(&b, r)
	for _, want := range []string{"direct path: not measured: there is none", "failed: the path in use changed meanwhile"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	r.Rounds[0].Result = &measure.Result{Elsewhere: measure.Classes{Payload: 5000}}
	r.Direct = r.Relayed
	b.Reset()
	printReport(&b, r)
	if want := "carried 5.00 kB of payload meanwhile"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, &b)
	}
}

// A line that is kept stays below those of events.
func TestTellerKeepsALine(t *testing.T) {
	var b bytes.Buffer
	tell := &teller{w: &b}
	tell.keep("half way")
	tell.Record(trace.Record{Peer: "bob", Event: trace.PeerState{Present: true}})
	tell.keep("")
	want := "\r\x1b[Khalf way" + "\r\x1b[K    0.000 s  bob: there\nhalf way" + "\r\x1b[K"
	if b.String() != want {
		t.Errorf("%q, want %q", &b, want)
	}
}

// bench against a listener in this process.
func testBench(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	text := do(t, "", "bench", "--loopback", "--json", "-t", "1", "--report", page, "bob")
	r := parse(t, text).(map[string]any)
	for _, k := range []string{"direct", "rounds", "sender", "receiver", "machine", "version", "verdict"} {
		if r[k] == nil {
			t.Errorf("no %q in %s", k, text)
		}
	}
	if _, ok := r["relayed"]; ok {
		t.Error("a path that was not asked for is there")
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("report: %v", err)
	}
	c := begin(t, "", "bench", "--loopback", "-t", "1", "--reverse", "--udp", "5M", "bob")
	if code := c.wait(t); code != exitOK || !strings.Contains(c.stdout.String(), "datagrams at 5.00 Mbit/s from bob") {
		t.Errorf("exit code %d, %s", code, &c.stdout)
	}
	if !strings.Contains(c.stderr.String(), "round 1 of 1  direct") {
		t.Errorf("no line of progress in %s", &c.stderr)
	}
	c = begin(t, "", "bench", "--loopback", "--report", filepath.Join(page, "below-a-file"), "bob")
	if code := c.wait(t); code != exitError || !strings.Contains(c.stderr.String(), "--report: ") {
		t.Errorf("a report that cannot be written: exit code %d, %s", code, &c.stderr)
	}
	// Interrupted, it ends soon and says so, and the report has what there is.
	page = filepath.Join(t.TempDir(), "cut.html")
	c = begin(t, "", "bench", "--loopback", "-t", "60", "--report", page, "bob")
	c.stderr.await(t, "progress", func(line string) bool { return strings.HasPrefix(line, "round ") })
	start := time.Now()
	c.cutShort(t)
	if took := time.Since(start); took > 30*time.Second { // half of the round
		t.Errorf("it took %v to end", took)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("It ended early, after ")) || bytes.Contains(b, []byte("no reason")) {
		t.Errorf("report: %v, %s", err, b)
	}
	// What comes to nothing leaves an older report as it was, and no empty one.
	for _, name := range []string{page, filepath.Join(filepath.Dir(page), "new.html")} {
		before, _ := os.ReadFile(name)
		c = begin(t, "", "bench", "--loopback", "--report", name, "nobody")
		if code := c.wait(t); code != exitUsage {
			t.Errorf("exit code %d, %s", code, &c.stderr)
		}
		if after, _ := os.ReadFile(name); !bytes.Equal(before, after) {
			t.Errorf("%s: %d bytes became %d", name, len(before), len(after))
		}
		if info, err := os.Stat(name); err == nil && info.Size() == 0 {
			t.Errorf("%s is there, and empty", name)
		}
	}
}
