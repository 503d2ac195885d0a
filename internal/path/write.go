package path

import (
	"errors"
	"net"
	"sync"
	"time"
)

// WriteTo sends one datagram to the peer, whatever the address says. A nil
// error means that it was sent or lost.
func (c *Conn) WriteTo(b []byte, _ net.Addr) (int, error) {
	if err := c.write(b, len(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// write leaves datagrams of seg bytes (the last may be shorter) to the sender.
// Only the Conn's own end is an error.
func (c *Conn) write(b []byte, seg int) error {
	if len(b) == 0 || seg <= 0 {
		return nil
	}
	return c.out.put(b, seg)
}

// sendAll sends what is written, until the end.
func (c *Conn) sendAll() {
	defer close(c.sent)
	for t := c.out.take(); t != nil; t = c.out.take() {
		c.send(t.b, t.seg)
		outboxBatches.Put(t)
	}
}

// send sends datagrams where payload goes now. What cannot be sent is lost, as
// packets are.
func (c *Conn) send(b []byte, seg int) {
	now := c.now()
	c.sentAt.Store(int64(now)) // before anything can leave
	c.ring.put(now, b, seg)
	r := c.route.Load()
	if r == nil || !r.primary.consents(now) {
		c.lost.noPath.Add(1)
		return
	}
	r.primary.send(b, seg, &r.primary.out.Payload)
	if r.duplicate != nil && r.duplicate.consents(now) {
		r.duplicate.send(b, seg, &r.duplicate.out.Payload)
	}
}

// consents reports whether the far end has said lately that it wants payload
// (RFC 7675). When it says so again, what waits in the ring is sent.
func (p *path) consents(now time.Duration) bool { return now < time.Duration(p.consentUntil.Load()) }

// send sends datagrams over this path, in fragments where they are larger than
// it carries, and counts them as what they are. If this host's own network
// refuses their size, they go again in smaller fragments.
func (p *path) send(b []byte, seg int, as *counter) {
	for range sizes {
		size := int(p.size.Load())
		refused := p.sendCut(b, seg, size, as)
		if refused == 0 {
			return
		}
		p.tooLong(refused)
		if int(p.size.Load()) >= size {
			break // nothing smaller is known
		}
	}
	p.carrier.conn.lost.sends.Add(1)
}

// sendCut sends datagrams as they are or, where they are larger than size, in
// fragments. It returns the length that this host's own network refuses, or 0.
func (p *path) sendCut(b []byte, seg, size int, as *counter) (refused int) {
	if min(seg, len(b)) <= size {
		return p.sendBatch(b, seg, as)
	}
	// A shorter last datagram is cut differently, or not at all: it goes by
	// itself.
	if tail := len(b) % seg; tail > 0 && len(b) > seg {
		if refused := p.sendFragments(b[:len(b)-tail], seg, size); refused > 0 {
			return refused
		}
		return p.sendCut(b[len(b)-tail:], tail, size, as)
	}
	return p.sendFragments(b, seg, size)
}

// fragmentBuffers hold split batches while they are sent.
var fragmentBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// sendFragments splits datagrams of seg bytes each.
func (p *path) sendFragments(b []byte, seg, size int) (refused int) {
	c := p.carrier.conn
	seg = min(seg, len(b))
	count, piece := fragmentsFor(seg, size)
	if count == 0 {
		c.lost.tooLarge.Add(uint64(len(b) / seg))
		return 0
	}
	each := count * (fragmentHeader + piece)
	buf := fragmentBuffers.Get().(*[64 << 10]byte)
	defer fragmentBuffers.Put(buf)
	for len(b) > 0 {
		out := buf[:0]
		for len(b) > 0 && len(out)+each <= len(buf) {
			out = appendFragments(out, b[:seg], count, piece, c.fragment.Add(1))
			b = b[seg:]
		}
		if refused := p.sendBatch(out, fragmentHeader+piece, &p.out.Fragments); refused > 0 {
			return refused
		}
	}
	return 0
}

// sendBatch returns the length of a datagram when this host's own network
// refuses it for that; any other error is a loss.
func (p *path) sendBatch(b []byte, seg int, as *counter) (refused int) {
	err := p.carrier.Send(b, seg, p.remote)
	if errors.Is(err, errTooLong) {
		return min(seg, len(b))
	}
	as.Add(uint64(len(b)))
	if err != nil {
		p.carrier.conn.lost.sends.Add(1)
	}
	return 0
}

// sendProbe sends a probe or an answer.
func (p *path) sendProbe(raw []byte) {
	if refused := p.sendBatch(raw, len(raw), &p.out.Probes); refused > 0 {
		p.tooLong(refused)
	}
}

// tooLong notes that this host's own network takes no datagrams of a length,
// which is a fact and no suspicion.
func (p *path) tooLong(length int) {
	c := p.carrier.conn
	c.update(func(now time.Duration) { c.engine.refused(now, p.id, length) })
}

// replay sends datagrams again.
func (p *path) replay(datagrams [][]byte) {
	for _, d := range datagrams {
		p.send(d, len(d), &p.out.Replays)
	}
}

// SetWriteDeadline does nothing: writes do not wait.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the deadline of reads.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
