package path

import (
	"sync"
	"time"
)

const (
	replayDatagrams = 32

	// replayEvery bounds how often the ring is sent again, whatever the
	// paths do: with 32 datagrams of 1452 bytes, 93 kB/s at most.
	replayEvery = 500 * time.Millisecond
)

// A replayRing keeps copies of the datagrams sent last. What was sent into a
// path that then turned out dead is sent again over the next one: QUIC would
// notice by itself only when its probe timeout ends, which after a long outage
// is up to a minute away. A datagram that arrives twice is a duplicate packet
// number to QUIC and ignored.
type replayRing struct {
	mu    sync.Mutex
	slots [replayDatagrams]sentDatagram
	next  int // slot to overwrite: the oldest
}

type sentDatagram struct {
	at  time.Duration
	buf []byte
}

// put records a batch of datagrams of seg bytes each (the last may be shorter).
func (r *replayRing) put(now time.Duration, b []byte, seg int) {
	if over := (len(b)+seg-1)/seg - replayDatagrams; over > 0 {
		b = b[over*seg:]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(b) > 0 {
		n := min(seg, len(b))
		s := &r.slots[r.next]
		s.at, s.buf = now, append(s.buf[:0], b[:n]...)
		r.next = (r.next + 1) % replayDatagrams
		b = b[n:]
	}
}

// between returns copies of the datagrams sent then, oldest first.
func (r *replayRing) between(since, until time.Duration) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out [][]byte
	for i := range replayDatagrams {
		s := &r.slots[(r.next+i)%replayDatagrams]
		if len(s.buf) > 0 && s.at >= since && s.at <= until {
			out = append(out, append([]byte(nil), s.buf...))
		}
	}
	return out
}
