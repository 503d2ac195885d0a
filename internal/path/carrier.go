package path

import (
	"context"
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// A carrier is a Carrier in use. It is the handler of what that reads.
type carrier struct {
	Carrier
	id     int
	kind   Kind
	stream bool // over TCP or TLS to its relay
	conn   *Conn
	stun   func(b []byte, src netip.AddrPort)
	cancel context.CancelFunc
	served chan struct{} // closed when Serve has returned

	// sources are this carrier's paths by remote address. The map is replaced,
	// never changed, so that packets are looked up without a lock.
	sources atomic.Pointer[map[netip.AddrPort]*path]
}

// admit makes a path's source known. Called with Conn.mu held, as expel is.
func (k *carrier) admit(p *path) {
	m := maps.Clone(*k.sources.Load())
	m[p.remote] = p
	k.sources.Store(&m)
}

func (k *carrier) expel(p *path) {
	m := maps.Clone(*k.sources.Load())
	delete(m, p.remote)
	k.sources.Store(&m)
}

// mark is what our probes say of this end.
func (k *carrier) mark() probeMark { return probeMark{relay: k.kind == Relayed, stream: k.stream} }

func (k *carrier) kernelDrops() uint64 {
	if n, ok := k.Carrier.(Counting); ok {
		return n.Counters().KernelDrops
	}
	return 0
}

// HandleData takes QUIC packets and fragments, from sources that have proved
// to be the peer.
func (k *carrier) HandleData(pkt *udpsock.Packet) {
	c := k.conn
	p := (*k.sources.Load())[canonical(pkt.Src)]
	now := int64(c.now())
	if p == nil || now >= p.trustedUntil.Load() {
		c.lost.untrusted.Add(uint64(pkt.Count()))
		pkt.Release()
		return
	}
	p.dataAt.Store(now)
	select {
	case c.queue <- inbound{pkt, p}:
	default:
		c.lost.queue.Add(uint64(pkt.Count()))
		pkt.Release()
	}
}

// HandleSTUN takes probes and their answers, and passes on what is not the
// Conn's.
func (k *carrier) HandleSTUN(b []byte, src netip.AddrPort) {
	h, err := stunmsg.Parse(b)
	if err != nil {
		return
	}
	src = canonical(src)
	switch {
	case h.Method != stunmsg.MethodBinding:
	case h.Class == stunmsg.ClassRequest:
		if k.request(b, src) {
			return
		}
	case h.Class == stunmsg.ClassSuccess:
		if k.answer(h, b, src) {
			return
		}
	}
	if k.stun != nil {
		k.stun(b, src)
	}
}

// request answers a probe, and reports whether b was one.
func (k *carrier) request(b []byte, src netip.AddrPort) bool {
	c := k.conn
	m, err := stunmsg.Decode(b)
	if err != nil || m.Username() != c.prober.peer {
		return false
	}
	mark, err := c.prober.verify(m)
	if err != nil {
		c.lost.forged.Add(1)
		return true
	}
	var answer []byte
	c.update(func(now time.Duration) {
		if !c.fresh.admit(mark.epoch, mark.seq) {
			c.lost.replayed.Add(1)
			return
		}
		at := key{k.id, src}
		if !c.engine.request(now, at, mark) {
			return
		}
		if p := (*k.sources.Load())[src]; p != nil {
			p.in.Probes.Add(uint64(len(b)))
		}
		ours := k.mark()
		if t := c.engine.find(at); t != nil {
			ours.tunnel = t.tunnel != ""
		}
		answer, _ = c.prober.answer(m.Header, ours, src)
	})
	if answer == nil {
		return true
	}
	if p := (*k.sources.Load())[src]; p != nil {
		p.sendProbe(answer)
	} else if err := k.Send(answer, len(answer), src); err != nil {
		c.lost.sends.Add(1)
	}
	return true
}

// answer takes the answer to a probe, and reports whether b was one.
func (k *carrier) answer(h stunmsg.Header, b []byte, src netip.AddrPort) bool {
	c := k.conn
	c.mu.Lock()
	ours := c.ledger.has(h.TransactionID)
	c.mu.Unlock()
	if !ours {
		return false
	}
	m, err := stunmsg.Decode(b)
	if err != nil {
		return true
	}
	mark, err := c.prober.verify(m)
	if err != nil {
		c.lost.forged.Add(1)
		return true
	}
	c.update(func(now time.Duration) {
		p := (*k.sources.Load())[src]
		if p == nil {
			return // from elsewhere than asked; the transaction stays open
		}
		p.in.Probes.Add(uint64(len(b)))
		if seq, ok := c.ledger.settle(h.TransactionID); ok {
			c.engine.answer(now, key{k.id, src}, seq, mark)
		}
	})
	return true
}
