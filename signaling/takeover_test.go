package signaling

import (
	"testing"
	"time"
)

func TestTakeovers(t *testing.T) {
	var seat takeovers
	now := time.Unix(1e9, 0)
	if wait := seat.wait(now); wait != 0 {
		t.Fatalf("the first one waits for %v", wait)
	}
	for i, want := range []time.Duration{5, 10, 20, 40, 60, 60, 60} {
		seat.add(now)
		if wait := seat.wait(now); wait != want*time.Second {
			t.Errorf("after %d takeovers the next one waits for %v, want %d s", i+1, wait, want)
		}
		if wait := seat.wait(now.Add(want * time.Second)); wait != 0 {
			t.Errorf("after %d takeovers and the pause: still %v", i+1, wait)
		}
		now = now.Add(want * time.Second)
	}
	now = now.Add(takeoverMemory)
	if wait := seat.wait(now); wait != 0 {
		t.Errorf("nothing is forgotten: %v", wait)
	}
	seat.add(now)
	if wait := seat.wait(now); wait != takeoverPause {
		t.Errorf("after a long rest %v, want %v", wait, takeoverPause)
	}
}
