package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// The ways a message travels.
const (
	viaSignaling = "signaling"
	viaControl   = "control"
)

const (
	// seenWindow is how far behind the newest number a late copy is still
	// told apart from an old one.
	seenWindow = 256
	// wayQueue is how many messages wait for a way that is slow, and maxStash
	// how many wait while there is none; the oldest are dropped first.
	wayQueue = 32
	maxStash = 32
)

// post sends a link's messages and drops second copies: over the session alone
// while that is known to work, else by every way there is. Sending never
// waits; each way has a goroutine and a queue of its own, so that a peer that
// does not read holds up nothing but its own control stream.
type post struct {
	trace *trace.Recorder
	alive atomic.Bool // the session's path works

	running sync.WaitGroup

	mu    sync.Mutex
	over  bool // no way opens any more
	ways  map[string]*way
	next  uint64
	seen  window
	stash []*message
}

// way is one road for messages. send may take its time; it ends with ctx.
type way struct {
	via   string
	send  func(ctx context.Context, b []byte) error
	queue chan parcel
	stop  context.CancelFunc
}

type parcel struct {
	name string
	body []byte
}

func newPost(rec *trace.Recorder) *post {
	return &post{trace: rec, ways: make(map[string]*way)}
}

// open adds a way, or replaces it; what waited goes out by it. After shut it
// does nothing.
func (p *post) open(via string, send func(ctx context.Context, b []byte) error) {
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &way{via: via, send: send, queue: make(chan parcel, wayQueue), stop: stop}
	old := p.ways[via]
	p.ways[via] = w
	waiting := p.stash
	p.stash = nil
	p.running.Go(func() { p.carry(ctx, w) })
	p.mu.Unlock()
	if old != nil {
		old.stop()
	}
	for _, m := range waiting {
		p.send(m)
	}
}

// close removes a way; what is in its queue is lost.
func (p *post) close(via string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked(via)
}

func (p *post) closeLocked(via string) {
	if w := p.ways[via]; w != nil {
		w.stop()
		delete(p.ways, via)
	}
}

// shut closes all ways for good and waits until nothing is sent any more.
func (p *post) shut() {
	p.mu.Lock()
	p.over = true
	p.closeLocked(viaSignaling)
	p.closeLocked(viaControl)
	p.mu.Unlock()
	p.running.Wait()
}

func (p *post) carry(ctx context.Context, w *way) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-w.queue:
			err := w.send(ctx, m.body)
			switch {
			case err == nil:
				p.trace.Emit(trace.SignalMessage{Sent: true, Via: w.via, Type: m.name, Size: len(m.body)})
			case ctx.Err() == nil:
				p.trace.Emit(trace.Failure{Where: "send " + m.name + " via " + w.via, Err: err.Error()})
				p.reroute(w.via, m)
			}
		}
	}
}

// reroute gives a message that one way could not carry to the other.
func (p *post) reroute(failed string, m parcel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for via, w := range p.ways {
		if via != failed {
			p.enqueueLocked(w, m)
		}
	}
}

// send numbers m and queues it. Without any way, it waits for the next that
// opens.
func (p *post) send(m *message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Seq == 0 {
		p.next++
		m.Seq = p.next
	}
	if len(p.ways) == 0 {
		p.stash = append(p.stash, m)
		p.stash = p.stash[max(0, len(p.stash)-maxStash):]
		return
	}
	b, err := m.encode()
	if err != nil {
		p.trace.Emit(trace.Failure{Where: "send " + m.name(), Err: err.Error()})
		return
	}
	ways := slices.Collect(maps.Values(p.ways))
	if control := p.ways[viaControl]; control != nil && p.alive.Load() {
		ways = []*way{control}
	}
	for _, w := range ways {
		p.enqueueLocked(w, parcel{m.name(), b})
	}
}

func (p *post) enqueueLocked(w *way, m parcel) {
	for {
		select {
		case w.queue <- m:
			return
		default:
		}
		select {
		case old := <-w.queue:
			p.trace.Emit(trace.Failure{Where: "send " + old.name + " via " + w.via, Err: "dropped, the queue is full"})
		default:
		}
	}
}

// receive decodes a message and tells whether it is new.
func (p *post) receive(via string, b []byte) (*message, bool) {
	m, err := decodeMessage(b)
	if err != nil {
		p.trace.Emit(trace.Failure{Where: "message via " + via, Err: err.Error()})
		return nil, false
	}
	p.trace.Emit(trace.SignalMessage{Via: via, Type: m.name(), Size: len(b)})
	p.mu.Lock()
	defer p.mu.Unlock()
	return m, p.seen.add(m.Seq)
}

// window remembers which of the last numbers were seen.
type window struct {
	top  uint64
	bits [seenWindow / 64]uint64
}

// add reports whether n is new. Number 0 is never valid, and one that is
// further behind than the window counts as seen.
func (w *window) add(n uint64) bool {
	if n == 0 || n+seenWindow <= w.top {
		return false
	}
	for w.top < n {
		if n-w.top > seenWindow {
			w.top = n - seenWindow
			w.bits = [seenWindow / 64]uint64{}
			continue
		}
		w.top++
		w.clear(w.top)
	}
	if w.has(n) {
		return false
	}
	w.set(n)
	return true
}

func (w *window) at(n uint64) (word *uint64, bit uint64) {
	n %= seenWindow
	return &w.bits[n/64], 1 << (n % 64)
}

func (w *window) has(n uint64) bool { word, bit := w.at(n); return *word&bit != 0 }
func (w *window) set(n uint64)      { word, bit := w.at(n); *word |= bit }
func (w *window) clear(n uint64)    { word, bit := w.at(n); *word &^= bit }
