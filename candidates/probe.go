package candidates

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// Probe measures the NAT in front of sock by RFC 5780: its mapping towards all
// servers and the second addresses that they announce (section 4.3), its
// filtering (4.4), and whether packets to our own mapped address come back
// (hairpinning, RFC 4787 section 6). [udpsock.Socket.Serve] must be running on
// sock.
//
// Filtering needs a destination that was never sent to, and a mapping test is
// exactly such a sending; so filtering is measured from a fresh socket beside
// sock, and hairpinning between that one and another. All of it runs at once
// as far as one thing does not need the other: two round trips when everything
// answers, and under 2 s when silence is the answer. Unless a server announces a
// second address, filtering stays unknown.
//
// No answer at all is no error but UDP == false, or [NAT.Unanswered] where all
// servers have one address. An error goes with what was measured until then.
func Probe(ctx context.Context, sock *udpsock.Socket, servers []netip.AddrPort) (NAT, error) {
	fail := func(err error) error { return fmt.Errorf("probe NAT from %s: %w", sock.LocalAddr(), err) }
	servers = sameFamily(sock, servers)
	if len(servers) == 0 {
		return NAT{}, fail(errors.New("no STUN server for " + sock.Network()))
	}
	ifaces, err := interfaceAddrs()
	if err != nil {
		return NAT{}, fail(err)
	}
	o := observed{Local: localAddrs(sock, ifaces)}

	first := newAsking(sock)
	for _, s := range servers {
		first.ask(ctx, s)
	}
	base, ok := first.best(ctx)
	var side sideTests
	var wait sync.WaitGroup
	if ok {
		for _, dst := range secondary(base) {
			first.ask(ctx, dst)
		}
		wait.Go(func() { side, err = runSideTests(ctx, sock, base) })
	}
	answers := first.wait()
	wait.Wait()
	if err != nil && ctx.Err() == nil {
		return NAT{}, fail(err)
	}

	var unreachable error
	for _, a := range answers {
		o.add(a)
		if a.err != nil && unroutable(a.err) {
			unreachable = a.err
		}
	}
	o.Filter, o.Hairpin, o.Others = side.filter, side.hairpin, side.mapped
	n := classify(o)
	switch {
	case ctx.Err() != nil:
		return n, fail(context.Cause(ctx))
	case n.UDP == nil && unreachable != nil:
		return n, fail(unreachable)
	}
	return n, nil
}

// asking is a set of plain Binding requests from one socket.
type asking struct {
	sock *udpsock.Socket
	done chan struct{} // one token per answer
	sync.WaitGroup
	mu      sync.Mutex
	asked   map[netip.AddrPort]bool // owned by the asker
	answers []answer                // in the order of asking; guarded by mu
	ready   []answer                // in the order of arrival; guarded by mu
}

func newAsking(sock *udpsock.Socket) *asking {
	return &asking{sock: sock, done: make(chan struct{}, 64), asked: make(map[netip.AddrPort]bool)}
}

// ask sends a request to dst, once.
func (q *asking) ask(ctx context.Context, dst netip.AddrPort) {
	if q.asked[dst] || len(q.asked) == cap(q.done) {
		return
	}
	q.asked[dst] = true
	q.mu.Lock()
	i := len(q.answers)
	q.answers = append(q.answers, answer{})
	q.mu.Unlock()
	q.Go(func() {
		a := binding(ctx, q.sock, dst)
		q.mu.Lock()
		q.answers[i] = a
		q.ready = append(q.ready, a)
		q.mu.Unlock()
		q.done <- struct{}{}
	})
}

// best waits for a server to do the further tests with: the first that answers
// and announces a second address or, when there is none, the first to answer.
func (q *asking) best(ctx context.Context) (answer, bool) {
	var fallback answer
	var late <-chan time.Time
	for range len(q.asked) {
		select {
		case <-q.done:
		case <-late:
			return fallback, true
		}
		a := q.last()
		if a.err != nil {
			continue
		}
		if a.other.IsValid() {
			return a, true
		}
		if !fallback.mapped.IsValid() {
			fallback = a
			late = time.After(patience(a.rtt))
		}
	}
	return fallback, fallback.mapped.IsValid()
}

// last takes the earliest answer that was not taken yet.
func (q *asking) last() answer {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := q.ready[0]
	q.ready = q.ready[1:]
	return a
}

// wait returns all answers, in the order of asking.
func (q *asking) wait() []answer {
	q.Wait()
	return q.answers
}

// secondary lists the destinations that the mapping tests of RFC 5780 section
// 4.3 add to a server's primary address.
func secondary(a answer) []netip.AddrPort {
	if !a.other.IsValid() {
		return nil
	}
	return []netip.AddrPort{
		netip.AddrPortFrom(a.other.Addr(), a.dst.Port()),
		a.other,
		netip.AddrPortFrom(a.dst.Addr(), a.other.Port()),
	}
}

// retrySchedule is how to ask for an answer that may never come, from a server
// rtt away: several times, and done after at most 1.5 s.
func retrySchedule(rtt time.Duration) (first time.Duration, sends int) {
	first = min(max(2*rtt, 50*time.Millisecond), 500*time.Millisecond)
	total := time.Duration(0)
	for pause := first; sends < 4 && total+pause <= 1500*time.Millisecond; pause *= 2 {
		total += pause
		sends++
	}
	return first, sends
}

// sideTests is what the sockets beside the one in question found.
type sideTests struct {
	filter  filterTest
	hairpin *bool
	mapped  []netip.AddrPort
}

// runSideTests opens two fresh sockets like sock and measures filtering with the
// one, hairpinning with both. base is an answer to sock itself.
func runSideTests(ctx context.Context, sock *udpsock.Socket, base answer) (t sideTests, err error) {
	w := newWatcher()
	var serving sync.WaitGroup
	defer serving.Wait()
	open := func() (*udpsock.Socket, error) {
		s, err := udpsock.Listen(udpsock.Config{
			Network: sock.Network(), Addr: netip.AddrPortFrom(sock.LocalAddr().Addr(), 0), BufferBytes: 64 << 10,
		})
		if err == nil {
			serving.Go(func() { s.Serve(context.Background(), w) }) // until Close
		}
		return s, err
	}
	a, err := open()
	if err != nil {
		return t, err
	}
	defer a.Close()
	b, err := open()
	if err != nil {
		return t, err
	}
	defer b.Close()

	var filtering, mapping sync.WaitGroup
	var test2, test3 outcome
	filtering.Go(func() { test2 = changed(ctx, a, base, true) })
	filtering.Go(func() { test3 = changed(ctx, a, base, false) })
	var atA, atB answer
	mapping.Go(func() { atA = binding(ctx, a, base.dst) })
	mapping.Go(func() { atB = binding(ctx, b, base.dst) })
	mapping.Wait()
	for _, m := range []answer{atA, atB} {
		if m.err == nil {
			t.mapped = append(t.mapped, m.mapped)
		}
	}
	if len(t.mapped) == 2 {
		t.hairpin = w.hairpin(ctx, a, b, atA.mapped, atB.mapped)
	}
	filtering.Wait()
	t.filter = filterTest{
		Base:         atA.err == nil,
		OneAddress:   !base.other.IsValid(),
		Able:         base.other.IsValid() && test2 != ignored && test3 != ignored,
		OtherAddress: test2 == arrived,
		OtherPort:    test3 == arrived,
	}
	return t, nil
}

// outcome is what became of a request with CHANGE-REQUEST.
type outcome int

const (
	silence outcome = iota // filtered, if the server did as it was asked
	arrived                // answered from where it was asked to
	ignored                // refused, or answered from somewhere else
)

// changed makes test II (other address and port) or III (other port) of RFC
// 5780 section 4.4.
func changed(ctx context.Context, sock *udpsock.Socket, base answer, address bool) outcome {
	first, sends := retrySchedule(base.rtt)
	req := stunmsg.NewRequest(stunmsg.MethodBinding).ChangeRequest(address, true)
	a := ask(ctx, sock, base.dst, req, udpsock.AnySource(), udpsock.Retry(first, sends))
	if !a.src.IsValid() {
		return silence
	}
	otherPort := a.src.Port() != base.dst.Port()
	otherAddress := a.src.Addr() != base.dst.Addr()
	if a.err == nil && otherPort && otherAddress == address {
		return arrived
	}
	return ignored
}

// watcher is the handler of the sockets beside: it looks for its own request
// coming round at the NAT.
type watcher struct {
	req  []byte
	id   stunmsg.TransactionID
	seen chan struct{}
}

func newWatcher() watcher {
	req := stunmsg.NewRequest(stunmsg.MethodBinding).Fingerprint()
	return watcher{req.Bytes(), req.TransactionID(), make(chan struct{}, 1)}
}

// hairpin sends from b to a's mapped address, after a has opened its own filter
// for b's, and reports whether anything arrived; nil when ctx ended first.
func (w watcher) hairpin(ctx context.Context, a, b *udpsock.Socket, mappedA, mappedB netip.AddrPort) *bool {
	opener := stunmsg.NewIndication(stunmsg.MethodBinding).Fingerprint().Bytes()
	for pause := 25 * time.Millisecond; pause <= 200*time.Millisecond; pause *= 2 {
		// A send that fails is one that does not come round.
		_ = a.Send(opener, 0, mappedB)
		_ = b.Send(w.req, 0, mappedA)
		select {
		case <-w.seen:
			return ptr(true)
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	return ptr(false)
}

// HandleData drops p: nobody sends data to these sockets.
func (w watcher) HandleData(p *udpsock.Packet) { p.Release() }

// HandleSTUN looks whether b is the request.
func (w watcher) HandleSTUN(b []byte, _ netip.AddrPort) {
	if h, err := stunmsg.Parse(b); err != nil || h.Class != stunmsg.ClassRequest || h.TransactionID != w.id {
		return
	}
	select {
	case w.seen <- struct{}{}:
	default:
	}
}
