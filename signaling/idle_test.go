package signaling

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"testing"
)

// TestIdleConnectionIsSmall: what a listener that waits costs, stacks and heap, the
// sockets of both sides included. BenchmarkSignaling in test/bench has the resident
// memory of a whole process.
func TestIdleConnectionIsSmall(t *testing.T) {
	const listeners = 500
	most := 10 << 10
	if raceEnabled { // its frames are larger
		most *= 2
	}
	ts := serve(t, ServerConfig{})
	var before, after runtime.MemStats
	settled := func(m *runtime.MemStats) {
		for range 3 { // each halves a stack that is too large
			runtime.GC()
		}
		runtime.ReadMemStats(m)
	}
	settled(&before)
	for i := range listeners {
		waitingListener(t, ts, fmt.Sprintf("idle-%d", i))
	}
	until(t, "all writers at rest", func() bool {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		for _, c := range ts.conns {
			c.mu.Lock()
			writing := c.writing
			c.mu.Unlock()
			if writing {
				return false
			}
		}
		return len(ts.conns) == listeners
	})
	settled(&after)
	heap := int(after.HeapAlloc-before.HeapAlloc) / listeners
	stack := int(after.StackInuse-before.StackInuse) / listeners
	t.Logf("%d bytes of heap, %d of stack", heap, stack)
	if heap+stack > most {
		t.Errorf("a waiting listener costs %d bytes of heap and %d of stack, together more than %d", heap, stack, most)
	}
}

// waitingListener hosts a mailbox and does nothing more. It has no goroutine.
func waitingListener(t *testing.T, ts *testServer, box string) {
	t.Helper()
	c, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", Path, ts.addr)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v, %v", resp, err)
	}
	for _, m := range []message{
		{Type: typeHello, Version: Version},
		{Type: typeRun, Run: randomSeat()},
		{Type: typeJoin, Mailbox: pad(box), Role: RoleHost, Seat: randomSeat()},
	} {
		b := encode(m)
		if _, err := c.Write(append([]byte{0x81, 0x80 | byte(len(b)), 0, 0, 0, 0}, b...)); err != nil || len(b) > 125 {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
}
