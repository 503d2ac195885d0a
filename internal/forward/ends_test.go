package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestWhatAnEndingLeaves(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name     string
		e        ending
		readsOut bool
		want     rest
	}{
		{"the program has sent all", ending{outward, atFar, nil}, true, all},
		{"the peer has sent all", ending{inward, atNear, nil}, true, all},
		{"the program has reset", ending{outward, atNear, broken}, true, nothing},
		{"the peer takes no more, its answer may be on the way", ending{outward, atFar, broken}, true, remains},
		{"the peer has reset", ending{inward, atFar, broken}, true, nothing},
		{"the program takes no more, its answer may be in the kernel", ending{inward, atNear, broken}, true, remains},
		{"standard output is closed, standard input is not", ending{inward, atNear, broken}, false, nothing},
	} {
		if got := tt.e.leaves(tt.readsOut); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// taken waits until all that was written to c has left its machine.
func taken(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells what was taken")
	}
	for end := time.Now().Add(patience); untaken(c) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("what was written is not taken")
			return
		}
	}
}

// fourAndReset answers a byte with four and a reset. It waits for that byte: a
// reset that comes before the client's dial has returned is an error of the dial.
func fourAndReset(t *testing.T) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.Write([]byte("four"))
		taken(t, c)
		reset(c)
	}
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// On loopback alone every client gets what came before a reset, and then the
// reset. Through a forward it is the same, whatever made the target reset.
func TestDataComesBeforeAReset(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for _, tt := range []struct {
		name   string
		target func(*net.TCPConn)
		client func(*net.TCPConn)
		want   []byte
	}{
		{
			name:   "at once",
			target: fourAndReset(t),
			client: func(c *net.TCPConn) { c.Write([]byte("?")) },
			want:   []byte("four"),
		}, {
			name:   "more than fits into the buffers of one step, to a client that does not read yet",
			target: func(c *net.TCPConn) { c.Write(big); taken(t, c); reset(c) },
			client: func(*net.TCPConn) { time.Sleep(20 * time.Millisecond) },
			want:   big,
		}, {
			name: "an answer and a close before the upload has ended",
			target: func(c *net.TCPConn) {
				io.ReadFull(c, make([]byte, 1000))
				c.Write([]byte("413"))
				c.Close() // with unread bytes, which is a reset
			},
			client: func(c *net.TCPConn) { c.Write(big) },
			want:   []byte("413"),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				addr := target(t, tt.target)
				r := newRig(t, addr, addr)
				c := r.dial(t)
				tt.client(c)
				if got, err := io.ReadAll(c); !bytes.Equal(got, tt.want) || !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("got %d bytes, %v; want %d and a connection reset", len(got), err, len(tt.want))
				}
			}
		})
	}
}

// It is the same for what a client sends before it resets.
func TestDataComesBeforeAResetOfTheClient(t *testing.T) {
	for range 20 {
		var got []byte
		done := make(chan error, 1)
		addr := target(t, func(c *net.TCPConn) {
			var err error
			got, err = io.ReadAll(c)
			done <- err
		})
		c := newRig(t, addr, addr).dial(t)
		c.Write([]byte("four"))
		reset(c)
		if err := <-done; string(got) != "four" || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the target got %q, %v; want all and a connection reset", got, err)
		}
	}
}

// couple is a TCP connection on loopback, as both ends see it.
func couple(t *testing.T) (near, program *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(); p.Close() })
	markAbortive(n)
	return n.(*net.TCPConn), p.(*net.TCPConn)
}

// The kernel tells the error of a reset once, to a read or to a write. The other
// one must not take what it sees for an end.
func TestAResetIsNeverAnEnd(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a reset that was reported already")
	}
	for range 100 {
		near, program := couple(t)
		local, remote := newStream()
		remote.Accept()
		spliced := make(chan error, 1)
		go func() { _, err := splice(t.Context(), near, local); spliced <- err }()
		go func() {
			for {
				if _, err := remote.Write(make([]byte, bufferSizes[2])); err != nil {
					return
				}
			}
		}()
		io.ReadFull(program, make([]byte, bufferSizes[2]))
		reset(program)
		if _, err := io.ReadAll(remote); err == nil {
			t.Fatal("the reset of a program was a clean end for the peer")
		}
		if err := <-spliced; err == nil {
			t.Fatal("the reset of a program was a clean end")
		}
		remote.Reset(session.CodeReset)
	}
}

// What both sides have ended is delivered, however late it is taken.
func TestTheTailOfACleanEnd(t *testing.T) {
	tail := bytes.Repeat([]byte("tail"), 256<<10)
	near, program := couple(t)
	near.SetWriteBuffer(8 << 20)
	local, remote := newStream()
	remote.Accept()
	go func() {
		remote.Write(tail)
		remote.CloseWrite()
	}()
	program.CloseWrite()
	if _, err := splice(t.Context(), near, local); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(program); !bytes.Equal(got, tail) || err != nil {
		t.Errorf("%d of %d bytes, %v", len(got), len(tail), err)
	}
}

// Nobody can keep a connection that has failed by not taking what is left of it.
func TestAFailedConnectionThatNobodyReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(remote *end)
	}{
		{"the peer takes no more", func(remote *end) { remote.StopReading(session.CodeReset) }},
		{"the peer resets", func(remote *end) { remote.Reset(session.CodeReset) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, program := couple(t)
			near.SetWriteBuffer(64 << 10)
			local, remote := newStream()
			remote.Accept()
			var writing sync.WaitGroup
			c := crossing{near: near, far: local, stalled: 100 * time.Millisecond, endings: make(chan ending, 2)}
			writing.Go(c.outward)
			writing.Go(c.inward)
			writing.Go(func() {
				for err := error(nil); err == nil; _, err = remote.Write(make([]byte, bufferSizes[2])) {
				}
			})
			for c.in.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			tt.fail(remote)
			if err := c.watch(t.Context()); err == nil {
				t.Error("no error")
			}
			local.Reset(session.CodeReset)
			abort(near)
			writing.Wait()
			if _, err := io.Copy(io.Discard, program); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the program sees %v, want a connection reset", err)
			}
		})
	}
}

// A stream that was accepted is not called refused, whatever ends it.
func TestAResetIsNoRefusal(t *testing.T) {
	addr := target(t, fourAndReset(t))
	r := newRig(t, addr, addr)
	c := r.dial(t)
	c.Write([]byte("?"))
	io.ReadAll(c)
	for {
		switch e := (<-r.opening).(type) {
		case trace.StreamRefused:
			t.Fatalf("%+v", e)
		case trace.StreamClosed:
			if e.Cause == "" || e.BytesIn != 4 {
				t.Errorf("closed: %+v", e)
			}
			return
		}
	}
}

// What is left to deliver does not hold up the end of the link.
func TestTheEndOfTheLinkWaitsForNobody(t *testing.T) {
	near, _ := couple(t)
	local, remote := newStream()
	remote.Accept()
	go func() {
		for err := error(nil); err == nil; _, err = remote.Write(make([]byte, bufferSizes[2])) {
		}
	}()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("link ended")
	over := make(chan error, 1)
	go func() { _, err := splice(ctx, near, local); over <- err }()
	near.Read(nil)
	remote.StopReading(session.CodeReset)
	cancel(gone)
	if err := <-over; err == nil {
		t.Error("no error")
	}
}
