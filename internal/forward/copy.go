package forward

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

// What one direction of one connection holds: little while it is idle or slow,
// much while its reads fill what there is.
const (
	smallBuffer = 16 << 10
	largeBuffer = 256 << 10
)

var small, large = bufferPool(smallBuffer), bufferPool(largeBuffer)

func bufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
}

// A Stream is the far half of a forwarded connection; *session.Stream is one.
type Stream interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Reset(session.Code)
}

// A Near is the half on this machine: a TCP connection, or stdin and stdout.
type Near interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Totals are the payload bytes of one connection.
type Totals struct{ In, Out int64 } // from the peer, to the peer

// splice copies both ways until both directions have ended, and ends both
// sides: a clean end of one direction is passed on as a half-close, and the
// first error ends everything by a reset in both directions. It returns that
// error, or the cause of ctx's end.
func splice(ctx context.Context, near Near, far Stream) (Totals, error) {
	var in, out atomic.Int64
	var once sync.Once
	var cause error
	fail := func(err error) {
		once.Do(func() {
			cause = err
			far.Reset(session.CodeReset)
			abort(near)
		})
	}
	stop := context.AfterFunc(ctx, func() { fail(context.Cause(ctx)) })

	var dirs sync.WaitGroup
	dirs.Go(func() {
		if err := pump(far, near, &out); err != nil {
			fail(err)
		} else if err := far.CloseWrite(); err != nil {
			fail(err)
		}
	})
	dirs.Go(func() {
		if err := pump(near, far, &in); err != nil {
			fail(err)
			return
		}
		near.CloseWrite() // an error here is a program that has gone; its own direction tells how
	})
	dirs.Wait()
	stop()
	near.Close()
	once.Do(func() {}) // an end of ctx that comes now changes nothing any more
	return Totals{In: in.Load(), Out: out.Load()}, cause
}

// pump copies until a clean end, counting.
func pump(dst io.Writer, src io.Reader, count *atomic.Int64) error {
	pool := small
	buf := pool.Get().(*[]byte)
	defer func() { pool.Put(buf) }()
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, err := dst.Write((*buf)[:n]); err != nil {
				return err
			}
			count.Add(int64(n))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if next := bufferFor(n, len(*buf)); next != pool {
			pool.Put(buf)
			pool, buf = next, next.Get().(*[]byte)
		}
	}
}

// bufferFor is where the next buffer comes from, after a read of n bytes into
// one of size.
func bufferFor(n, size int) *sync.Pool {
	if n == size || n >= smallBuffer {
		return large
	}
	return small
}

// abort closes a TCP connection so that its program sees a reset and not an
// end of file, and unblocks its readers.
func abort(c io.Closer) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
		tcp.SetDeadline(time.Now())
	}
	c.Close()
}
