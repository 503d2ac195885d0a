package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A farConn is one end of a link with a rate, a delay and a queue, in the time
// of a synctest bubble. It has a socket that carries nothing: quic-go looks for
// the path's MTU only if it can set that socket's options. It is no more than
// quic-go asks for, so that no packet goes past it.
type farConn struct {
	socket *net.UDPConn
	addr   *net.UDPAddr
	to     *farConn
	farLink

	mu       sync.Mutex
	leaves   time.Time // when all that was sent has left
	arriving []farPacket
	deadline time.Time
	wake     chan struct{} // what arrives or the deadline changed
}

type farLink struct {
	rate  float64       // bits per second, with IPv4 and UDP headers
	delay time.Duration // one way
	queue time.Duration // what more would wait for longer is dropped
}

type farPacket struct {
	at time.Time
	b  []byte
}

func newFarConns(t *testing.T, l farLink) (a, b *farConn) {
	end := func(port int) *farConn {
		return &farConn{
			socket:  loopback(t),
			addr:    &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port},
			farLink: l,
			wake:    make(chan struct{}, 1),
		}
	}
	a, b = end(1), end(2)
	a.to, b.to = b, a
	return a, b
}

func (c *farConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	const headers = 28
	now := time.Now()
	c.mu.Lock()
	if c.leaves.Before(now) {
		c.leaves = now
	}
	full := c.leaves.Sub(now) > c.queue
	if !full {
		c.leaves = c.leaves.Add(time.Duration(float64(len(b)+headers) * 8 / c.rate * 1e9))
	}
	at := c.leaves.Add(c.delay)
	c.mu.Unlock()
	if full {
		return len(b), nil
	}
	c.to.mu.Lock()
	c.to.arriving = append(c.to.arriving, farPacket{at, slices.Clone(b)})
	c.to.mu.Unlock()
	c.to.nudge()
	return len(b), nil
}

func (c *farConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, wait := c.next(b)
		switch {
		case n > 0:
			return n, c.to.addr, nil
		case wait <= 0:
			return 0, nil, os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.wake:
		}
		timer.Stop()
	}
}

// next takes the next packet, or says how long to wait; 0: the deadline is over.
func (c *farConn) next(b []byte) (n int, wait time.Duration) {
	// A network card gathers what comes within a moment.
	const moment = 200 * time.Microsecond
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = time.Hour
	if !c.deadline.IsZero() {
		wait = c.deadline.Sub(now)
	}
	if wait <= 0 || len(c.arriving) == 0 {
		return 0, wait
	}
	first := c.arriving[0]
	if first.at.After(now) {
		return 0, min(wait, max(first.at.Sub(now), moment))
	}
	c.arriving[0] = farPacket{}
	c.arriving = c.arriving[1:]
	return copy(b, first.b), wait
}

func (c *farConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	c.nudge()
	return nil
}

func (c *farConn) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *farConn) LocalAddr() net.Addr                   { return c.addr }
func (c *farConn) SetDeadline(t time.Time) error         { return c.SetReadDeadline(t) }
func (c *farConn) SetWriteDeadline(time.Time) error      { return nil }
func (c *farConn) SetReadBuffer(int) error               { return nil }
func (c *farConn) SetWriteBuffer(int) error              { return nil }
func (c *farConn) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }
func (c *farConn) Close() error                          { return nil }

// A flood is streams of one session that are written to as fast as they take it.
type flood struct {
	read []*atomic.Int64 // bytes, for each stream, at the other side
	end  func()          // no more is written; what was is still on its way
}

func newFlood(t *testing.T, from, to *Session, streams int) flood {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := flood{end: cancel}
	for range streams {
		f.read = append(f.read, new(atomic.Int64))
	}
	serve(t, to, func(_ context.Context, h Header, s *Stream) {
		s.Accept()
		b := make([]byte, 64<<10)
		for {
			n, err := s.Read(b)
			f.read[h.Target[0]].Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	for i := range streams {
		s := open(t, from, Header{KindMeasure, string(rune(i))})
		go func() {
			b := make([]byte, 64<<10)
			for ctx.Err() == nil {
				if _, err := s.Write(b); err != nil {
					return
				}
			}
			s.CloseWrite()
		}()
	}
	return f
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // pools keep what they hold through the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// 12.5 MB are on the way at 500 Mbit/s and 200 ms, which the windows must hold;
// and little of that memory may be held when it is over. After losses the queues
// of quic-go keep what they last held, until the next losses.
func TestWindowsFillAFarLink(t *testing.T) {
	if raceEnabled {
		t.Skip("much of what the heap holds is the race detector's")
	}
	for _, tt := range []struct {
		name  string
		queue time.Duration
		want  float64 // of the link's rate, as payload
		kept  int64   // bytes, at most, after the transfer
	}{
		{"the queue takes what slow start sends too much", 150 * time.Millisecond, 0.93, 1 << 20},
		{"the queue overflows once", 50 * time.Millisecond, 0.65, 6 << 20}, // quic-go's Reno grows back for minutes
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFarConns(t, farLink{rate: 500e6, delay: 100 * time.Millisecond, queue: tt.queue})
				client, server := pairOver(t, a, b)
				before := heap()

				f := newFlood(t, client, server, 1)
				time.Sleep(4 * time.Second) // slow start
				skip := f.read[0].Load()
				time.Sleep(time.Second)
				got := float64(f.read[0].Load()-skip) * 8
				t.Logf("%.0f Mbit/s of payload", got/1e6)
				if got < tt.want*a.rate {
					t.Errorf("%.0f Mbit/s of payload, want %.2f of the link's %.0f", got/1e6, tt.want, a.rate/1e6)
				}
				busy := heap() - before

				f.end()
				time.Sleep(5 * time.Second)
				idle := heap() - before
				if busy < 8<<20 || idle > tt.kept {
					t.Errorf("the transfer held %d bytes, and %d are held after it; want what was on the way, then at most %d", busy, idle, tt.kept)
				}
			})
		})
	}
}

func TestStreamsShareTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFarConns(t, farLink{rate: 100e6, delay: 10 * time.Millisecond, queue: 20 * time.Millisecond})
		client, server := pairOver(t, a, b)
		f := newFlood(t, client, server, 8)
		time.Sleep(2 * time.Second)
		fair := 0.9 * a.rate / 8 * 2 / 8 // bytes
		for i, n := range f.read {
			if got := float64(n.Load()) / fair; got < 0.8 {
				t.Errorf("stream %d of 8 has got %.2f of its share", i, got)
			}
		}
		f.end()
	})
}

// A person stops a film in one program and goes on in another. Bytes for
// readers that do not read must not use up what all streams share, even when
// each stream that may be opened has stalled.
func TestStalledStreamsStopNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFarConns(t, farLink{rate: 1e9, delay: time.Millisecond, queue: 10 * time.Millisecond})
		client, server := pairOver(t, a, b)
		over := make(chan struct{})
		serve(t, server, func(_ context.Context, h Header, s *Stream) {
			s.Accept()
			if h.Kind == KindDial {
				<-over
				s.Reset(CodeShutdown)
				return
			}
			n, _ := io.Copy(io.Discard, s)
			fmt.Fprint(s, n)
			s.CloseWrite()
		})
		defer close(over)
		var sent atomic.Int64
		const stalled = maxStreams - 2 // the control stream, and the one that moves
		for range stalled {
			s := open(t, client, Header{KindDial, "film"})
			go func() {
				for b := make([]byte, 16<<10); ; {
					n, err := s.Write(b)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
		}
		time.Sleep(10 * time.Second)

		const size = 80 << 20 // more than what is left of the window: it must be renewed
		s := open(t, client, Header{KindMeasure, "download"})
		s.SetDeadline(time.Now().Add(10 * time.Second))
		go func() {
			s.Write(make([]byte, size))
			s.CloseWrite()
		}()
		if got, err := io.ReadAll(s); string(got) != fmt.Sprint(size) {
			t.Errorf("beside stalled streams %q of %d bytes arrived: %v", got, size, err)
		}
		frame := make(chan error, 1)
		go func() {
			_, err := server.Control().Receive()
			frame <- err
		}()
		if err := client.Control().Send([]byte("{}")); err != nil {
			t.Error(err)
		}
		select {
		case err := <-frame:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the control stream has stalled too")
		}
		if least := int64(stalled) * initialStreamWindow; sent.Load() < least-stalled*16<<10 {
			t.Errorf("%d bytes went to readers that do not read, want about %d: they have not stalled", sent.Load(), least)
		}
	})
}
