package trouble

import (
	"errors"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func accepting(errno syscall.Errno) error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)}
}

func TestPasses(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{accepting(syscall.EMFILE), true},
		{accepting(syscall.ENFILE), true},
		{accepting(syscall.ENOBUFS), true}, // net/http gives up for this one
		{accepting(syscall.ECONNABORTED), true},
		{errors.New("whatever"), true},
		{&net.OpError{Op: "accept", Err: net.ErrClosed}, false},
		{nil, false},
	} {
		if got := Passes(tc.err); got != tc.want {
			t.Errorf("%v passes: %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestReason(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{accepting(syscall.EMFILE), "too many open files; raise the limit with `ulimit -n`"},
		{accepting(syscall.ENOBUFS), syscall.ENOBUFS.Error()},
		{errors.New("whatever"), "whatever"},
		{&os.PathError{Op: "open", Path: "/f", Err: syscall.EACCES}, "open /f: permission denied"},
	} {
		if got := Reason(tc.err); got != tc.want {
			t.Errorf("reason of %v: %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestRest(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		1: minRest, 2: 2 * minRest, 6: 32 * minRest, 7: maxRest, 1000: maxRest,
	} {
		if got := rest(failures); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}

// An episode is told when it begins, when its reason changes, and when it is over,
// whatever succeeds in between.
func TestEpisode(t *testing.T) {
	full, system := accepting(syscall.EMFILE), accepting(syscall.ENFILE)
	type step struct {
		err  error // nil: a success
		wait time.Duration
	}
	often := func(err error, n int) []step { return slices.Repeat([]step{{err, 200 * time.Millisecond}}, n) }
	for name, tc := range map[string]struct {
		steps []step
		want  []string
	}{
		"nothing fails":    {often(nil, 10), nil},
		"one failure":      {[]step{{full, 0}}, []string{Reason(full), ""}},
		"many in a row":    {often(full, 50), []string{Reason(full), ""}},
		"now and then one": {slices.Repeat([]step{{full, 100 * time.Millisecond}, {nil, time.Second}}, 10), []string{Reason(full), ""}},
		"another reason":   {append(often(full, 3), often(system, 3)...), []string{Reason(full), Reason(system), ""}},
		"over, and again":  {[]step{{full, 6 * time.Second}, {full, 6 * time.Second}}, []string{Reason(full), "", Reason(full), ""}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []string
				e := NewEpisode(func(reason string) { told = append(told, reason) })
				for _, s := range tc.steps {
					if s.err == nil {
						e.Worked()
					} else if pause := e.Failed(s.err); pause < minRest || pause > maxRest {
						t.Errorf("rest of %v", pause)
					}
					time.Sleep(s.wait)
				}
				time.Sleep(calm + maxRest)
				synctest.Wait()
				e.Stop()
				if !slices.Equal(told, tc.want) {
					t.Errorf("told %q, want %q", told, tc.want)
				}
			})
		})
	}
}

func TestEpisodeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		e := NewEpisode(func(string) { told++ })
		e.Failed(accepting(syscall.EMFILE))
		e.Stop()
		e.Failed(accepting(syscall.ENFILE))
		time.Sleep(time.Minute)
		synctest.Wait()
		if told != 1 {
			t.Errorf("told %d times, want once", told)
		}
	})
}

// script is a listener that fails as it is told to, and then blocks until it is closed.
type script struct {
	net.Listener
	errs   []error // nil: a connection
	closed chan struct{}
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.errs) == 0 {
		<-s.closed
		return nil, net.ErrClosed
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	theirs.Close()
	return ours, nil
}

func (s *script) Close() error {
	close(s.closed)
	return nil
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &script{closed: make(chan struct{})}
		for range 100 {
			inner.errs = append(inner.errs, accepting(syscall.EMFILE))
		}
		inner.errs = append(inner.errs, nil)
		var told []string
		ln := Listener(inner, func(reason string) { told = append(told, reason) })
		began := time.Now()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if waited := time.Since(began); waited < 20*time.Second || waited > 100*maxRest {
			t.Errorf("100 failures took %v", waited)
		}
		ended := make(chan error)
		go func() {
			_, err := ln.Accept()
			ended <- err
		}()
		time.Sleep(calm + time.Second)
		synctest.Wait()
		if want := []string{Reason(accepting(syscall.EMFILE)), ""}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		ln.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept of a closed listener: %v", err)
		}
	})
}

// Close ends a rest, and what is behind it.
func TestCloseWhileResting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &script{closed: make(chan struct{}), errs: slices.Repeat([]error{accepting(syscall.EMFILE)}, 1000)}
		ln := Listener(inner, func(string) {})
		ended := make(chan error)
		go func() {
			_, err := ln.Accept()
			ended <- err
		}()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		began := time.Now()
		ln.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) || time.Since(began) > 0 {
			t.Errorf("Accept ended with %v after %v", err, time.Since(began))
		}
	})
}
