package forward

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A Resolver turns a host name into addresses; net.DefaultResolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// lookupGap is the time between two lookups of a name for connections.
	lookupGap = time.Minute
	// lookupTimeout bounds one lookup; a resolver may ask several servers in turn.
	lookupTimeout = 20 * time.Second
	// staleWait is how long a connection waits for a lookup while the name has
	// addresses of an earlier one, firstWait while it has none.
	staleWait = 2 * time.Second
	firstWait = 5 * time.Second
	// maxLookupPause is between two lookups of a name that has no address yet.
	maxLookupPause = 30 * time.Second
)

// ErrUnresolved is a name on the list that has no address so far. The peer is not
// told more: the cause may name this side's resolver.
var ErrUnresolved = errors.New("the name does not resolve here at the moment")

// A pin is what is known of a name on the list, guarded by AllowList.mu.
type pin struct {
	name  string
	fixed bool          // localhost: it is not looked up (RFC 6761, section 6.3)
	kick  chan struct{} // holds a value: look it up

	addrs  []netip.Addr // that may be dialed
	floor  reach
	asked  time.Time     // when a connection last had it looked up
	due    bool          // a lookup runs, or is about to
	over   chan struct{} // closed and replaced when a lookup has ended
	fails  int           // lookups without an address to dial, in a row
	lastly trace.TargetResolved
}

func newPin(name string) *pin {
	p := &pin{name: name, due: true, kick: make(chan struct{}, 1), over: make(chan struct{})}
	if name == "localhost" {
		p.fixed, p.due, p.addrs, p.floor = true, false, loopbacks, inMachine
	}
	return p
}

// ask reports whether a connection that comes now has the name looked up, and
// notes that it does.
func (p *pin) ask(now time.Time) bool {
	if p.fixed || p.due || now.Sub(p.asked) < lookupGap {
		return false
	}
	p.asked, p.due = now, true
	return true
}

// take makes of an answer what is dialed from now on. Without an address that may
// be dialed, those of before stay. It returns the event, and whether that is news.
func (p *pin) take(answer []netip.Addr, err error) (trace.TargetResolved, bool) {
	use, refused := sift(answer, p.floor)
	e := trace.TargetResolved{Name: p.name, Failed: p.fails}
	for _, a := range slices.SortedFunc(maps.Keys(refused), netip.Addr.Compare) {
		e.Refused = append(e.Refused, trace.AddrRefused{Addr: a, Why: refused[a]})
	}
	switch {
	case err != nil:
		e.Err = "does not resolve: " + lookupCause(err)
	case len(use) == 0:
		e.Err = "has no address that may be dialed"
	}
	if e.Err != "" {
		p.fails++
	} else {
		p.fails = 0
		if !sameSet(use, p.addrs) {
			e.Before = p.addrs
		}
		p.addrs = use
		p.floor = cmp.Or(p.floor, innermost(use))
	}
	e.Addrs = p.addrs
	last := p.lastly
	p.lastly = e
	return e, e.Err != last.Err || !sameSet(e.Addrs, last.Addrs) || !slices.Equal(e.Refused, last.Refused)
}

// lookupCause is why a lookup failed, in the same words each time: the text of the
// error has the port from which the server was asked.
func lookupCause(err error) string {
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return err.Error()
	}
	parts := strings.Split(dns.Err, ": ")
	return parts[len(parts)-1]
}

func sameSet(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// lookupPause is how long a name without any address is left alone after so many
// lookups.
func lookupPause(fails int) time.Duration {
	return min(time.Second<<min(fails-1, 5), maxLookupPause)
}

// Watch looks up the names of the list until ctx ends: each at once, then until it
// has an address, and later when a connection asks for it and the last time is
// lookupGap ago. It records what it finds when that is news.
func (l *AllowList) Watch(ctx context.Context, rec *trace.Recorder) {
	if l == nil {
		return
	}
	var names sync.WaitGroup
	defer names.Wait()
	for _, p := range l.names {
		if !p.fixed {
			names.Go(func() { l.watch(ctx, p, rec) })
		}
	}
}

func (l *AllowList) watch(ctx context.Context, p *pin, rec *trace.Recorder) {
	for {
		answer, err := l.lookup(ctx, p.name)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		e, news := p.take(answer, err)
		p.due = false
		close(p.over)
		p.over = make(chan struct{})
		again := stopped()
		if len(p.addrs) == 0 {
			again = time.NewTimer(lookupPause(p.fails))
		}
		l.mu.Unlock()
		if news {
			rec.Emit(e)
		}
		select {
		case <-p.kick:
		case <-again.C:
			l.mu.Lock()
			p.due = true
			l.mu.Unlock()
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// stopped is a timer that does not fire.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (l *AllowList) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return l.resolver.LookupNetIP(ctx, "ip", name)
}

// fresh returns the addresses of a name on the list. It has the name looked up if
// that is due, and waits for a lookup that runs, but not for long.
func (l *AllowList) fresh(ctx context.Context, p *pin) []netip.Addr {
	l.mu.Lock()
	if p.ask(time.Now()) {
		select {
		case p.kick <- struct{}{}:
		default: // the last one has not been taken yet
		}
	}
	due, over, patience := p.due, p.over, staleWait
	if len(p.addrs) == 0 {
		patience = firstWait
	}
	l.mu.Unlock()
	if due {
		enough := time.NewTimer(patience)
		defer enough.Stop()
		select {
		case <-over:
		case <-enough.C:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.addrs
}

// has reports whether a name on the list has this address now.
func (l *AllowList) has(name string, a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.names[name].addrs, a)
}
