package relay

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// A thousand allocations, made and expired, leave nothing behind: no
// goroutine, no socket, no entry anywhere.
func TestNoLeakOverThousandAllocations(t *testing.T) {
	cfg := labConfig()
	cfg.Limits = Limits{AllocationsPerUser: 2000, AllocationsPerIP: 2000, ErrorsPerSecond: 5000, ErrorsPerSecondTotal: 5000}
	s := startServer(t, cfg)
	warm := dialTURN(t, s, "udp", "warm")
	warm.allocate()
	wantCode(t, warm.refresh(0), 0)
	waitFor(t, "the first allocation to end", func() bool { return s.places() == 0 })
	goroutines := runtime.NumGoroutine()

	const total, batch = 1000, 100
	for range total / batch {
		for i := range batch {
			c := dialTURN(t, s, "udp", "u")
			if i%10 != 0 {
				wantCode(t, c.tryAllocate(time.Second), 0)
			} else {
				wantCode(t, c.tryAllocate(3*time.Second), 0)
				wantCode(t, c.bind(0x4000, netip.AddrPortFrom(loopback, 9)), 0)
			}
		}
	}
	waitFor(t, "all to expire", func() bool { return s.places() == 0 })
	waitFor(t, "their goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if st := s.Stats(); st.AllocationsTotal != total+1 || st.Allocations != 0 {
		t.Errorf("stats %+v", st)
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if n := len(s.ledger.byPort) + len(s.ledger.byTuple) + len(s.ledger.users) + len(s.ledger.sources); n != 0 {
		t.Errorf("%d entries left in the tables", n)
	}
	if got := len(s.events); got > 2*keptEvents {
		t.Errorf("%d events kept", got)
	}
}

// places counts the allocations, and those under way to being one.
func (s *Server) places() int {
	s.ledger.mu.RLock()
	defer s.ledger.mu.RUnlock()
	return s.ledger.total
}
