package measure

import (
	"math"
	"slices"
)

// quantile is the q-quantile (0 to 1) of values by linear interpolation, nil
// without any.
func quantile(values []float64, q float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	v := sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
	return &v
}

func median(values []float64) *float64 { return quantile(values, 0.5) }

// variation is the mean difference between one round trip and the next.
func variation(ms []float64) *float64 {
	if len(ms) < 2 {
		return nil
	}
	var sum float64
	for i := 1; i < len(ms); i++ {
		sum += math.Abs(ms[i] - ms[i-1])
	}
	v := sum / float64(len(ms)-1)
	return &v
}

// per is a/b, nil where that is no number.
func per(a, b float64) *float64 {
	v := a / b
	if a < 0 || b <= 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// megabits is a rate in 10^6 bits a second.
func megabits(bytes uint64, s float64) float64 {
	if s <= 0 {
		return 0
	}
	return float64(bytes) * 8 / s / 1e6
}
