package punch

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// direct says which pairs of NATs ICE with openers connects.
func direct(a, b kind) bool {
	switch {
	case a == udpBlocked || b == udpBlocked:
		return false
	case a == symmetric:
		return b == none || b == fullCone || b == addressRestricted
	case b == symmetric:
		return direct(b, a)
	}
	return true
}

func TestEveryPairOfNATs(t *testing.T) {
	for _, tt := range []struct {
		name                     string
		latency, signaling, late time.Duration
	}{
		{"no latency", 0, 0, 0},
		{"20 ms, b is 80 ms late", 20 * time.Millisecond, 30 * time.Millisecond, 80 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var took []time.Duration
			for _, ka := range kinds {
				for _, kb := range kinds {
					t.Run(string(ka)+"/"+string(kb), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							m := newMatch(ka, kb)
							m.world.latency, m.signaling, m.b.late = tt.latency, tt.signaling, tt.late
							m.run(t.Context())
							if !direct(ka, kb) {
								if m.a.err == nil || m.b.err == nil {
									t.Fatalf("connected: %v %v", m.a.res, m.b.res)
								}
								return
							}
							m.connected(t)
							took = append(took, m.a.took, m.b.took)
						})
					})
				}
			}
			slices.Sort(took)
			median := took[len(took)/2]
			t.Logf("median %v, slowest %v", median, took[len(took)-1])
			if limit := 100*time.Millisecond + 6*tt.latency + 2*tt.signaling + tt.late; median > limit {
				t.Errorf("median %v, want at most %v", median, limit)
			}
		})
	}
}
