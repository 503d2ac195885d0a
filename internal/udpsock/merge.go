package udpsock

// merge joins datagrams that came apart but are of one flow, so that they can
// leave as one batch: what UDP_GRO does for a sender which uses UDP_SEGMENT is
// done here for one which does not. ps are Packets in the order of arrival.
// Each is either kept, maybe longer now, or joined to one before it, and then
// its Data is empty. The order within a flow is kept.
func merge(ps []*Packet) {
	for i, p := range ps {
		if len(p.Data) == 0 {
			continue
		}
		if run := latest(ps[:i], p); run != nil && run.takes(p) {
			n := len(run.Data)
			run.Data = run.buf[:n+copy(run.buf[n:], p.Data)]
			p.Data = p.Data[:0]
		}
	}
}

// latest is the last of ps from the source of p.
func latest(ps []*Packet, p *Packet) *Packet {
	for i := len(ps) - 1; i >= 0; i-- {
		if len(ps[i].Data) > 0 && ps[i].Src == p.Src {
			return ps[i]
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
	case len(p.Data)%p.Seg != 0 || len(p.Data)+len(q.Data) > maxMerged:
		return false
	case q.Seg == p.Seg:
		return true
	}
	return len(q.Data) == q.Seg && q.Seg < p.Seg
}
