package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// resident is the memory of a process, in MB.
func (p *process) resident(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return float64(kb) / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// manyConnections makes n connections, so many at a time, each of which says a
// little and has it said back.
func manyConnections(t *testing.T, address string, n, atOnce int) {
	t.Helper()
	var all sync.WaitGroup
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	close(left)
	for range atOnce {
		all.Go(func() {
			for range left {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				c.Write([]byte("hello"))
				c.(*net.TCPConn).CloseWrite()
				if b, err := io.ReadAll(c); string(b) != "hello" {
					t.Errorf("got %q, %v", b, err)
				}
				c.Close()
			}
		})
	}
	all.Wait()
}

// What many connections leave is little while they come, and less when they have
// ended. The programs alone are 20 MB, of which 17 are their code.
func TestMemoryOfManyConnections(t *testing.T) {
	const (
		atOnce = 300
		most   = 40 // MB of each agent
	)
	port := fmt.Sprintf("127.0.0.1:%d", freePorts(t))
	w := newWorld(t)
	a := w.alice.start(t, "connect", "bob", "-L", port+":"+w.echo)
	a.await(t, a.stderr, "session up")
	agents := []*process{a, w.listener}
	level := func(when string) (worst float64) {
		for _, p := range agents {
			mb := p.resident(t)
			worst = max(worst, mb)
			t.Logf("%s: %.1f MB, %s", when, mb, p.name)
		}
		return worst
	}
	level("at the start")
	t.Run("5,000", func(t *testing.T) {
		manyConnections(t, port, 5000, atOnce)
		if got := level("after 5,000"); got > most {
			t.Errorf("%.1f MB after 5,000 connections, want %d at most", got, most)
		}
	})
	t.Run("100,000", func(t *testing.T) {
		needFull(t, "100,000 connections take a minute")
		manyConnections(t, port, 95000, atOnce)
		if got := level("after 100,000"); got > most {
			t.Errorf("%.1f MB after 100,000 connections, want %d at most", got, most)
		}
		time.Sleep(30 * time.Second)
		if got := level("half a minute later"); got > most-5 {
			t.Errorf("%.1f MB half a minute later, want %d at most", got, most-5)
		}
	})
}
