package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

const (
	// block is how much payload is read at once.
	block = 256 << 10

	interval = 100 * time.Millisecond

	// drainFor is how long what is on its way may take to arrive after the
	// end of a round, queues of a slow line included.
	drainFor = 15 * time.Second
)

// blocks hold payload that is being read; what is in them does not matter.
var blocks = sync.Pool{New: func() any { return new([block]byte) }}

// A side is one side's part in a round.
type side struct {
	// Constant after begin.
	spec    roundSpec // as this side sees it: Send is that it sends
	link    Link
	start   time.Time
	relay   relayCount      // before it
	ctx     context.Context // the round's life
	cancel  context.CancelFunc
	counted chan struct{} // closed at the end of the time that counts
	watched chan struct{} // closed when watch has returned

	// The clock of a side runs from its first payload: what was agreed on takes
	// a while to come about, which may be longer than what is skipped.
	first  sync.Once
	moving chan struct{} // closed then
	moved  time.Time     // readable then

	wrote   atomic.Uint64 // payload given to streams so far
	meter   meter
	dgrams  datagrams
	streams sync.WaitGroup // that are under way

	mu     sync.Mutex
	opened int  // streams of the peer so far
	over   bool // no more are taken
	err    error

	half half // watch's, until watched
}

// A relayCount is what the relay of a side counted so far.
type relayCount struct {
	in, out uint64
	word    RelayWord
}

// countRelay asks the relay of a side about a round over it. That may take a
// while, so it comes before the clock starts and before payload flows.
func countRelay(ctx context.Context, link Link, spec roundSpec) (c relayCount) {
	if spec.Path == Relayed {
		c.in, c.out, c.word = link.RelayTraffic(ctx)
	}
	return c
}

// since is what came after o. A side that had an allocation for a part of the
// time alone does not know all of it.
func (c relayCount) since(o relayCount) relayCount {
	switch {
	case c.word == RelayNone && o.word == RelayNone:
		return c
	case c.word != RelayTold || o.word != RelayTold || c.in < o.in || c.out < o.out:
		return relayCount{word: RelaySilent}
	}
	return relayCount{c.in - o.in, c.out - o.out, RelayTold}
}

// begin starts a side's part. finish or abandon must be called.
func begin(ctx context.Context, link Link, spec roundSpec, relay relayCount) *side {
	ctx, cancel := context.WithTimeout(ctx, spec.span()+2*drainFor)
	s := &side{
		spec: spec, link: link, start: time.Now(), relay: relay,
		ctx: ctx, cancel: cancel,
		counted: make(chan struct{}), watched: make(chan struct{}), moving: make(chan struct{}),
	}
	s.meter.init(spec)
	if spec.UDPMbps > 0 {
		s.runDatagrams(ctx)
	}
	go s.watch(ctx)
	return s
}

// watch takes the counters at both ends of the time that counts, and sees the
// streams to their end.
func (s *side) watch(ctx context.Context) {
	defer close(s.watched)
	h := &s.half
	s.count(ctx, h)
	close(s.counted)

	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.streams.Wait() // they have deadlines; the relay has then seen all that was on its way
	relay := countRelay(ctx, s.link, s.spec).since(s.relay)
	h.RelayIn, h.RelayOut, h.Relay = relay.in, relay.out, relay.word
}

func (s *side) count(ctx context.Context, h *half) {
	h.CPU = -1
	begun, patience := context.WithTimeout(ctx, s.spec.span()+quietFor)
	defer patience()
	select {
	case <-s.moving:
	case <-begun.Done(): // nothing came, or nobody opened a stream
		h.Before = s.link.Look()
		h.After = h.Before
		return
	}
	if pause(ctx, time.Until(s.moved.Add(s.spec.skip()))) != nil {
		return
	}
	h.Before = s.link.Look()
	cpu, ok := cpuTime()
	if pause(ctx, time.Until(s.moved.Add(s.spec.span()))) != nil {
		return
	}
	h.After = s.link.Look()
	if after, still := cpuTime(); ok && still {
		h.CPU = (after - cpu).Seconds()
	}
	h.RSS = residentSize()
}

// moves is called with payload that is sent or has come; it returns since when
// there is any.
func (s *side) moves() time.Time {
	s.first.Do(func() {
		s.moved = time.Now()
		close(s.moving)
	})
	return s.moved
}

// join counts one more stream, unless the round is over.
func (s *side) join() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.opened >= 2*MaxStreams {
		return false
	}
	s.opened++
	s.streams.Add(1)
	return true
}

func (s *side) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// send writes payload until the round is over, ends the stream, and waits for
// the other side's end, which says that all of it has arrived. Called after
// join.
func (s *side) send(st Stream) {
	defer s.streams.Done()
	defer s.bound(st)()
	err := s.write(st)
	if err == nil {
		err = st.CloseWrite()
	}
	if err == nil {
		err = awaitEnd(st)
	}
	if err != nil {
		s.fail(fmt.Errorf("send: %w", err))
		st.Reset(session.CodeReset)
	}
}

// write writes until the round is over. A slow line may then be amid what one
// call was given: what it has not taken was not sent.
func (s *side) write(st Stream) error {
	end := s.moves().Add(s.spec.span())
	st.SetDeadline(end)
	defer s.setLimit(st)
	for time.Now().Before(end) {
		n, err := st.Write(payload[:])
		s.wrote.Add(uint64(n))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// awaitEnd waits for the end of a stream on which nothing comes back.
func awaitEnd(st Stream) error {
	var b [1]byte
	switch n, err := st.Read(b[:]); {
	case n > 0:
		return errors.New("payload from the side that takes it")
	case err == io.EOF:
		return nil
	default:
		return err
	}
}

// take reads payload until its end, and ends the stream. Called after join.
func (s *side) take(st Stream) {
	defer s.streams.Done()
	defer s.bound(st)()
	b := blocks.Get().(*[block]byte)
	defer blocks.Put(b)
	for {
		n, err := st.Read(b[:])
		s.arrived(n)
		switch {
		case err == io.EOF:
			if err := st.CloseWrite(); err != nil {
				s.fail(fmt.Errorf("receive: %w", err))
			}
			return
		case err != nil:
			s.fail(fmt.Errorf("receive: %w", err))
			st.Reset(session.CodeReset)
			return
		}
	}
}

// arrived counts payload.
func (s *side) arrived(n int) {
	if n > 0 {
		s.moves()
		s.meter.add(time.Since(s.start), n)
	}
}

// setLimit gives a stream the latest time at which the round can end.
func (s *side) setLimit(st Stream) { st.SetDeadline(s.start.Add(s.spec.span() + drainFor)) }

// bound has a stream end with the round, or a while after it at the latest.
func (s *side) bound(st Stream) (stop func() bool) {
	s.setLimit(st)
	return context.AfterFunc(s.ctx, func() { st.Reset(session.CodeShutdown) })
}

// finish waits for the round to be over and returns what this side saw.
func (s *side) finish(ctx context.Context) (*half, error) {
	defer s.cancel()
	defer context.AfterFunc(ctx, s.cancel)()
	<-s.watched
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	h := s.half
	h.Received, h.Counted, h.Intervals = s.meter.total()
	s.dgrams.report(&h, s.spec)
	return &h, nil
}

// abandon ends a round of which nobody wants to know any more.
func (s *side) abandon() {
	s.cancel()
	<-s.watched
}

// A meter counts bytes by when they arrived. Its clock starts with the first of
// them: the two sides' clocks differ by what a packet takes, which may be longer
// than what is skipped.
type meter struct {
	skip, span time.Duration
	origin     atomic.Int64 // when the first came, since the round's start; 0: none did
	all        atomic.Uint64
	counted    atomic.Uint64
	intervals  []atomic.Uint64
}

func (m *meter) init(spec roundSpec) {
	m.skip, m.span = spec.skip(), spec.span()
	m.intervals = make([]atomic.Uint64, int((m.span+interval-1)/interval))
}

// add counts n bytes that came at a time since the round's start.
func (m *meter) add(at time.Duration, n int) {
	m.origin.CompareAndSwap(0, max(1, int64(at)))
	at = max(0, at-time.Duration(m.origin.Load()))
	m.all.Add(uint64(n))
	if at >= m.skip && at < m.span {
		m.counted.Add(uint64(n))
	}
	if i := int(at / interval); i < len(m.intervals) {
		m.intervals[i].Add(uint64(n))
	}
}

func (m *meter) total() (all, counted uint64, intervals []uint64) {
	intervals = make([]uint64, len(m.intervals))
	for i := range m.intervals {
		intervals[i] = m.intervals[i].Load()
	}
	return m.all.Load(), m.counted.Load(), intervals
}
