// Package trouble is about errors that pass by themselves: a process is out of
// file descriptors for a while, the kernel out of buffers, a connection is gone
// before it was accepted. Whoever accepts connections, or looks at the system
// again and again, must not end for that, must not spin, and has to say so once.
//
// It is the one place for that rule: which errors pass ([Passes]), how long to rest
// before the next try, and when to speak ([Episode]). [Listener] applies it to
// Accept. UDP sockets have a rule of their own, in udpsock: an error there costs
// one datagram.
//
// The package knows no other.
package trouble

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// Our own choices of time.
const (
	minRest = 5 * time.Millisecond
	maxRest = 250 * time.Millisecond // a client waits so long after the trouble is over
	calm    = 5 * time.Second        // without a failure: the trouble is over
)

// Passes reports whether trying the same again may succeed. All errors of a
// listener do but that of a closed one: what the kernel reports there is the
// connection's trouble or the machine's, and a listener that ends for it is gone
// until somebody restarts the program.
func Passes(err error) bool { return err != nil && !errors.Is(err, net.ErrClosed) }

// Reason says in a few words what is wrong, and what to do where something can be
// done: "too many open files; raise the limit with `ulimit -n`".
func Reason(err error) string {
	var op *net.OpError
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.EMFILE):
		return syscall.EMFILE.Error() + "; raise the limit with `ulimit -n`"
	case errors.As(err, &op) && errors.As(op.Err, &errno):
		return errno.Error() // the rest names the socket, as whoever tells this does
	}
	return err.Error()
}

// rest is the pause after so many failures in a row, at least one.
func rest(failures int) time.Duration {
	return min(minRest<<min(failures-1, 10), maxRest)
}

// An Episode is the trouble of one thing that is tried again and again. It says
// when trouble begins, when its reason changes, and when it is over: when nothing
// has failed for five seconds. Successes alone do not end it, for a process
// at its limit has them as well, one for each connection that ends.
//
// Its methods may be called from several goroutines.
type Episode struct {
	tell func(reason string)

	mu       sync.Mutex
	failures int    // in a row
	told     string // the reason that was told last; empty: no trouble
	over     *time.Timer
	stopped  bool
}

// NewEpisode returns an Episode without trouble. tell is called with the reason of
// the trouble, and with "" when it is over. Its calls do not overlap; it must not
// call the Episode.
func NewEpisode(tell func(reason string)) *Episode { return &Episode{tell: tell} }

// Failed takes an error that passes, and returns how long to rest before the
// next try: 5 to 250 ms, longer with each failure in a row.
func (e *Episode) Failed(err error) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures++
	pause := rest(e.failures)
	if e.stopped {
		return pause
	}
	if reason := Reason(err); reason != e.told {
		e.told = reason
		e.tell(reason)
	}
	if e.over == nil {
		e.over = time.AfterFunc(pause+calm, e.ended)
	} else {
		e.over.Reset(pause + calm)
	}
	return pause
}

// Worked takes a success.
func (e *Episode) Worked() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures = 0
}

// ended is called by the timer.
func (e *Episode) ended() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told != "" && !e.stopped {
		e.told = ""
		e.tell("")
	}
}

// Stop ends the Episode: tell is not called any more.
func (e *Episode) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	if e.over != nil {
		e.over.Stop()
	}
}
