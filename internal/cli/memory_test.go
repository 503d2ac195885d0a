package cli

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestWhenMemoryIsGivenBack(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name   string
		m      memory
		before memory
		want   bool
	}{
		{"at the start, small", memory{allocated: 5 * mb, held: 7 * mb}, memory{allocated: 5 * mb}, false},
		{"in a burst", memory{allocated: 50 * mb, held: 40 * mb, left: 10 * mb}, memory{allocated: 5 * mb}, false},
		{"after it", memory{allocated: 52 * mb, held: 40 * mb, left: 10 * mb}, memory{allocated: 50 * mb}, true},
		{"when it has been given back", memory{allocated: 50*mb + 1000, held: 12 * mb, left: 12 * mb}, memory{allocated: 50 * mb}, false},
		{"after little work", memory{allocated: 60*mb + 1000, held: 19 * mb, left: 12 * mb}, memory{allocated: 60 * mb}, false},
	} {
		if got := tt.m.worthGivingBack(tt.before); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// What is read is what the decision is about.
func TestReadMemory(t *testing.T) {
	before := readMemory()
	garbage := make([]byte, 64<<20)
	for i := 0; i < len(garbage); i += 4096 {
		garbage[i] = 1
	}
	runtime.KeepAlive(garbage)
	full := readMemory()
	// a little of what was held before may have been given back meanwhile
	if full.allocated < before.allocated+uint64(len(garbage)) || full.held < before.held+(48<<20) {
		t.Errorf("from %+v to %+v with %d bytes more", before, full, len(garbage))
	}
	garbage = nil
	debug.FreeOSMemory()
	if left := readMemory(); left.held > full.held-(32<<20) {
		t.Errorf("from %+v to %+v when they are given back", full, left)
	}
}
