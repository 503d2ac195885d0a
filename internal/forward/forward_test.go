package forward

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// end is one end of an in-memory stream: the twin of session.Stream.
type end struct {
	r        *io.PipeReader
	w        *io.PipeWriter
	other    *end
	stopped  chan struct{}
	stop     func()
	accepted chan struct{} // closed when the far side has answered
	refusal  *error        // what it answered
	answer   func(error)
}

func newStream() (local, remote *end) {
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	accepted, refusal := make(chan struct{}), new(error)
	answer := func(err error) { *refusal = err; close(accepted) }
	once := new(sync.Once)
	local = &end{r: ar, w: bw, stopped: make(chan struct{}), accepted: accepted, refusal: refusal}
	remote = &end{r: br, w: aw, stopped: make(chan struct{}), answer: func(err error) { once.Do(func() { answer(err) }) }}
	local.answer = remote.answer
	local.other, remote.other = remote, local
	local.stop = sync.OnceFunc(func() { close(local.stopped) })
	remote.stop = sync.OnceFunc(func() { close(remote.stopped) })
	return local, remote
}

func (e *end) ID() int64 { return 4 }
func (e *end) Accepted() error {
	<-e.accepted
	if err := *e.refusal; err != nil {
		e.r.CloseWithError(err)
		return err
	}
	return nil
}
func (e *end) Accept() error {
	select {
	case <-e.stopped:
		return &session.ResetError{Code: session.CodeReset}
	default:
		e.answer(nil)
		return nil
	}
}
func (e *end) Refuse(c session.Code, reason string) {
	err := &session.RefusedError{Code: c, Reason: reason}
	e.answer(err)
	e.StopReading(c)
	e.w.CloseWithError(err)
}
func (e *end) Read(b []byte) (int, error) {
	if e.accepted != nil {
		if err := e.Accepted(); err != nil {
			return 0, err
		}
	}
	return e.r.Read(b)
}
func (e *end) Write(b []byte) (int, error) { return e.w.Write(b) }
func (e *end) CloseWrite() error {
	e.stop()
	runtime.Gosched() // whoever waits for that comes before our return
	return e.w.Close()
}
func (e *end) Reset(c session.Code) {
	err := &session.ResetError{Code: c}
	e.answer(err)
	e.StopReading(c)
	e.w.CloseWithError(err) // after the first Close it does nothing
	e.stop()
}
func (e *end) StopReading(c session.Code) {
	e.r.CloseWithError(&session.ResetError{Code: c})
	e.other.stop()
}
func (e *end) Stopped() <-chan struct{} { return e.stopped }

// rig forwards a local port to a target through in-memory streams.
type rig struct {
	addr    string
	opening chan trace.Event // of the side that has the port
	events  chan trace.Event // of the side that dials
}

func newRig(t *testing.T, allow, target string) *rig {
	t.Helper()
	list, err := ParseAllow(net.DefaultResolver, strings.Fields(allow))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{opening: make(chan trace.Event, 100), events: make(chan trace.Event, 100)}
	into := func(c chan trace.Event) *trace.Recorder {
		return trace.New("a", trace.SinkFunc(func(e trace.Record) { c <- e.Event }))
	}
	rec := into(r.events)
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	shares := NewTargetShares(100)
	running.Go(func() {
		ln.Serve(ctx, session.Header{Kind: session.KindDial, Target: target}, func(_ context.Context, h session.Header) (Opened, error) {
			local, remote := newStream()
			running.Go(func() { Dial(ctx, list, h.Target, remote, shares, rec) })
			return local, nil
		}, NewShares(100).Add(), into(r.opening))
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return r
}

func (r *rig) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// event waits for the next event of type E, of the side that dials.
func event[E trace.Event](t *testing.T, r *rig) E {
	t.Helper()
	return eventOf[E](t, r.events)
}

func eventOf[E trace.Event](t *testing.T, events <-chan trace.Event) E {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e, ok := e.(E); ok {
				return e
			}
		case <-time.After(patience):
			t.Fatalf("no %T within %v", *new(E), patience)
		}
	}
}

// target serves one connection with handle.
func target(t *testing.T, handle func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		c, err := ln.Accept()
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			handle(c.(*net.TCPConn))
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
	return ln.Addr().String()
}

// The sum of what was sent comes back after our half-close: the other
// direction stays open, and every byte arrived.
func TestHalfCloseThroughForward(t *testing.T) {
	addr := target(t, func(c *net.TCPConn) {
		sum := sha256.New()
		if _, err := io.Copy(sum, c); err == nil {
			c.Write(sum.Sum(nil))
		}
	})
	r := newRig(t, addr, addr)
	payload := make([]byte, 1<<20)
	rand.Read(payload)
	c := r.dial(t)
	if _, err := c.Write(payload); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if want := sha256.Sum256(payload); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("got %x %v, want %x", got, err, want)
	}
	closed := event[trace.StreamClosed](t, r)
	if closed.Cause != "" || closed.BytesIn != 1<<20 || closed.BytesOut != sha256.Size {
		t.Errorf("closed: %+v", closed)
	}
}

// A target that resets is a reset for our program, with what came before it.
func TestResetPassesThrough(t *testing.T) {
	addr := target(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		c.SetLinger(0)
		c.Close()
	})
	r := newRig(t, addr, addr)
	c := r.dial(t)
	c.Write([]byte("x"))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a connection reset", err)
	}
	if closed := event[trace.StreamClosed](t, r); closed.Cause == "" {
		t.Error("the reset left no cause in the trace")
	}
}

func TestRefusedTargets(t *testing.T) {
	unused := target(t, func(*net.TCPConn) {})
	for _, tt := range []struct{ name, allow, target, why, code string }{
		{"not allowed", "127.0.0.1:1", unused, "not on this side's --allow list", "not allowed"},
		{"nobody there", "127.0.0.1:1", "127.0.0.1:1", "dial 127.0.0.1:1: connection refused", "unreachable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.allow, tt.target)
			c, err := net.Dial("tcp", r.addr)
			if err == nil { // else the reset was quicker than the dial's return
				defer c.Close()
				_, err = io.ReadAll(c)
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a connection reset", err)
			}
			if there := event[trace.StreamRefused](t, r); !strings.Contains(there.Why, tt.why) || there.Target != tt.target || !there.Remote || there.Code != "" {
				t.Errorf("the side of the target says %+v, want %q", there, tt.why)
			}
			here := eventOf[trace.StreamRefused](t, r.opening)
			if here.Code != tt.code || !strings.Contains(here.Why, tt.why) || strings.Contains(here.Why, tt.code) || here.Port != r.addr || here.Remote {
				t.Errorf("the side of the port says %+v, want %q and %q", here, tt.code, tt.why)
			}
		})
	}
}

// Ending the link resets what still runs.
func TestContextEndsConnections(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	local, _ := newStream()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("peer forgotten")
	cancel(gone)
	if _, err := splice(ctx, noHalf{near}, local); !errors.Is(err, gone) {
		t.Errorf("got %v, want the cause", err)
	}
}

type noHalf struct{ net.Conn }

func (noHalf) CloseWrite() error { return nil }

// flaky fails its first accepts as a process without free descriptors does.
type flaky struct {
	net.Listener
	fail int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.fail > 0 {
		f.fail--
		return nil, syscall.EMFILE
	}
	return f.Listener.Accept()
}

func TestAcceptErrorsPass(t *testing.T) {
	inner, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, &flaky{inner[0], 3}, session.Header{}, func(context.Context, session.Header) (Opened, error) {
			opened <- struct{}{}
			return nil, errors.New("no session")
		}, NewShares(1).Add(), nil)
	}()
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-opened
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
}
