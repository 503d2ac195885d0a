package signaling

import "sync/atomic"

// A backlog counts what waits for a reader: all of its connection, or what its
// counterparts in one mailbox caused.
type backlog struct {
	messages, bytes atomic.Int32 // a queue is bounded by less than either holds
}

func (b *backlog) add(messages, bytes int) {
	b.messages.Add(int32(messages))
	b.bytes.Add(int32(bytes))
}

// below reports whether there is room for size bytes more. Nothing waits in a
// nil backlog.
func (b *backlog) below(messages, bytes, size int) bool {
	return b == nil || int(b.messages.Load()) < messages && int(b.bytes.Load())+size <= bytes
}

// A frame waits in the queue of a connection.
type frame struct {
	b   []byte
	box *backlog // of the mailbox whose other members caused it; nil: the reader did
}

// readable reports whether size bytes more may wait for a member. Counterparts
// share the connection with all others of the same reader. So they have a
// bounded part of its queue, and a quarter of it is kept for what the server
// says of itself: who is gone, above all.
func (s *state) readable(m member, size int) bool {
	l := &s.limits
	return m.waiting.below(l.MailboxQueueMessages, l.MailboxQueueBytes, size) &&
		s.clients[m.conn].waiting.below(3*l.QueueMessages/4, 3*l.QueueBytes/4, size)
}

// part ends the conversation of the host and one guest, when too much of it
// waits: the guest loses its seat, and may join again, and the host hears that
// it is gone. So both begin anew, and neither loses its other mailboxes.
func (s *state) part(b *mailbox, guest Seat) []effect {
	s.parted++
	out, _ := b.at(guest)
	effects := refuse(out.conn, message{Mailbox: b.name}, CodeNotJoined)
	effects[0].msg.Text = "too much waits to be read in this mailbox, join again"
	return append(effects, s.vacate(b, guest)...)
}

// makeRoom decides about a newcomer, of whom the counterparts will hear: a
// guest waits while too much waits for the host, which it may have caused; for
// a host, guests who do not read make way.
func (s *state) makeRoom(b *mailbox, newcomer Seat) (parted []effect, ok bool) {
	for _, p := range b.peersOf(newcomer) {
		if s.readable(p, 0) {
			continue
		}
		if p.number == HostSeat {
			return nil, false
		}
		parted = append(parted, s.part(b, p.number)...)
	}
	return parted, true
}
