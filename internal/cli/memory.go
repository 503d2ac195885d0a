package cli

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a burst of work leaves in pools and as garbage, the Go runtime keeps for
// minutes, as nothing allocates that would make it collect.
const (
	lookEvery    = 10 * time.Second
	quietBytes   = 4 << 20 // allocated between two looks: less is quiet
	worthTheWork = 8 << 20 // held beyond what was left the last time
)

// GiveBack returns to the system what a burst of work has left, when it is over,
// until ctx ends. It costs a garbage collection, which a process that has nothing
// to do does not feel.
func GiveBack(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	before := memory{}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := readMemory()
		now.left = before.left
		if now.worthGivingBack(before) {
			debug.FreeOSMemory()
			now.left = readMemory().held
		}
		before = now
	}
}

// memory is what is known of this process's at one moment, in bytes.
type memory struct {
	allocated uint64 // since the start
	held      uint64 // of the system's
	left      uint64 // held, after it was last given back; 0: never
}

func readMemory() memory {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	return memory{allocated: value(0), held: value(1) - value(2)}
}

// worthGivingBack decides, from a look and the one before it.
func (m memory) worthGivingBack(before memory) bool {
	quiet := m.allocated-before.allocated < quietBytes
	return quiet && m.held >= m.left+worthTheWork
}
