package path

import (
	"net"
	"os"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// inbound is one read of a carrier on its way to QUIC.
type inbound struct {
	pkt  *udpsock.Packet
	path *path
}

// A reader cuts what the carriers read into datagrams, and joins fragments.
type reader struct {
	conn     *Conn
	deadline deadline

	mu   sync.Mutex // held while reading, which is one goroutine's work
	cur  inbound    // being cut; pkt nil: none
	rest []byte     // of cur, not handed out yet
	join joiner
}

func (r *reader) init(c *Conn) {
	r.conn = c
	r.join.max = c.cfg.MaxDatagram
	r.deadline.init()
}

// ReadFrom reads one datagram. The address is always the peer's virtual one.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for {
		d, err := c.in.next(true)
		if err != nil {
			return 0, nil, err
		}
		if len(d) > len(b) {
			c.lost.malformed.Add(1) // longer than QUIC's longest packet
			continue
		}
		return copy(b, d), c.remote, nil
	}
}

// next returns the next datagram, valid until the call after. Without wait it
// returns nil when none is there.
func (r *reader) next(wait bool) ([]byte, error) {
	for {
		for len(r.rest) > 0 {
			d := r.rest[:min(r.cur.pkt.Seg, len(r.rest))]
			r.rest = r.rest[len(d):]
			if d = r.accept(d); d != nil {
				return d, nil
			}
		}
		if err := r.fetch(wait); err != nil || r.cur.pkt == nil {
			return nil, err
		}
	}
}

// accept counts one datagram by what it is, and returns what QUIC gets of it.
func (r *reader) accept(d []byte) []byte {
	p, c := r.cur.path, r.conn
	switch {
	case d[0] >= 0x40: // RFC 9000 section 17: the fixed bit, or the long form
		p.in.Payload.Add(uint64(len(d)))
		return d
	case isFragment(d[0]):
		p.in.Fragments.Add(uint64(len(d)))
		whole := r.join.add(c.now(), p.id, d)
		if len(whole) > 0 && whole[0] >= 0x40 {
			return whole
		}
		return nil
	}
	c.lost.malformed.Add(1)
	return nil
}

// fetch takes the next read from the queue.
func (r *reader) fetch(wait bool) error {
	r.release()
	if !wait {
		select {
		case r.cur = <-r.conn.queue:
			r.rest = r.cur.pkt.Data
		default:
		}
		return nil
	}
	expired := r.deadline.wait()
	switch { // these first: packets that wait must not delay an end
	case isClosed(r.conn.done):
		return net.ErrClosed
	case isClosed(expired):
		return os.ErrDeadlineExceeded
	}
	select {
	case <-r.conn.done:
		return net.ErrClosed
	case <-expired:
		return os.ErrDeadlineExceeded
	case r.cur = <-r.conn.queue:
		r.rest = r.cur.pkt.Data
		return nil
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (r *reader) release() {
	if r.cur.pkt != nil {
		r.cur.pkt.Release()
	}
	r.cur, r.rest = inbound{}, nil
}

// drain gives back all buffers, once the carriers are no longer read.
func (r *reader) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release()
	for {
		select {
		case in := <-r.conn.queue:
			in.pkt.Release()
		default:
			return
		}
	}
}

// SetReadDeadline makes reads return os.ErrDeadlineExceeded from t on.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.deadline.set(t)
	return nil
}

// A deadline is a point in time that can be waited for and moved meanwhile.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{}
}

func (d *deadline) init() { d.expired = make(chan struct{}) }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // the timer has fired: let it finish
	}
	d.timer = nil
	if isClosed(d.expired) {
		d.expired = make(chan struct{})
	}
	switch until := time.Until(t); {
	case t.IsZero():
	case until <= 0:
		close(d.expired)
	default:
		expired := d.expired
		d.timer = time.AfterFunc(until, func() { close(expired) })
	}
}
