package udpsock

// merge joins datagrams that came apart but are of one flow, so that they can
// leave as one batch: what UDP_GRO does for a sender which uses UDP_SEGMENT is
// done here for one which does not. ps are Packets in the order of arrival.
// Each is either kept, maybe longer now, or joined to one before it, and then
// its Data is nil. An empty datagram stays alone. The order within a flow is
// kept. What has one source is one flow, unless flow tells more of them apart.
func merge(ps []*Packet, flow func(datagram []byte) uint32) {
	for i, p := range ps {
		p.flow, p.mixed = p.flows(flow)
		if run := latest(ps[:i], p); run != nil && run.takes(p) {
			n := len(run.Data)
			run.Data = run.buf[:n+copy(run.buf[n:], p.Data)]
			p.Data = nil
		}
	}
}

// flows is the flow of the datagrams in p, or mixed when they are of several:
// UDP_GRO knows the source only.
func (p *Packet) flows(flow func([]byte) uint32) (first uint32, mixed bool) {
	if flow == nil {
		return 0, false
	}
	first = flow(p.Data[:p.Seg])
	for at := max(1, p.Seg); at < len(p.Data); at += p.Seg {
		if flow(p.Data[at:min(at+p.Seg, len(p.Data))]) != first {
			return 0, true
		}
	}
	return first, false
}

// latest is the last of ps that is of the flow of p, if nothing after it can
// be. What is mixed may be of any flow: it is joined to nothing, and nothing to
// it or over it.
func latest(ps []*Packet, p *Packet) *Packet {
	if p.mixed {
		return nil
	}
	for i := len(ps) - 1; i >= 0; i-- {
		q := ps[i]
		switch {
		case q.Data == nil || q.Src != p.Src:
		case q.mixed:
			return nil
		case q.flow == p.flow:
			return q
		}
	}
	return nil
}

// maxMerged leaves room for what a relay puts in front of each datagram.
const maxMerged = maxSend - 4*maxSegments

// takes tells whether q may be put at the end of p: only the last datagram of
// a batch may be shorter than the others.
func (p *Packet) takes(q *Packet) bool {
	switch {
	case len(p.Data) == 0 || len(q.Data) == 0:
		return false
	case len(p.Data)%p.Seg != 0 || len(p.Data)+len(q.Data) > min(maxMerged, len(p.buf)):
		return false
	case q.Seg == p.Seg:
		return true
	}
	return len(q.Data) == q.Seg && q.Seg < p.Seg
}
