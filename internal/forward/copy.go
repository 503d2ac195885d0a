package forward

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

// What one direction of one connection holds: little while it is idle or slow,
// much while its reads fill what there is.
var bufferSizes = [...]int{4 << 10, 32 << 10, 256 << 10}

// stalled is how long the rest of a connection that has failed may make no
// progress. What came before a failure is still delivered, at the pace of whoever
// takes it.
const stalled = 10 * time.Second

// blindWait is how long a program may take for the same where the system does not
// say whether it has.
const blindWait = 200 * time.Millisecond

// buffers has a pool for each of bufferSizes.
var buffers = func() (pools [len(bufferSizes)]*sync.Pool) {
	for i, size := range bufferSizes {
		pools[i] = &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
	}
	return pools
}()

// A Stream is the far half of a forwarded connection; *session.Stream is one.
type Stream interface {
	io.Reader
	io.Writer
	CloseWrite() error

	// Reset ends both directions. What was written before arrives first.
	Reset(session.Code)

	// StopReading has the peer send no more.
	StopReading(session.Code)

	// Stopped is closed when the peer takes no more, or this side has ended its
	// direction.
	Stopped() <-chan struct{}
}

// A Near is the half on this machine: a TCP connection, or stdin and stdout.
type Near interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Totals are the payload bytes of one connection.
type Totals struct{ In, Out int64 } // from the peer, to the peer

// splice copies both ways until both directions have ended, and ends both
// sides. A clean end of one direction is passed on as a half-close. An error
// ends both sides by a reset, after what came before it has been delivered, as
// far as somebody takes it. splice returns the first error, or the cause of ctx's
// end, which ends both sides at once.
func splice(ctx context.Context, near Near, far Stream) (Totals, error) {
	c := crossing{near: near, far: far, stalled: stalled, endings: make(chan ending, 2)}
	var running sync.WaitGroup
	running.Go(c.outward)
	running.Go(c.inward)
	cause := c.watch(ctx)
	if cause != nil {
		far.Reset(session.CodeReset)
		abort(near)
	} else {
		endCleanly(near)
	}
	running.Wait()
	return Totals{In: c.in.Load(), Out: c.out.Load()}, cause
}

// A crossing is one connection while it is carried.
type crossing struct {
	near    Near
	far     Stream
	stalled time.Duration
	endings chan ending

	in, out    atomic.Int64 // payload bytes so far
	halfClosed atomic.Bool  // the program was told that nothing more comes
	finished   atomic.Bool  // the peer was told so
}

// outward carries what the program sends.
func (c *crossing) outward() {
	readErr, writeErr := pump(c.far, c.near, &c.out)
	switch {
	case readErr != nil:
		c.endings <- ending{outward, atNear, readErr}
		return
	case writeErr != nil:
		c.endings <- ending{outward, atFar, writeErr}
		return
	}
	// A reset whose error the other direction has been told of looks like an
	// end from here.
	if gone := isReset(c.near); gone && !c.halfClosed.Load() {
		c.endings <- ending{outward, atNear, errGone}
		return
	}
	c.finished.Store(true)
	c.endings <- ending{outward, atFar, c.far.CloseWrite()}
}

// inward carries what the peer sends.
func (c *crossing) inward() {
	readErr, writeErr := pump(c.near, c.far, &c.in)
	switch {
	case readErr != nil:
		c.endings <- ending{inward, atFar, readErr}
		return
	case writeErr != nil:
		c.endings <- ending{inward, atNear, writeErr}
		return
	}
	c.halfClosed.Store(true)
	c.near.CloseWrite() // an error here is a program that has gone; its own direction tells how
	c.endings <- ending{inward, atNear, nil}
}

var (
	errGone    = errors.New("connection reset")
	errStopped = errors.New("the peer takes no more")
)

// watch waits for the end of both directions, or of the connection, and returns
// the first error. Then nothing is left to deliver.
func (c *crossing) watch(ctx context.Context) (cause error) {
	stopped := c.far.Stopped()
	var ended [2]bool
	var slow watchdog
	defer slow.stop()
	for {
		var e ending
		select {
		case e = <-c.endings:
		case <-stopped:
			stopped = nil
			if ended[outward] || c.finished.Load() {
				continue // by our own end, which tells of itself
			}
			e = ending{outward, atFar, errStopped}
		case <-slow.ticks():
			if slow.since(c.in.Load()+c.out.Load()) >= c.stalled {
				return cause
			}
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		ended[e.dir] = true
		if e.err != nil && (cause == nil || cause == errStopped) {
			cause = e.err
		}
		switch e.leaves(readsOut(c.near)) {
		case nothing:
			if e.at == atFar {
				c.drain(ctx)
			}
			return cause
		case remains:
			if e.dir == inward {
				c.far.StopReading(session.CodeReset)
			}
			slow.start(c.stalled / 10)
		}
		if ended[outward] && ended[inward] {
			if cause != nil {
				c.drain(ctx)
			}
			return cause
		}
	}
}

type direction int

const (
	outward direction = iota // from the program to the peer
	inward
)

type place int

const (
	atNear place = iota
	atFar
)

// An ending is how one direction ended: where, and why; nil for a clean end.
type ending struct {
	dir direction
	at  place
	err error
}

// A rest is what an ending leaves of the other direction.
type rest int

const (
	all     rest = iota // it goes on
	remains             // it delivers what it has, and then ends by itself
	nothing
)

// leaves decides what becomes of the other direction. readsOut says that a
// program which takes no more can still be read, until its end.
func (e ending) leaves(readsOut bool) rest {
	switch {
	case e.err == nil:
		return all
	case e.dir == outward && e.at == atFar:
		return remains // what the peer sent before it stopped reading, and why it did
	case e.dir == inward && e.at == atNear && readsOut:
		return remains // what the program sent before it went
	}
	return nothing
}

// notKnown is what untaken returns where the system does not tell.
const notKnown = -1

// drain waits until the program's machine has taken what was written, for a reset
// drops what it has not. It gives up when nothing moves; and after a moment where
// that cannot be seen.
func (c *crossing) drain(ctx context.Context) {
	last, since := 0, time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		n, patience := untaken(c.near), c.stalled
		if n == notKnown {
			patience = min(patience, blindWait)
		}
		switch {
		case n == 0:
			return
		case n != last:
			last, since = n, time.Now()
		case time.Since(since) >= patience:
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// A watchdog tells for how long a number has not changed, once it is started.
type watchdog struct {
	ticker *time.Ticker
	last   int64
	at     time.Time
}

func (w *watchdog) start(look time.Duration) {
	if w.ticker == nil {
		w.ticker, w.last = time.NewTicker(look), -1
	}
}

func (w *watchdog) stop() {
	if w.ticker != nil {
		w.ticker.Stop()
	}
}

func (w *watchdog) ticks() <-chan time.Time {
	if w.ticker == nil {
		return nil
	}
	return w.ticker.C
}

func (w *watchdog) since(n int64) time.Duration {
	now := time.Now()
	if n != w.last {
		w.last, w.at = n, now
	}
	return now.Sub(w.at)
}

// pump copies until an end, counting, and says on which side an error was; both
// are nil for a clean end.
func pump(dst io.Writer, src io.Reader, count *atomic.Int64) (readErr, writeErr error) {
	class := 0
	buf := buffers[class].Get().(*[]byte)
	defer func() { buffers[class].Put(buf) }()
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			m, err := dst.Write((*buf)[:n])
			count.Add(int64(m))
			if err != nil {
				return nil, err
			}
		}
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
		if next := classFor(n, class); next != class {
			buffers[class].Put(buf)
			class, buf = next, buffers[next].Get().(*[]byte)
		}
	}
}

// classFor is which buffer the next read gets, after one of n bytes: a larger one
// when it was filled, and else the smallest that the same read would not fill.
func classFor(n, class int) int {
	if n == bufferSizes[class] {
		return min(class+1, len(bufferSizes)-1)
	}
	for class > 0 && n < bufferSizes[class-1] {
		class--
	}
	return class
}
