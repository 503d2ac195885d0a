package path

import (
	"net"
	"sync"
)

const (
	// outboxBatch is how many bytes leave in one send at most: the longest UDP
	// payload of IPv4.
	outboxBatch = 65535 - 28

	// outboxSegments is how many datagrams that can be (Linux: UDP_MAX_SEGMENTS).
	outboxSegments = 64

	// outboxRoom is how many batches may wait; whoever writes more waits too.
	outboxRoom = 4
)

// An outbox gathers what QUIC writes in a row. QUIC writes 14 datagrams at a
// time and the kernel takes 64: a goroutine of its own sends, and while QUIC
// goes on writing, what it has written joins the last batch that still waits.
// Nothing is delayed for that: the sender runs as soon as there is something.
type outbox struct {
	mu     sync.Mutex
	filled sync.Cond // something waits, or the end has come
	taken  sync.Cond // there is room, or the end has come
	wait   []*batch
	paused bool // nothing is handed out
	ended  bool
}

// A batch is datagrams of seg bytes end to end, of which the last may be
// shorter.
type batch struct {
	b    []byte
	seg  int
	full bool // nothing fits behind it
	buf  [outboxBatch]byte
}

// outboxBatches needs no owner: a pool is shared by nature, and holds no state.
var outboxBatches = sync.Pool{New: func() any { return new(batch) }}

func (o *outbox) init() {
	o.filled.L, o.taken.L = &o.mu, &o.mu
}

// put adds datagrams of seg bytes, of which the last may be shorter. The error
// is net.ErrClosed.
func (o *outbox) put(b []byte, seg int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return net.ErrClosed
	}
	for len(b) > 0 {
		t, err := o.open(b, min(seg, len(b)))
		if err != nil {
			return err
		}
		b = b[t.add(b):]
	}
	o.filled.Signal()
	return nil
}

// open returns a batch to which at least one datagram of b can be added.
func (o *outbox) open(b []byte, seg int) (*batch, error) {
	if k := len(o.wait); k > 0 && o.wait[k-1].takes(b, seg) {
		return o.wait[k-1], nil
	}
	for len(o.wait) >= outboxRoom && !o.ended {
		o.filled.Signal()
		o.taken.Wait()
	}
	if o.ended {
		return nil, net.ErrClosed
	}
	t := outboxBatches.Get().(*batch)
	t.b, t.seg, t.full = t.buf[:0], seg, false
	o.wait = append(o.wait, t)
	return t, nil
}

// takes tells whether datagrams of seg bytes can be added: those of the batch's
// size, or a shorter one, which is the last.
func (t *batch) takes(b []byte, seg int) bool {
	return !t.full && (seg == t.seg || seg < t.seg && len(b) <= seg)
}

// limit is how many bytes fit, in whole datagrams.
func (t *batch) limit() int { return min(outboxSegments, max(1, outboxBatch/t.seg)) * t.seg }

// add takes as many whole datagrams of b as fit, and returns their bytes. A
// shorter one is the last.
func (t *batch) add(b []byte) int {
	n := min(len(b), t.limit()-len(t.b))
	if n < len(b) {
		n -= n % t.seg
	}
	t.b = append(t.b, b[:n]...)
	t.full = n%t.seg != 0 || len(t.b) == t.limit()
	return n
}

// pause stops handing out, or goes on.
func (o *outbox) pause(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.paused = on
	o.filled.Signal()
}

// take waits for a batch; nil is the end. What was put before the end is still
// handed out, paused or not.
func (o *outbox) take() *batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.ended && (len(o.wait) == 0 || o.paused) {
		o.filled.Wait()
	}
	if len(o.wait) == 0 {
		return nil
	}
	t := o.wait[0]
	o.wait = append(o.wait[:0], o.wait[1:]...)
	o.taken.Signal()
	return t
}

// end makes take return nil when it has handed out the rest.
func (o *outbox) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.filled.Broadcast()
	o.taken.Broadcast()
}
