package measure

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"strings"
	"testing"
	"unicode"
)

func TestRoundSpec(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*roundSpec)
		ok     bool
	}{
		{"good", func(*roundSpec) {}, true},
		{"shortest", func(r *roundSpec) { r.Seconds, r.Skip = minSeconds, 0 }, true},
		{"longest", func(r *roundSpec) { r.Seconds, r.Streams, r.UDPMbps = MaxSeconds, MaxStreams, MaxMbps }, true},
		{"relayed", func(r *roundSpec) { r.Path = Relayed }, true},
		{"received", func(r *roundSpec) { r.Send, r.Receive = false, true }, true},
		{"no id", func(r *roundSpec) { r.ID = "" }, false},
		{"long id", func(r *roundSpec) { r.ID = strings.Repeat("x", 65) }, false},
		{"id with a path", func(r *roundSpec) { r.ID = "a/b" }, false},
		{"no path", func(r *roundSpec) { r.Path = "" }, false},
		{"other path", func(r *roundSpec) { r.Path = "Direct" }, false},
		{"too short", func(r *roundSpec) { r.Seconds, r.Skip = 0.1, 0 }, false},
		{"too long", func(r *roundSpec) { r.Seconds = MaxSeconds + 1 }, false},
		{"endless", func(r *roundSpec) { r.Seconds = math.Inf(1) }, false},
		{"no number of seconds", func(r *roundSpec) { r.Seconds = math.NaN() }, false},
		{"all skipped", func(r *roundSpec) { r.Skip = r.Seconds }, false},
		{"skipped before it began", func(r *roundSpec) { r.Skip = -1 }, false},
		{"no number skipped", func(r *roundSpec) { r.Skip = math.NaN() }, false},
		{"no streams", func(r *roundSpec) { r.Streams = 0 }, false},
		{"too many streams", func(r *roundSpec) { r.Streams = MaxStreams + 1 }, false},
		{"negative rate", func(r *roundSpec) { r.UDPMbps = -1 }, false},
		{"too high a rate", func(r *roundSpec) { r.UDPMbps = MaxMbps * 2 }, false},
		{"no number of a rate", func(r *roundSpec) { r.UDPMbps = math.NaN() }, false},
		{"no direction", func(r *roundSpec) { r.Send = false }, false},
	} {
		r := good()
		tt.change(&r)
		if err := r.validate(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestHalfCheck(t *testing.T) {
	number := func(v float64) *float64 { return &v }
	for _, tt := range []struct {
		name string
		half half
		ok   bool
	}{
		{"nothing", half{}, true},
		{"all that was sent", half{Received: 100, Counted: 100, Intervals: []uint64{60, 40}}, true},
		{"no CPU time", half{CPU: -1}, true},
		{"jitter", half{JitterMS: number(3)}, true},
		{"more than was sent", half{Received: 101}, false},
		{"more counted than received", half{Received: 5, Counted: 6}, false},
		{"more in the intervals than received", half{Received: 5, Intervals: []uint64{3, 3}}, false},
		{"intervals that add up to little", half{Received: 5, Intervals: []uint64{math.MaxUint64, 2}}, false},
		{"too many intervals", half{Intervals: make([]uint64, 601)}, false},
		{"CPU time that is no number", half{CPU: math.NaN()}, false},
		{"CPU time without end", half{CPU: math.Inf(1)}, false},
		{"CPU time given back", half{CPU: -2}, false},
		{"jitter that is no number", half{JitterMS: number(math.NaN())}, false},
		{"negative jitter", half{JitterMS: number(-1)}, false},
		{"relay of a planet", half{RelayOut: maxBytes + 1}, false},
		{"counters of a planet", half{Before: Look{Out: map[string]Classes{Direct: {Probes: maxBytes + 1}}}}, false},
	} {
		if err := tt.half.check(100); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	kind := Direct
	for _, req := range []request{{Hello: &End{Name: "x"}}, {Hold: &kind}, {Look: true}, {Finish: "id"}} {
		if err := writeFrame(&b, req); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		var req request
		if err := readFrame(&b, &req); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if err := readFrame(&b, new(request)); err != io.EOF {
		t.Errorf("after the last frame: %v, want its end", err)
	}
	writeFrame(&b, request{Look: true})
	b.Truncate(b.Len() - 1)
	if err := readFrame(&b, new(request)); err != io.ErrUnexpectedEOF {
		t.Errorf("half a frame: %v, want an early end", err)
	}
	if err := writeFrame(io.Discard, request{Finish: strings.Repeat("x", maxFrame)}); err == nil {
		t.Error("a frame was sent that no peer takes")
	}
}

// The intervals of the longest and fastest round fit.
func TestLongestHalf(t *testing.T) {
	h := half{Received: maxBytes, Intervals: make([]uint64, int(MaxSeconds*10))}
	for i := range h.Intervals {
		h.Intervals[i] = maxBytes / uint64(len(h.Intervals))
	}
	if err := h.check(maxBytes); err != nil {
		t.Error(err)
	}
	if err := writeFrame(io.Discard, response{Half: &h}); err != nil {
		t.Error(err)
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		"two\nlines\x1b[31m":     "twolines[31m",
		"right\u202eto left":     "rightto left",
		"bad \xff byte":          "bad  byte",
		strings.Repeat("é", 500): strings.Repeat("é", 100),
	} {
		if got := clip(in); got != want {
			t.Errorf("clip(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, v := range []any{request{Look: true}, response{Error: "no"}, response{Half: seen(Direct)}} {
		var b bytes.Buffer
		if err := writeFrame(&b, v); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add(binary.BigEndian.AppendUint32(nil, maxFrame+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req request
		if readFrame(bytes.NewReader(b), &req) == nil && req.Start != nil && req.Start.validate() == nil {
			if s := req.Start.span(); s <= 0 || s.Seconds() > MaxSeconds || req.Start.skip() >= s {
				t.Errorf("%+v was let through", req.Start)
			}
		}
		var res response
		if readFrame(bytes.NewReader(b), &res) != nil || res.Hello == nil {
			return
		}
		for _, r := range res.Hello.introduced().Name {
			if !unicode.IsPrint(r) {
				t.Errorf("%q holds %q", res.Hello.introduced().Name, r)
			}
		}
	})
}

// What check lets through can be computed with, and be written as JSON.
func FuzzHalfCheck(f *testing.F) {
	h := seen(Direct)
	h.Received, h.Counted, h.Intervals = 100, 90, []uint64{50, 50}
	h.After.Out = map[string]Classes{Relayed: {Probes: 1}}
	b, err := json.Marshal(h)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add([]byte(`{"cpu_s":1e9,"datagrams_sent":18446744073709551615,"jitter_ms":-1}`), true)
	f.Fuzz(func(t *testing.T, b []byte, udp bool) {
		const wrote = 1000
		p := tried(Direct)
		p.mine.Intervals = make([]uint64, 3)
		if udp {
			p.spec.UDPMbps = 1
		}
		if json.Unmarshal(b, p.their) != nil || p.their.check(wrote) != nil {
			return
		}
		c := measured(func(into *pair, r *Round) { *into = *p; r.Result = into.result(nil) })
		r := c.report.Rounds[0]
		if r.Bytes > wrote || r.Goodput < 0 || len(r.Intervals) != 3 {
			t.Errorf("round %+v of %d bytes", r, wrote)
		}
		if l := r.Loss; l != nil && !(*l >= 0 && *l <= 1) {
			t.Errorf("loss %v", *l)
		}
		c.report.Direct = c.figures(Direct)
		c.report.Sender, c.report.Receiver = c.ends()
		if _, err := json.Marshal(c.report); err != nil {
			t.Error(err)
		}
	})
}
