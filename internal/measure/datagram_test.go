package measure

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		name string
		add  []uint64
		new  []bool
	}{
		{"in order", []uint64{0, 1, 2}, []bool{true, true, true}},
		{"twice", []uint64{0, 0, 63, 63, 64, 64}, []bool{true, false, true, false, true, false}},
		{"out of order", []uint64{5, 3, 4, 3}, []bool{true, true, true, false}},
		{"a lap later", []uint64{7, 7 + windowSize, 7 + windowSize, 7}, []bool{true, true, false, false}},
		{"far ahead", []uint64{1, 1 << 60, 1<<60 - 1, 1, 1 << 60}, []bool{true, true, true, false, false}},
		{"the last number", []uint64{math.MaxUint64, math.MaxUint64 - 1, math.MaxUint64 - 1}, []bool{false, true, false}},
	} {
		var w window
		for i, n := range tt.add {
			if got := w.add(n); got != tt.new[i] {
				t.Errorf("%s: %d is new: %v, want %v", tt.name, n, got, tt.new[i])
			}
		}
	}
}

// Beside a set that keeps everything.
func TestWindowAgainstSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var w window
	seen, highest := map[uint64]bool{}, uint64(0)
	for range 200_000 {
		n := uint64(max(0, int64(highest)+rng.Int64N(200)-150))
		if rng.IntN(1000) == 0 {
			n += uint64(rng.IntN(3 * windowSize))
		}
		if got := w.add(n); got == seen[n] {
			t.Fatalf("%d is new: %v, highest %d", n, got, highest)
		}
		seen[n] = true
		highest = max(highest, n)
	}
}
