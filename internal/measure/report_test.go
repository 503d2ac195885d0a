package measure

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func html(t *testing.T, r *Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// shown is the text of a page as a reader meets it, and how often each element
// is there.
func shown(t *testing.T, page string) (text string, elements map[string]int) {
	t.Helper()
	elements = map[string]int{}
	var b strings.Builder
	dec := xml.NewDecoder(strings.NewReader(page))
	style := false
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return strings.Join(strings.Fields(b.String()), " "), elements
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			style = token.Name.Local == "style"
			elements[token.Name.Local]++
			checkAttributes(t, token)
			b.WriteByte(' ')
		case xml.CharData:
			if !style {
				b.Write(token)
			}
		}
	}
}

// checkAttributes fails for what loads, runs, or cannot be drawn.
func checkAttributes(t *testing.T, e xml.StartElement) {
	t.Helper()
	for _, a := range e.Attr {
		switch name := a.Name.Local; {
		case name == "src", name == "href", name == "style", name == "action", strings.HasPrefix(name, "on"):
			t.Errorf("<%s %s=%q>", e.Name.Local, name, a.Value)
		case slices.Contains([]string{"x", "y", "cx", "cy", "width", "height", "r"}, name):
			if v, err := strconv.ParseFloat(a.Value, 64); err != nil || v < 0 {
				t.Errorf("<%s %s=%q>", e.Name.Local, name, a.Value)
			}
		case name == "d" && !path.MatchString(a.Value):
			t.Errorf("<path d=%.80q>", a.Value)
		}
	}
}

var path = regexp.MustCompile(`^(M\d+(\.\d)? \d+(\.\d)?(L\d+(\.\d)? \d+(\.\d)?)+)+$`)

func TestEveryReportIsAPage(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) {
			page := html(t, r)
			text, elements := shown(t, page)
			for _, bad := range []string{"script", "img", "link", "iframe", "object", "i"} {
				if elements[bad] > 0 {
					t.Errorf("%d <%s>", elements[bad], bad)
				}
			}
			for _, bad := range []string{"http:", "https:", "url(", "@import", "ZgotmplZ"} {
				if strings.Contains(page, bad) {
					t.Errorf("%s is in it", bad)
				}
			}
			for _, bad := range []string{"NaN", "Inf", "-0", "<nil>", "0xc0", "%!"} {
				if strings.Contains(text, bad) {
					t.Errorf("%s is to be read", bad)
				}
			}
			if charts := elements["svg"]; elements["title"] != charts+1 || elements["desc"] != charts {
				t.Errorf("%d charts, %d titles with the page's, %d descriptions", charts, elements["title"], elements["desc"])
			}
			checkIDs(t, page)
		})
	}
}

// checkIDs fails where a chart is named by what is not there, or is there twice.
func checkIDs(t *testing.T, page string) {
	t.Helper()
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if seen[m[1]] {
			t.Errorf("two of id %q", m[1])
		}
		seen[m[1]] = true
	}
	for _, m := range regexp.MustCompile(` aria-labelledby="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		for _, id := range strings.Fields(m[1]) {
			if !seen[id] {
				t.Errorf("nothing of id %q", id)
			}
		}
	}
}

// tells fails for each of the sentences that a report does not hold.
func tells(t *testing.T, r *Report, wants ...string) {
	t.Helper()
	text, _ := shown(t, html(t, r))
	for _, want := range wants {
		if want = strings.Join(strings.Fields(want), " "); !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}

func TestFiguresAreShown(t *testing.T) {
	r := samples()["usual"]
	d, v := r.Direct, r.Relayed
	d.Goodput, d.GoodputSpread, v.Goodput = 812.4, [2]float64{790.2, 830.6}, 203.1
	in, out, drops, mtu, rtt := uint64(1_020_000_000), uint64(1_010_000_000), uint64(12345), 1431, 9.876
	v.PayloadBytes, v.RelayBytesIn, v.RelayBytesOut, d.SocketDrops, d.MTU, d.RTT99 = 1_000_000_000, &in, &out, &drops, &mtu, &rtt
	tells(t, r,
		"alice \u2192 bob", "14 March 2026, 15:09 UTC", "v1.4.0",
		"The direct path carries 4.00 times as much as the relayed one.",
		"790 to 831 in 3 rounds",
		"goodput, median Mbit/s 812 203",
		"round trip, 99 of 100 ms 9.88",
		"longest datagram bytes 1431 1452",
		"dropped at sockets datagrams 12\u202f345 0",
		"1.00 GB of payload crossed the relay's two legs as 2.03 GB: 1.02 GB came in and 1.01 GB went out",
		"While the direct path was measured, only probes crossed another path: 6.00 kB",
		"While the relayed path was measured, only probes crossed another path",
		"system linux/amd64 darwin/arm64", "AMD Ryzen 7", "Apple M2 Pro", "kernel 6.12.9-arch1-1 not told",
		"kernel cuts sends (GSO) yes no", "kernel joins reads (GRO) yes not measured",
		"direct and relayed, in turn", "1 stream", r.Verdict.Text,
	)
}

func TestWhatWasNotMeasured(t *testing.T) {
	r := samples()["no direct path"]
	tells(t, r,
		"The relayed path carries 18.1 Mbit/s. The direct path could not be measured.",
		"direct not measured not measured: there is none", r.Verdict.Text+" What would help: "+r.Verdict.Remedy,
		"goodput, median Mbit/s not measured 18.1",
		"longest datagram bytes not measured not measured",
		"loss of QUIC packets % not measured not measured",
		"What it counted on its legs: not measured.",
		"memory at the end not measured 43.0 MB",
	)
	if text, _ := shown(t, html(t, r)); strings.Contains(text, "direct, median") {
		t.Error("a path without figures is in the legend")
	}
	tells(t, samples()["empty"], "Nothing was measured.")
	tells(t, samples()["spoiled"],
		"2.35 MB of payload crossed another path: the figures are not of the relayed path alone",
		"3, direct 12.6 s no result: the path in use changed meanwhile")
	tells(t, samples()["datagrams"], "bob \u2192 alice", "loss of datagrams", "jitter of datagrams", "datagrams, 50.0 Mbit/s")
	tells(t, samples()["long"], "alice \u21c4 bob", "ran bench its peer", "8 streams")
}

// A number that is none comes from no measurement, and makes no page.
func TestNumbersThatAreNone(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		r := samples()["usual"]
		r.Rounds[2].Intervals[3] = v
		var b strings.Builder
		if err := r.WriteHTML(&b); err == nil || b.Len() > 0 {
			t.Errorf("%v gives %d bytes and error %v", v, b.Len(), err)
		}
	}
}

func TestStrangersAreQuoted(t *testing.T) {
	r := samples()["hostile"]
	tells(t, r, `<script>alert("x")</script> → "><img src=x onerror=alert(1)>`, `</p></style><script>verdict</script>`,
		`What would help: '"&<b>`, `version {{.}} v1.4.0`, `"><img src=x onerror=alert(1)>`, "no result: <svg onload=x>")
}

// Text can be read in both schemes, and the two paths' colours differ in
// brightness or in blue, which nearly all eyes tell apart.
func TestContrast(t *testing.T) {
	schemes := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(html(t, samples()["usual"]), -1)
	if len(schemes) != 2 {
		t.Fatalf("%d colour schemes, want light and dark", len(schemes))
	}
	for i, scheme := range []string{"light", "dark"} {
		colour := map[string][3]float64{}
		for _, m := range regexp.MustCompile(`--(\w+): #(\w\w)(\w\w)(\w\w);`).FindAllStringSubmatch(schemes[i][1], -1) {
			for j, hex := range m[2:] {
				v, _ := strconv.ParseUint(hex, 16, 8)
				c := colour[m[1]]
				c[j] = float64(v) / 255
				colour[m[1]] = c
			}
		}
		for _, ink := range []string{"ink", "soft", "direct", "relayed", "alarm"} {
			for _, ground := range []string{"page", "sheet"} {
				if got := contrast(colour[ink], colour[ground]); got < 4.5 {
					t.Errorf("%s: %s on %s has a contrast of %.1f, want 4.5", scheme, ink, ground, got)
				}
			}
		}
		if d, r := colour[Direct], colour[Relayed]; math.Abs(d[2]-r[2]) < 0.5 {
			t.Errorf("%s: the two paths are hard to tell apart", scheme)
		}
	}
}

// contrast is that of WCAG 2.
func contrast(a, b [3]float64) float64 {
	light := func(c [3]float64) (l float64) {
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v := c[i] / 12.92
			if c[i] > 0.04045 {
				v = math.Pow((c[i]+0.055)/1.055, 2.4)
			}
			l += weight * v
		}
		return l + 0.05
	}
	return max(light(a)/light(b), light(b)/light(a))
}

func TestCompared(t *testing.T) {
	for _, tt := range []struct {
		direct, relayed float64
		spread          float64 // of the rounds, to either side
		rounds          int     // of the direct path; 3 of the relayed one
		want            string
	}{
		{800, 200, 100, 3, "The direct path carries 4.00 times as much as the relayed one."},
		{200, 800, 100, 3, "The relayed path carries 4.00 times as much as the direct one."},
		{800, 200, 300, 3, "In the median the direct path carried 4.00 times as much as the relayed one, but their rounds overlap"},
		{200, 254, 27, 3, "In the median the relayed path carried 1.27 times as much as the direct one, but their rounds overlap"},
		{200, 254, 26, 3, "The relayed path carries 1.27 times as much as the direct one."},
		{100, 99, 0, 3, "about as much"},
		{99, 100, 0, 3, "about as much"},
		{0, 5, 0, 3, "Nothing came through the direct path"},
		{5, 0, 0, 3, "Nothing came through the relayed path"},
		{0, 0, 0, 3, "Nothing came through either path"},
		{107, 100, 0, 1, "The direct path carried 1.07 times as much as the relayed one, in too few rounds to tell: measure longer to be sure."},
		{100, 800, 0, 2, "The relayed path carried 8.00 times as much as the direct one, in too few rounds to tell: measure longer to be sure."},
		{100, 101, 0, 2, "The direct path carried about as much as the relayed one, in too few rounds to tell: measure longer to be sure."},
		{5, 0, 0, 1, "Nothing came through the relayed path"},
	} {
		figures := func(goodput float64) *Figures {
			return &Figures{Goodput: goodput, GoodputSpread: [2]float64{goodput - tt.spread, goodput + tt.spread}}
		}
		r := &Report{Direct: figures(tt.direct), Relayed: figures(tt.relayed)}
		for kind, n := range map[string]int{Direct: tt.rounds, Relayed: 3} {
			r.Rounds = append(r.Rounds, slices.Repeat([]Round{{Path: kind, Result: new(Result)}}, n)...)
			r.Rounds = append(r.Rounds, Round{Path: kind, Error: "no result"})
		}
		if got := r.Compared(); !strings.Contains(got, tt.want) {
			t.Errorf("%v and %v, each by %v: %q, want %q", tt.direct, tt.relayed, tt.spread, got, tt.want)
		}
	}
	if got := (&Report{Direct: &Figures{Goodput: 1}}).Compared(); got != "" {
		t.Errorf("of one path: %q", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1.00", 812.4: "812", 94.14: "94.1", 99.96: "100", 9.999: "10.0", 0.0512: "0.0512", 1e-9: "<0.000001",
		0.00001234: "0.000012", 9297: "9297", 12345.6: "12\u202f346", 1234567: "1\u202f234\u202f567", -3.21: "-3.21",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestByteSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 999_499: "999 kB", 999_600: "1.00 MB", 1_234_000_000: "1.23 GB",
		5e12: "5.00 TB", math.MaxUint64: "18400 PB",
	} {
		if got := strings.ReplaceAll(byteSize(n), space, " "); got != want {
			t.Errorf("byteSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		scale scale
		most  int
		want  []float64
	}{
		{scale{max: 1000}, 4, []float64{0, 500, 1000}},
		{scale{min: 0.8, max: 1.12}, 5, []float64{0.8, 0.9, 1, 1.1}},
		{scale{max: 35.3}, 8, []float64{0, 5, 10, 15, 20, 25, 30, 35}},
		{scale{min: 9.4, max: 260, log: true}, 6, []float64{10, 20, 50, 100, 200}},
		{scale{min: 0.2, max: 1300, log: true}, 6, []float64{1, 10, 100, 1000}},
		{scale{}, 4, []float64{0}},
	} {
		got := tt.scale.ticks(tt.most)
		same := slices.EqualFunc(got, tt.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
		if !same || fmt.Sprint(got) != "" && strings.HasPrefix(fmt.Sprint(got), "[-0") {
			t.Errorf("%+v: %v, want %v", tt.scale, got, tt.want)
		}
	}
}

func TestScale(t *testing.T) {
	up := fromZero(1000, 210, 0)
	if up.at(0) != 210 || up.at(1000) != 10 || up.at(500) != 110 {
		t.Errorf("%+v puts 500 at %v", up, up.at(500))
	}
	wide := scale{min: 1, max: 100, from: 0, to: 10, log: true}
	if wide.at(10) != 5 || wide.at(0) != 0 {
		t.Errorf("10 of 1 to 100 is at %v, 0 at %v", wide.at(10), wide.at(0))
	}
	if flat := (scale{min: 3, max: 3, from: 7}); flat.at(3) != 7 {
		t.Errorf("a scale of one value puts it at %v", flat.at(3))
	}
}
