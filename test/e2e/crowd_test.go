package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// occupy opens n connections, each of which says a byte and has it said back, and
// returns those that work and how many were reset.
func occupy(t *testing.T, address string, n int) (open []*net.TCPConn, resets int) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	lanes := make(chan struct{}, 64) // as many dials at once as a listener's backlog surely takes
	for range n {
		all.Go(func() {
			lanes <- struct{}{}
			defer func() { <-lanes }()
			c, err := net.Dial("tcp", address)
			if err == nil {
				t.Cleanup(func() { c.Close() })
				c.SetDeadline(time.Now().Add(patience))
				if _, err = c.Write([]byte("x")); err == nil {
					_, err = io.ReadFull(c, make([]byte, 1))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				open = append(open, c.(*net.TCPConn))
			case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
				resets++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	return open, resets
}

// As many connections as there may be, and some more, do not take another forward
// along; those are reset at once, and it is said why. It is over when they are.
func TestCrowdedForward(t *testing.T) {
	first := freePorts(t)
	port, other := fmt.Sprintf("127.0.0.1:%d", first), fmt.Sprintf("127.0.0.1:%d", first+1)
	w := newWorld(t, "listen:"+port, "listen:"+other)
	for _, flag := range []string{"-L", "-R"} {
		t.Run(flag, func(t *testing.T) {
			a := w.alice.start(t, "connect", "bob", flag, port+":"+w.echo, flag, other+":"+w.echo)
			a.await(t, a.stderr, "session up")
			crowded := a // who has the port
			if flag == "-R" {
				crowded = w.listener
			}
			dialUntil(t, port).Close()
			dialUntil(t, other).Close()
			open, resets := occupy(t, port, 520)
			if len(open) < 490 || len(open) > 496 || len(open)+resets != 520 { // those of dialUntil may not have ended
				t.Errorf("%d connections work and %d were reset, want 496 of 520 to work", len(open), resets)
			}
			crowded.await(t, crowded.stderr, port+": 512 connections are open or kept for other forwards, no more at once")
			if more, _ := occupy(t, other, 8); len(more) != 8 {
				t.Errorf("%d of 8 connections of the other forward work", len(more))
			}
			for _, c := range open {
				c.Close()
			}
			crowded.await(t, crowded.stderr, port+": connections are carried again")
			if open, resets := occupy(t, port, 64); resets > 0 {
				t.Errorf("after all have ended, %d connections work and %d are reset", len(open), resets)
			}
			if code := a.interrupt(t); code != 0 {
				t.Errorf("connect ended with %d:\n%s", code, a.stderr)
			}
		})
	}
}

// silentPort is an address on loopback where SYNs stay without an answer: a full
// backlog of one.
func silentPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "silent")
	t.Cleanup(func() { f.Close() })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp4", address, 500*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { c.Close() })
	}
}

// A target that answers no SYN has all the room that nobody else needs, and does not
// take another one along either.
func TestSilentTarget(t *testing.T) {
	silent := silentPort(t)
	first := freePorts(t)
	port, other := fmt.Sprintf("127.0.0.1:%d", first), fmt.Sprintf("127.0.0.1:%d", first+1)
	w := newWorld(t, silent)
	a := w.alice.start(t, "connect", "bob", "-L", port+":"+silent, "-L", other+":"+w.echo)
	a.await(t, a.stderr, "session up")
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	for range 520 {
		waiting.Go(func() {
			c, err := net.Dial("tcp", port)
			if err == nil {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				c.Read(make([]byte, 1))
			}
		})
	}
	a.await(t, a.stderr, port+": 512 connections are open or kept for other forwards, no more at once")
	if open, _ := occupy(t, other, 64); len(open) != 64 {
		t.Errorf("%d of 64 connections to the other target work", len(open))
	}
	a.await(t, a.stderr, port+": 256 connections wait for the target's answer, no more while other forwards need room")
}
