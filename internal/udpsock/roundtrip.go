package udpsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/units"
)

// Our own retransmission times. RFC 8489 begins at 500 ms; here somebody waits
// for a path, and a message is under 100 bytes.
const (
	defaultFirstWait = 50 * time.Millisecond
	defaultSends     = 7                       // as RFC 8489's Rc
	maxWait          = 1600 * time.Millisecond // doubling stops here
)

// ErrTimeout is a request that nobody answered; see [TimeoutError].
var ErrTimeout = errors.New("no answer")

// A TimeoutError is a RoundTrip that got no answer.
type TimeoutError struct {
	Dst   netip.AddrPort
	Sends int           // how often the request was sent
	After time.Duration // from the first send
	Err   error         // why the last send failed, if it did
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("%v from %v to %d requests in %s", ErrTimeout, e.Dst, e.Sends, units.Duration(e.After))
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes it an ErrTimeout.
func (e *TimeoutError) Is(target error) bool { return target == ErrTimeout }

func (e *TimeoutError) Unwrap() error { return e.Err }

// Timeout is true, which is what os.IsTimeout asks.
func (e *TimeoutError) Timeout() bool { return true }

// An Option changes one RoundTrip.
type Option func(*exchange)

// AnySource takes the answer from any address: RFC 5780 asks a server to
// answer from another one.
func AnySource() Option { return func(x *exchange) { x.anySource = true } }

// Retry sets the schedule: the request is sent at most sends times, with a
// pause of first after the first, doubled each time up to 1.6 s. The pause
// after the last is the wait for its answer. The default is 50 ms and 7 times,
// 4.75 s in all.
func Retry(first time.Duration, sends int) Option {
	return func(x *exchange) { x.first, x.sends = max(first, time.Millisecond), max(sends, 1) }
}

type exchange struct {
	anySource bool
	first     time.Duration
	sends     int
}

// wait is how long to wait for an answer after the n-th send, from 1.
func (x exchange) wait(n int) time.Duration {
	d := x.first
	for ; n > 1 && d < maxWait; n-- {
		d *= 2
	}
	return min(d, max(maxWait, x.first))
}

// A waiter is a RoundTrip under way.
type waiter struct {
	dst       netip.AddrPort
	anySource bool
	got       chan answer // holds one
}

type answer struct {
	m   *stunmsg.Message
	src netip.AddrPort
}

// RoundTrip sends a STUN request to dst, again and again on the schedule, until
// the response with its transaction id arrives from dst, and returns it, success
// or error response, and where it came from. It needs Serve to be running, and
// so must not be called by a Handler.
//
// The error is a [TimeoutError] when the schedule ends, net.ErrClosed when the
// socket is closed, and wraps the cause of ctx when that ends. A send that
// fails is a lost one.
func (s *Socket) RoundTrip(ctx context.Context, req []byte, dst netip.AddrPort, opts ...Option) (*stunmsg.Message, netip.AddrPort, error) {
	x := exchange{first: defaultFirstWait, sends: defaultSends}
	for _, o := range opts {
		o(&x)
	}
	dst = canonical(dst)
	id, err := s.transaction(req)
	if err != nil {
		return nil, netip.AddrPort{}, fmt.Errorf("request to %v: %w", dst, err)
	}
	w := &waiter{dst: dst, anySource: x.anySource, got: make(chan answer, 1)}
	if !s.addWaiter(id, w) {
		return nil, netip.AddrPort{}, fmt.Errorf("request to %v: transaction %v is under way already", dst, id)
	}
	defer s.removeWaiter(id)

	a, err := s.exchange(ctx, req, w, x)
	return a.m, a.src, err
}

// transaction is the id of a request that can be answered here.
func (s *Socket) transaction(req []byte) (stunmsg.TransactionID, error) {
	h, err := stunmsg.Parse(req)
	switch {
	case err != nil:
		return h.TransactionID, err
	case h.Class != stunmsg.ClassRequest:
		return h.TransactionID, fmt.Errorf("is a %v", h.Class)
	case s.raw:
		return h.TransactionID, errRaw
	}
	return h.TransactionID, nil
}

var errRaw = errors.New("a raw socket does not look for answers")

// exchange sends and waits until there is an answer or no hope.
func (s *Socket) exchange(ctx context.Context, req []byte, w *waiter, x exchange) (answer, error) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var lost error
	for n := 0; ; {
		select {
		case a := <-w.got:
			return a, nil
		case <-s.closed:
			return answer{}, net.ErrClosed
		case <-ctx.Done():
			return answer{}, fmt.Errorf("no answer from %v to %d requests: %w", w.dst, n, context.Cause(ctx))
		case <-timer.C:
		}
		if n == x.sends {
			return w.last(&TimeoutError{w.dst, n, time.Since(start), lost})
		}
		if lost = s.Send(req, 0, w.dst); errors.Is(lost, net.ErrClosed) {
			return answer{}, net.ErrClosed
		}
		n++
		timer.Reset(x.wait(n))
	}
}

// last is the answer that came together with the end, else the error.
func (w *waiter) last(err error) (answer, error) {
	select {
	case a := <-w.got:
		return a, nil
	default:
		return answer{}, err
	}
}

func (s *Socket) addWaiter(id stunmsg.TransactionID, w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.waiters[id]; taken {
		return false
	}
	s.waiters[id] = w
	return true
}

func (s *Socket) removeWaiter(id stunmsg.TransactionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiters, id)
}

// answer gives a checked message to the RoundTrip that waits for it. It is
// false when none does and the message is somebody else's.
func (s *Socket) answer(b []byte, src netip.AddrPort) bool {
	h, err := stunmsg.Parse(b)
	if err != nil || !h.Class.Response() {
		return false
	}
	s.mu.Lock()
	w := s.waiters[h.TransactionID]
	s.mu.Unlock()
	if w == nil {
		return false
	}
	if !w.anySource && src != w.dst {
		s.counts.stray.Add(1)
		return true
	}
	m, err := stunmsg.Decode(b)
	if err != nil {
		return true // cannot be: b passed Check
	}
	select {
	case w.got <- answer{m, src}:
	default: // a retransmission was answered as well
	}
	return true
}
