package signaling

import (
	"container/list"
	"net/netip"
)

// pending holds the connections that have not said a good hello yet. They have
// room of their own, so that no number of them keeps out who has the access
// token: a newcomer always gets in. When the room is full, the oldest one of the
// source that has the most makes way. So a source that floods displaces itself,
// and somebody behind the same address, as all are behind a proxy, has as long to
// say hello as the flood needs to fill the whole room once more.
type pending struct {
	most     int
	total    int
	arrivals uint64
	bySource map[netip.Addr]*list.List // of *acceptedConn, in the order of arrival
}

func newPending(most int) *pending {
	return &pending{most: most, bySource: make(map[netip.Addr]*list.List)}
}

// add lets c in, and returns who has to go for it, nil for nobody.
func (p *pending) add(c *acceptedConn, source netip.Addr) (displaced *acceptedConn) {
	if p.total >= p.most {
		displaced = p.first()
		p.remove(displaced)
	}
	p.arrivals++
	c.arrival = p.arrivals
	p.insert(c, source)
	return displaced
}

// first is who makes way when there is no room.
func (p *pending) first() (out *acceptedConn) {
	most := 0
	for _, l := range p.bySource {
		oldest := l.Front().Value.(*acceptedConn)
		if l.Len() > most || l.Len() == most && oldest.arrival < out.arrival {
			out, most = oldest, l.Len()
		}
	}
	return out
}

// move counts c for another source, once that is known.
func (p *pending) move(c *acceptedConn, source netip.Addr) {
	if c.pending != nil && c.source != source {
		p.remove(c)
		p.insert(c, source)
	}
}

func (p *pending) insert(c *acceptedConn, source netip.Addr) {
	l := p.bySource[source]
	if l == nil {
		l = list.New()
		p.bySource[source] = l
	}
	c.source, c.pending = source, l.PushBack(c)
	p.total++
}

// remove lets c out, if it is in.
func (p *pending) remove(c *acceptedConn) {
	if c.pending == nil {
		return
	}
	l := p.bySource[c.source]
	l.Remove(c.pending)
	if l.Len() == 0 {
		delete(p.bySource, c.source)
	}
	c.pending = nil
	p.total--
}
