package measure

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		q      float64
		want   float64 // NaN is none
	}{
		{"none", nil, 0.5, math.NaN()},
		{"one", []float64{7}, 0.99, 7},
		{"least", []float64{3, 1, 2}, 0, 1},
		{"most", []float64{3, 1, 2}, 1, 3},
		{"middle of three", []float64{3, 1, 2}, 0.5, 2},
		{"middle of four lies between", []float64{4, 1, 3, 2}, 0.5, 2.5},
		{"99th of a hundred and one", upTo(101), 0.99, 99},
		{"all the same", []float64{5, 5, 5}, 0.5, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.values)
			if got := quantile(tt.values, tt.q); !same(got, tt.want) {
				t.Errorf("got %v, want %v", show(got), tt.want)
			}
			if !slices.Equal(before, tt.values) {
				t.Error("the values were put into another order")
			}
		})
	}
}

// upTo is 0 to n-1, from the top.
func upTo(n int) (list []float64) {
	for i := range n {
		list = append(list, float64(n-1-i))
	}
	return list
}

// same compares with a number, or with NaN for none.
func same(got *float64, want float64) bool {
	if got == nil || math.IsNaN(want) {
		return got == nil && math.IsNaN(want)
	}
	return math.Abs(*got-want) < 1e-9
}

func TestVariation(t *testing.T) {
	for _, tt := range []struct {
		ms   []float64
		want float64
	}{
		{nil, math.NaN()},
		{[]float64{4}, math.NaN()},
		{[]float64{4, 4, 4}, 0},
		{[]float64{1, 3, 2}, 1.5},
	} {
		if got := variation(tt.ms); !same(got, tt.want) {
			t.Errorf("variation of %v is %v, want %v", tt.ms, show(got), tt.want)
		}
	}
}

func TestPer(t *testing.T) {
	for _, tt := range []struct{ a, b, want float64 }{
		{1, 2, 0.5},
		{0, 2, 0},
		{0, 0, math.NaN()},
		{1, 0, math.NaN()},
		{-1, 2, math.NaN()}, // CPU time that is not known
		{1, -2, math.NaN()},
		{1e300, 1e-300, math.NaN()},
		{math.NaN(), 1, math.NaN()},
	} {
		if got := per(tt.a, tt.b); !same(got, tt.want) {
			t.Errorf("%v per %v is %v, want %v", tt.a, tt.b, show(got), tt.want)
		}
	}
}

func TestMegabits(t *testing.T) {
	for _, tt := range []struct {
		bytes uint64
		s     float64
		want  float64
	}{{125_000, 1, 1}, {125_000, 0.1, 10}, {0, 1, 0}, {5, 0, 0}, {5, -1, 0}} {
		if got := megabits(tt.bytes, tt.s); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%d bytes in %v s are %v Mbit/s, want %v", tt.bytes, tt.s, got, tt.want)
		}
	}
}

// The clocks of the two sides may be as far apart as they like.
func TestJitter(t *testing.T) {
	ms := func(list ...int) (out []time.Duration) {
		for _, v := range list {
			out = append(out, time.Duration(v)*time.Millisecond)
		}
		return out
	}
	for _, tt := range []struct {
		name          string
		sent, arrived []time.Duration
		want          float64 // seconds
	}{
		{"none", nil, nil, 0},
		{"even", ms(0, 10, 20, 30), ms(500, 510, 520, 530), 0},
		{"clock ahead", ms(9000, 9010, 9020), ms(0, 10, 20), 0},
		{"one late by 16 ms", ms(0, 10), ms(5, 31), 0.001},
		{"and the next on time", ms(0, 10, 20), ms(5, 31, 25), 0.001 + (0.016-0.001)/16},
	} {
		var j jitter
		for i := range tt.sent {
			j.add(tt.arrived[i], tt.sent[i])
		}
		if math.Abs(j.value-tt.want) > 1e-9 {
			t.Errorf("%s: %v s, want %v", tt.name, j.value, tt.want)
		}
	}
}

func TestMeter(t *testing.T) {
	var m meter
	spec := roundSpec{Seconds: 0.35, Skip: 0.1}
	m.init(spec)
	const first = 700 // a long way
	for _, at := range []int{0, 99, 100, 250, 349, 350, 399, 400, 5000} {
		m.add(time.Duration(first+at)*time.Millisecond, 1)
	}
	m.add(-time.Second, 1) // of streams side by side, another one's may be counted first
	all, counted, intervals := m.total()
	if all != 10 || counted != 3 {
		t.Errorf("%d in all, %d counted, want 10 and 3", all, counted)
	}
	if want := []uint64{3, 1, 1, 3}; !slices.Equal(intervals, want) {
		t.Errorf("intervals %v, want %v", intervals, want)
	}
}
