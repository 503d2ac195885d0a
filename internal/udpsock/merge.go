package udpsock

// merge joins datagrams that came apart but are of one flow, so that they can
// leave as one batch: what UDP_GRO does for a sender which uses UDP_SEGMENT is
// done here for one which does not. ps are Packets in the order of arrival.
// Each is either kept, maybe longer now, or joined to one before it, and then
// its Data is empty. The order within a flow is kept. What has one source is one
// flow, unless flow tells more of them apart.
func merge(ps []*Packet, flow func(datagram []byte) uint32) {
	for i, p := range ps {
		if len(p.Data) == 0 {
			continue
		}
		if run := latest(ps[:i], p, flow); run != nil && run.takes(p) {
			n := len(run.Data)
			run.Data = run.buf[:n+copy(run.buf[n:], p.Data)]
			p.Data = p.Data[:0]
		}
	}
}

// latest is the last of ps that is of the flow of p.
func latest(ps []*Packet, p *Packet, flow func([]byte) uint32) *Packet {
	for i := len(ps) - 1; i >= 0; i-- {
		q := ps[i]
		if len(q.Data) == 0 || q.Src != p.Src {
			continue
		}
		if flow == nil || flow(q.Data) == flow(p.Data) {
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
	case len(p.Data)%p.Seg != 0 || len(p.Data)+len(q.Data) > maxMerged:
		return false
	case q.Seg == p.Seg:
		return true
	}
	return len(q.Data) == q.Seg && q.Seg < p.Seg
}
