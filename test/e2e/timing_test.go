package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// How fast two peers that know each other are linked, without any delay on the
// lines: the time is the programs' own.
func TestTiming(t *testing.T) {
	needLinux(t)
	runs := 5
	full := os.Getenv("P2PAGENT_FULL") != ""
	if full {
		runs = 50
	}
	results := measured(t, 10*time.Minute, "--a", "port-restricted", "--b", "port-restricted", "--runs", fmt.Sprint(runs), "--trace", t.ArtifactDir())
	if len(results) != runs {
		t.Errorf("%d results of %d runs", len(results), runs)
	}
	var first, direct []int64
	for i, r := range results {
		if err := r.check(); err != nil {
			t.Fatalf("run %d: %v", i+1, err)
		}
		first, direct = append(first, *r.FirstByteMS), append(direct, *r.DirectMS)
	}
	t.Logf("first_byte_ms: median %d, 95th percentile %d, of %v", percentile(first, 50), percentile(first, 95), first)
	t.Logf("direct_ms: median %d, 95th percentile %d, of %v", percentile(direct, 50), percentile(direct, 95), direct)
	if !full {
		return // too few to compare with the bars
	}
	if got, bar := percentile(first, 50), int64(100); got > bar {
		t.Errorf("first_byte_ms: median %d, at most %d allowed", got, bar)
	}
	if got, bar := percentile(direct, 50), int64(250); got > bar {
		t.Errorf("direct_ms: median %d, at most %d allowed", got, bar)
	}
	for name, values := range map[string][]int64{"first_byte_ms": first, "direct_ms": direct} {
		if got, bar := percentile(values, 95), 2*percentile(values, 50); got > bar {
			t.Errorf("%s: 95th percentile %d, at most twice the median, %d, allowed", name, got, bar)
		}
	}
}

// percentile is the smallest value that at least p percent of all do not exceed.
func percentile(values []int64, p int) int64 {
	v := slices.Sorted(slices.Values(values))
	return v[(len(v)*p+99)/100-1]
}
