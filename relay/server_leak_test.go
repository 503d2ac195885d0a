package relay

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
)

// Ten thousand allocations, made and expired, leave nothing behind: no
// goroutine, no socket, no memory, no entry anywhere. The server's clock is
// moved, so that channels and permissions expire as well; the lifetimes are
// the shortest that a client can have.
func TestNoLeakOverManyAllocations(t *testing.T) {
	total := 10000
	if raceEnabled {
		total = 1000
	}
	clk := newClock()
	cfg := labConfig()
	cfg.Now = clk.now
	cfg.Limits = Limits{
		AllocationsPerUser: 20000, AllocationsPerIP: 20000, SessionRate: 1e9, RequestsPerUser: 1e6,
		ErrorsPerSecond: 5000, ErrorsPerSecondTotal: 5000,
	}
	s := startServer(t, cfg)
	warm := dialTURN(t, s, "udp", "warm")
	warm.allocate()
	wantCode(t, warm.refresh(0), 0)
	waitFor(t, "the first allocation to end", func() bool { return s.places() == 0 })
	goroutines, files, heap := runtime.NumGoroutine(), openFiles(t), heapInUse()

	const atOnce = 2000
	var clients [atOnce]*turnClient // open, so that few others get the port meanwhile
	client := func() *turnClient {
		for {
			c := new(turnClient)
			*c = *warm
			var err error
			if c.conn, err = net.Dial("udp4", s.UDPAddr().String()); err != nil {
				t.Fatal(err)
			}
			answer := c.tryAllocate(time.Second)
			if code, _, _ := answer.ErrorCode(); code == codeAllocationMismatch {
				defer c.conn.Close() // the port of one that has not expired yet; keep it while looking for another
				continue
			}
			wantCode(t, answer, 0)
			return c
		}
	}
	bound := 0
	for i := range total {
		waitFor(t, "room", func() bool { return s.places() < atOnce })
		if old := clients[i%atOnce]; old != nil {
			old.conn.Close()
		}
		c := client()
		if i%10 == 0 {
			answer := c.bind(0x4000, netip.AddrPortFrom(loopback, 9))
			if code, _, _ := answer.ErrorCode(); code != codeAllocationMismatch { // expired, on a stalled machine
				wantCode(t, answer, 0)
				bound++
			}
			clk.advance(time.Second)
		}
		clients[i%atOnce] = c
	}
	if bound < total/20 {
		t.Errorf("only %d channels were bound", bound)
	}
	for i, c := range clients {
		if c != nil {
			c.conn.Close()
			clients[i] = nil
		}
	}
	waitFor(t, "all to expire", func() bool { return s.places() == 0 })
	waitFor(t, "their goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	waitFor(t, "their sockets to be closed", func() bool { return openFiles(t) <= files })
	if grown := heapInUse() - heap; grown > 4<<20 { // tables keep the size they once had
		t.Errorf("the heap grew by %d kB", grown>>10)
	}
	if st := s.Stats(); st.AllocationsTotal != int64(total)+1 || st.Allocations != 0 {
		t.Errorf("stats %+v", st)
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if n := len(s.ledger.byPort) + len(s.ledger.byTuple) + len(s.ledger.users) + len(s.ledger.sources) + len(s.ledger.held); n != 0 {
		t.Errorf("%d entries left in the tables", n)
	}
	if got := len(s.events); got > 2*keptEvents {
		t.Errorf("%d events kept", got)
	}
}

// openFiles is 0 where the system does not tell.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(entries)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// places counts the allocations, and those under way to being one.
func (s *Server) places() int {
	s.ledger.mu.RLock()
	defer s.ledger.mu.RUnlock()
	return s.ledger.total
}
