package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/relay"
)

// A race decides about one try for an allocation: every server over every
// transport, each with a head start over the next. It ends with the first that
// nothing better can follow, or with a refusal that stands for the rest. It does
// no I/O and reads no clock: times are since its start.
type race struct {
	// shared says that all servers judge by one secret, so that credentials
	// which one refuses are of no use at any.
	shared bool

	waiting []contender // by the time of their start
	running []contender
	best    int // the best rank that has won; lastRank: none
	lost    []loss
}

// A contender is one server over one transport.
type contender struct {
	turnServer
	at      time.Duration // its start, unless those before it have lost by then
	stopped bool          // nothing is to be gained from it any more
}

// A loss is what became of a contender.
type loss struct {
	turnServer
	err error
}

// transports are those of TURN, in the order in which they are tried.
var transports = [...]string{"udp", "tcp", "tls"}

// lastRank is behind every rank of a transport.
const lastRank = 2

// rank orders transports: over a stream, one lost packet holds up all that
// follow it. TLS is no worse than TCP then.
func (t turnServer) rank() int {
	if t.uri.Transport == "udp" {
		return 0
	}
	return 1
}

// newRace plans the starts: the transports in the order UDP, TCP, TLS, each with
// a head start over the next, and the servers of one transport a stagger apart.
func newRace(s servers) *race {
	r := &race{shared: s.minted, best: lastRank, lost: slices.Clone(s.unresolved)}
	if s.user == "" || s.pass == "" {
		for _, t := range s.turn {
			r.lost = append(r.lost, loss{t, errNoCredentials})
		}
		return r
	}
	lanes := make(map[string]time.Duration)
	for i, transport := range transports {
		lanes[transport] = time.Duration(i) * tcpHeadStart
	}
	for _, t := range s.turn {
		r.waiting = append(r.waiting, contender{turnServer: t, at: lanes[t.uri.Transport]})
		lanes[t.uri.Transport] += serverHeadStart
	}
	slices.SortStableFunc(r.waiting, func(a, b contender) int { return int(a.at - b.at) })
	return r
}

// next is when somebody starts.
func (r *race) next() (at time.Duration, ok bool) {
	if len(r.waiting) == 0 {
		return 0, false
	}
	return r.waiting[0].at, true
}

// start lets those begin whose time has come.
func (r *race) start(now time.Duration) (begun []turnServer) {
	for len(r.waiting) > 0 && r.waiting[0].at <= now {
		r.running = append(r.running, r.waiting[0])
		begun = append(begun, r.waiting[0].turnServer)
		r.waiting = r.waiting[1:]
	}
	return begun
}

// over reports that no result is to come any more.
func (r *race) over() bool { return len(r.waiting) == 0 && len(r.running) == 0 }

// won takes the news that a server has made an allocation, and says whether it is
// wanted and who need not go on. One over a stream ends no try over UDP, which
// may have lost no more than a packet.
func (r *race) won(s turnServer) (wanted bool, stop []turnServer) {
	r.take(s)
	if s.rank() >= r.best {
		return false, nil
	}
	r.best = s.rank()
	return true, r.drop(func(c turnServer) bool { return c.rank() >= r.best })
}

// failed takes the news that a server has made none, and says who need not go
// on: its other transports, when it has refused us and not just this way. The
// next to start need not wait any longer.
func (r *race) failed(s turnServer, err error, now time.Duration) (stop []turnServer) {
	if c := r.take(s); c.stopped {
		return nil
	}
	r.lost = append(r.lost, loss{s, err})
	var refused *relay.RequestError
	switch {
	case r.best < lastRank: // a refusal is not for all of them, then
	case r.shared && errors.Is(err, relay.ErrCredentials):
		stop = r.end()
	case errors.As(err, &refused) && refused.Final():
		stop = r.drop(func(c turnServer) bool { return c.addr.Addr() == s.addr.Addr() })
	}
	if len(r.waiting) > 0 {
		r.waiting[0].at = min(r.waiting[0].at, now)
	}
	return stop
}

// end stops everybody.
func (r *race) end() (stop []turnServer) { return r.drop(anyServer) }

func anyServer(turnServer) bool { return true }

// take removes a server from those that run.
func (r *race) take(s turnServer) (was contender) {
	i := slices.IndexFunc(r.running, func(c contender) bool { return c.turnServer == s })
	was = r.running[i]
	r.running = slices.Delete(r.running, i, i+1)
	return was
}

// drop has those that match not start, and returns those that run already.
func (r *race) drop(match func(turnServer) bool) (stop []turnServer) {
	r.waiting = slices.DeleteFunc(r.waiting, func(c contender) bool { return match(c.turnServer) })
	for i := range r.running {
		if c := &r.running[i]; !c.stopped && match(c.turnServer) {
			c.stopped = true
			stop = append(stop, c.turnServer)
		}
	}
	return stop
}

// err says what became of everybody, and who has not been heard of yet; nil when
// nobody took part.
func (r *race) err() error {
	lost := slices.Clone(r.lost)
	for _, c := range slices.Concat(r.running, r.waiting) {
		if !c.stopped {
			lost = append(lost, loss{c.turnServer, errNotYet})
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return &noRelayError{lost}
}

var (
	errNotYet        = errors.New("no answer yet")
	errNoCredentials = errors.New("no credentials")
)

// runRace runs a race: try makes an allocation, and won is called with each that is
// better than those before; sofar is called with what is known when that changes,
// as long as nobody has won. It returns when nobody runs any more, with the error
// of those that lost, or the cause of ctx. What is not wanted is closed.
func runRace[A interface{ Close() error }](ctx context.Context, r *race, try func(context.Context, turnServer) (A, error), won func(A), sofar func(error)) error {
	type result struct {
		server turnServer
		alloc  A
		err    error
	}
	ctx, cancelAll := context.WithCancel(ctx)
	defer cancelAll()
	results := make(chan result)
	cancels := make(map[turnServer]context.CancelFunc)
	stop := func(servers []turnServer) {
		for _, s := range servers {
			cancels[s]()
		}
	}
	began, done := time.Now(), ctx.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	sofar(r.err())
	for !r.over() {
		for _, s := range r.start(time.Since(began)) {
			each, cancel := context.WithCancel(ctx)
			cancels[s] = cancel
			go func() {
				alloc, err := try(each, s)
				results <- result{s, alloc, err}
			}()
		}
		if at, ok := r.next(); ok {
			timer.Reset(at - time.Since(began))
		}
		select {
		case <-timer.C:
		case <-done:
			done = nil
			if r.waiting = nil; !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				r.end() // those that run end by themselves, and have not lost
			}
		case res := <-results:
			cancels[res.server]()
			if res.err != nil {
				stop(r.failed(res.server, res.err, time.Since(began)))
				if r.best == lastRank {
					sofar(r.err())
				}
				continue
			}
			wanted, rest := r.won(res.server)
			stop(rest)
			if wanted {
				won(res.alloc)
			} else {
				res.alloc.Close()
			}
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return r.err()
}

// noRelayError says of every server that was tried why it gave no allocation.
type noRelayError struct{ lost []loss }

// Error reads "turn.example:3478 (192.0.2.7): no answer over UDP, connection
// refused over TCP; …", in an order that does not depend on who was first.
func (e *noRelayError) Error() string {
	var order []string
	why := make(map[string][]string)
	lost := slices.Clone(e.lost)
	slices.SortStableFunc(lost, func(a, b loss) int {
		return cmp.Or(cmp.Compare(a.uri.Host, b.uri.Host), a.addr.Compare(b.addr),
			cmp.Compare(slices.Index(transports[:], a.uri.Transport), slices.Index(transports[:], b.uri.Transport)))
	})
	for _, l := range lost {
		name, text := l.name(), reason(l.err)
		if l.addr.IsValid() && l.err != errNoCredentials {
			text += " over " + strings.ToUpper(l.uri.Transport)
		}
		if why[name] == nil {
			order = append(order, name)
		}
		if !slices.Contains(why[name], text) {
			why[name] = append(why[name], text)
		}
	}
	for i, name := range order {
		order[i] = name + ": " + strings.Join(why[name], ", ")
	}
	return strings.Join(order, "; ")
}

// unreachable reports that this machine has no way to any of the servers.
func (e *noRelayError) unreachable() bool {
	udp := 0
	for _, l := range e.lost {
		if l.uri.Transport != "udp" || !l.addr.IsValid() {
			continue
		}
		udp++
		if !dialing(l.err) {
			return false
		}
	}
	return udp > 0
}

// dialing reports an error of this machine's own: over UDP, dialing sends nothing.
func dialing(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && e.Op == "dial"
}

// Unwrap returns what each said.
func (e *noRelayError) Unwrap() (errs []error) {
	for _, l := range e.lost {
		errs = append(errs, l.err)
	}
	return errs
}

// name is the server as the user knows it, and which of its addresses was tried.
func (t turnServer) name() string {
	name := net.JoinHostPort(t.uri.Host, strconv.Itoa(int(t.uri.Port)))
	if t.addr.IsValid() && t.addr.Addr().String() != t.uri.Host {
		name += " (" + t.addr.Addr().String() + ")"
	}
	return name
}

// reason is the part of an error that says why, without the server's name.
func reason(err error) string {
	var request *relay.RequestError
	var op *net.OpError
	var call *os.SyscallError
	var dns *net.DNSError
	switch {
	case errors.Is(err, relay.ErrNoAnswer), errors.Is(err, context.DeadlineExceeded), errors.As(err, &op) && op.Timeout():
		return "no answer"
	case errors.As(err, &dns):
		return "its name was looked up in vain: " + dns.Err
	case errors.As(err, &op) && errors.As(op.Err, &call):
		return call.Err.Error()
	case errors.As(err, &op):
		return op.Err.Error()
	case errors.As(err, &request) && request.Code != 0:
		return fmt.Sprintf("%v (%d)", request.Err, request.Code)
	case errors.As(err, &request):
		return request.Err.Error()
	}
	return err.Error()
}
