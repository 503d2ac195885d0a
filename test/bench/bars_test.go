package main

import "testing"

func TestJudge(t *testing.T) {
	r := newResults()
	for round, v := range []float64{50, 55, 70} {
		recorder{r, round}.set("memory", v)
		recorder{r, round}.set("half", v/2)
	}
	for _, tc := range []struct {
		name string
		bar  bar
		want judgement
	}{
		{"the median is below", bar{over: "memory", limit: 60}, met},
		{"the worst is not", bar{over: "memory", limit: 60, worst: true}, notMet},
		{"at the limit", bar{over: "memory", limit: 70, worst: true}, met},
		{"at least", bar{over: "memory", limit: 55, least: true}, met},
		{"the least of all", bar{over: "memory", limit: 55, least: true, worst: true}, notMet},
		{"ratio", bar{over: "memory", under: "half", limit: 2, least: true}, met},
		{"ratio too small", bar{over: "memory", under: "half", limit: 2.1, least: true}, notMet},
		{"aim reached", bar{over: "memory", under: "half", limit: 1, least: true, aim: 2}, metAim},
		{"aim not reached", bar{over: "memory", under: "half", limit: 1, least: true, aim: 3}, met},
		{"not there", bar{over: "speed", limit: 1}, notMeasured},
		{"baseline not there", bar{over: "memory", under: "speed", limit: 1}, notMeasured},
	} {
		if _, got := tc.bar.judge(r); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestWanted(t *testing.T) {
	for want, b := range map[string]bar{
		"≥ 0.22, aim 0.3": {limit: 0.22, least: true, aim: 0.3},
		"≤ 60 MB":         {limit: 60, unit: "MB"},
		"≤ 0.78":          {limit: 0.78},
	} {
		if got := b.wanted(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Two loads of one key would overwrite each other's figures.
func TestTurnLoadsAreDistinct(t *testing.T) {
	seen := map[key]bool{}
	for _, l := range turnLoads() {
		k := l.key(signalServer, "cpu")
		if seen[k] {
			t.Errorf("%s twice", k)
		}
		seen[k] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d loads, want 8", len(seen))
	}
}
