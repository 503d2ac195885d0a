package signaling

import (
	"cmp"
	"crypto/subtle"
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// A connID names one connection in the state.
type connID uint64

// An effect is a message that the rules want sent.
type effect struct {
	to  connID
	msg message
	// seat is whose credentials a message of type credentials is to carry;
	// the state does not know how they are made.
	seat string
	// waiting is where the message counts until it is written, nil when the
	// receiver caused it itself.
	waiting *backlog
}

// A member is who sits on a seat.
type member struct {
	number  Seat // HostSeat is the host, the others are guests
	conn    connID
	seat    string   // its token
	waiting *backlog // what its counterparts have sent here and it has not read
}

// A client is what the state knows of a connection.
type client struct {
	source  netip.Addr // what counts as one
	waiting *backlog   // in all of its queue
	run     string     // the process, as it says; empty: it did not
	boxes   []*mailbox // where it has a seat
}

// A mailbox has few members, and there are very many mailboxes: hence a list.
type mailbox struct {
	name    string
	members []member   // by number
	last    Seat       // highest number given to a guest
	rivals  *takeovers // of the host's seat, by other runs; nil: none

	// Nameplates only.
	nameplate bool
	deadline  time.Time
	host      string // seat token of who claimed it
	visited   bool   // a guest came, and it got its full time again
	ended     bool   // resting: nobody gets in any more
}

// state is the rules of the mailboxes: no sockets, no clock, no locks. Every
// method changes it and returns what is to be sent, in order.
type state struct {
	limits Limits
	pick   func(n int) int // random number in [0, n)

	boxes      map[string]*mailbox // all of them
	nameplates map[string]*mailbox // those that expire
	clients    map[connID]*client
	seats      map[netip.Addr]int // taken by the connections of one source
	nextExpiry time.Time          // no nameplate's deadline is earlier
	parted     int64              // how often too much waited
}

func newState(l Limits, pick func(n int) int) *state {
	return &state{
		limits:     l,
		pick:       pick,
		boxes:      make(map[string]*mailbox),
		nameplates: make(map[string]*mailbox),
		clients:    make(map[connID]*client),
		seats:      make(map[netip.Addr]int),
	}
}

// connect introduces a connection, before it joins anything.
func (s *state) connect(conn connID, c client) { s.clients[conn] = &c }

// at finds the member with a number.
func (b *mailbox) at(number Seat) (m member, there bool) {
	if i, there := b.index(number); there {
		return b.members[i], true
	}
	return member{}, false
}

func (b *mailbox) index(number Seat) (int, bool) {
	return slices.BinarySearchFunc(b.members, number, func(m member, n Seat) int { return cmp.Compare(m.number, n) })
}

// seatOf finds the seat of a connection in a mailbox.
func (s *state) seatOf(conn connID, name string) (b *mailbox, number Seat, in bool) {
	if b = s.boxes[name]; b == nil {
		return nil, 0, false
	}
	i := slices.IndexFunc(b.members, func(m member) bool { return m.conn == conn })
	if i < 0 {
		return nil, 0, false
	}
	return b, b.members[i].number, true
}

// runs takes the name that a connection gives its process.
func (s *state) runs(conn connID, run string) {
	s.clients[conn].run = run
}

// rival reports whether who sits on a seat is of another process than conn.
func (s *state) rival(conn connID, b *mailbox, number Seat) bool {
	old, there := b.at(number)
	return there && s.clients[old.conn].run != s.clients[conn].run
}

func refuse(to connID, m message, c Code) []effect {
	return []effect{{to: to, msg: message{Type: typeError, Code: c, Text: sentence(c), Mailbox: m.Mailbox, Ref: m.Ref}}}
}

// join seats conn in a mailbox that anybody who knows its name may enter.
func (s *state) join(now time.Time, conn connID, m message) []effect {
	if c, ok := s.mayJoin(conn, m.Mailbox); !ok {
		return refuse(conn, m, c)
	}
	if IsNameplate(m.Mailbox) {
		return s.joinNameplate(now, conn, m)
	}
	b := s.boxes[m.Mailbox]
	if b == nil {
		b = &mailbox{name: m.Mailbox}
	}
	number, c := b.place(m.Role, m.Seat, s.limits.Guests)
	if _, resumes := b.at(number); c == "" && !resumes && !s.roomFor(conn, b) {
		c = CodeFull
	}
	if c != "" {
		return refuse(conn, m, c)
	}
	rival := number == HostSeat && s.rival(conn, b, number)
	if wait := b.rivals.wait(now); rival && wait > 0 {
		effects := refuse(conn, m, CodeRate)
		effects[0].msg.Text = "another agent with the same key has just taken this place"
		effects[0].msg.RetryAfterMS = int(wait.Milliseconds()) + 1
		return effects
	}
	parted, ok := s.makeRoom(b, number)
	if !ok {
		effects := refuse(conn, m, CodeRate)
		effects[0].msg.Text = "too much waits to be read in this mailbox"
		effects[0].msg.RetryAfterMS = int(time.Second / time.Millisecond)
		return effects
	}
	if rival {
		if b.rivals == nil {
			b.rivals = new(takeovers)
		}
		b.rivals.add(now)
	}
	s.boxes[b.name] = b // it may be new, or have lost its last member
	return append(parted, s.enter(b, member{number: number, conn: conn, seat: m.Seat}, message{Type: typeJoined, Mailbox: b.name, Replaced: rival})...)
}

// joinNameplate seats the one guest that a nameplate has room for. Its host comes by
// claim, and ends it when its code is spent: how many may guess is not decided here.
func (s *state) joinNameplate(now time.Time, conn connID, m message) []effect {
	const only = HostSeat + 1
	b := s.boxes[m.Mailbox]
	if b == nil || b.ended || m.Role != RoleGuest {
		return refuse(conn, m, CodeUnknown)
	}
	if guest, there := b.at(only); there && !sameToken(guest.seat, m.Seat) {
		return refuse(conn, m, CodeTaken)
	}
	if !b.visited { // once, or a nameplate could live for ever
		b.visited, b.deadline = true, now.Add(s.limits.NameplateTTL)
	}
	return s.enter(b, member{number: only, conn: conn, seat: m.Seat}, message{Type: typeJoined, Mailbox: b.name})
}

// claim makes conn the host of a free nameplate, or again of the one it names.
func (s *state) claim(now time.Time, conn connID, m message) []effect {
	if c, ok := s.mayJoin(conn, m.Mailbox); !ok {
		return refuse(conn, m, c)
	}
	name := m.Mailbox
	b := s.boxes[name]
	switch {
	case name != "" && !IsNameplate(name):
		return refuse(conn, m, CodeUnknown)
	case b != nil && (b.ended || !sameToken(b.host, m.Seat)):
		return refuse(conn, m, CodeTaken)
	case b == nil:
		if len(s.nameplates) >= s.limits.Nameplates {
			return refuse(conn, m, CodeFull)
		}
		if name == "" {
			name = s.freeNameplate()
		}
		b = &mailbox{
			name: name, nameplate: true, host: m.Seat, deadline: now.Add(s.limits.NameplateTTL),
		}
		s.boxes[name], s.nameplates[name] = b, b
		if s.nextExpiry.IsZero() || b.deadline.Before(s.nextExpiry) {
			s.nextExpiry = b.deadline
		}
	}
	return s.enter(b, member{number: HostSeat, conn: conn, seat: m.Seat}, message{Type: typeClaimed, Ref: m.Ref, Mailbox: name})
}

func (s *state) mayJoin(conn connID, name string) (Code, bool) {
	if _, _, in := s.seatOf(conn, name); in {
		return CodeAlreadyJoined, false
	}
	if len(s.clients[conn].boxes) >= s.limits.Mailboxes {
		return CodeLimit, false
	}
	return "", true
}

// roomFor reports whether conn may have one more seat, in b. Anybody can make
// up names of mailboxes, and each costs memory.
func (s *state) roomFor(conn connID, b *mailbox) bool {
	opaque := len(s.boxes) - len(s.nameplates)
	return (s.boxes[b.name] != nil || opaque < s.limits.OpaqueMailboxes) &&
		s.seats[s.clients[conn].source] < s.limits.SeatsPerAddress
}

// freeNameplate picks a number at random, so that a mistyped one seldom hits,
// from four digits on, so that there is little to type.
func (s *state) freeNameplate() string {
	for low := 1000; ; low = min(10*low, 1_000_000) {
		for range 32 {
			name := strconv.Itoa(low + s.pick(9*low))
			if s.boxes[name] == nil {
				return name
			}
		}
	}
}

// place decides which seat of an opaque mailbox a newcomer gets.
func (b *mailbox) place(role Role, token string, guests int) (Seat, Code) {
	if role == RoleHost {
		if host, there := b.at(HostSeat); there && !sameToken(host.seat, token) {
			return 0, CodeOccupied
		}
		return HostSeat, ""
	}
	n := 0
	for _, m := range b.members {
		if m.number == HostSeat {
			continue
		}
		if sameToken(m.seat, token) {
			return m.number, ""
		}
		n++
	}
	if n >= guests {
		return 0, CodeFull
	}
	b.last++
	return b.last, ""
}

// enter seats m, in place of who sat there before, answers it, and tells both
// sides about each other.
func (s *state) enter(b *mailbox, m member, answer message) []effect {
	var effects []effect
	if old, there := b.at(m.number); there {
		effects = refuse(old.conn, message{Mailbox: b.name}, CodeReplaced)
		effects = append(effects, s.vacate(b, m.number)...)
		s.boxes[b.name] = b // vacate drops an empty mailbox
	}
	m.waiting = new(backlog)
	i, _ := b.index(m.number)
	b.members = slices.Insert(b.members, i, m)
	c := s.clients[m.conn]
	c.boxes = append(c.boxes, b)
	s.seats[c.source]++

	peers := b.peersOf(m.number)
	answer.Present = len(peers) > 0
	effects = append(effects, effect{to: m.conn, msg: answer})
	for _, p := range peers {
		effects = append(effects,
			presence(b, m.conn, p.number, true),
			tell(b, p, m.number, true),
			credentialsFor(b, p).countedFor(p))
	}
	if answer.Present {
		effects = append(effects, credentialsFor(b, m))
	}
	return effects
}

// vacate empties a seat and tells the counterparts. An opaque mailbox ends
// with its last member.
func (s *state) vacate(b *mailbox, number Seat) []effect {
	s.unseat(b, number)
	if len(b.members) == 0 && !b.nameplate {
		delete(s.boxes, b.name)
	}
	var effects []effect
	for _, p := range b.peersOf(number) {
		effects = append(effects, tell(b, p, number, false))
	}
	return effects
}

// unseat takes a member out of a mailbox.
func (s *state) unseat(b *mailbox, number Seat) {
	i, _ := b.index(number)
	c := s.clients[b.members[i].conn]
	b.members = slices.Delete(b.members, i, i+1)
	c.boxes = slices.DeleteFunc(c.boxes, func(o *mailbox) bool { return o == b })
	if s.seats[c.source]--; s.seats[c.source] == 0 {
		delete(s.seats, c.source)
	}
}

func presence(b *mailbox, to connID, who Seat, present bool) effect {
	return effect{to: to, msg: message{Type: typePeer, Mailbox: b.name, From: who, Present: present}}
}

// tell lets m know that a counterpart came or left.
func tell(b *mailbox, m member, who Seat, present bool) effect {
	return presence(b, m.conn, who, present).countedFor(m)
}

// countedFor makes an effect one that a counterpart of m caused.
func (e effect) countedFor(m member) effect {
	e.waiting = m.waiting
	return e
}

func credentialsFor(b *mailbox, m member) effect {
	return effect{to: m.conn, msg: message{Type: typeCredentials, Mailbox: b.name}, seat: m.seat}
}

// counterparts reports whether two seats are those of a host and a guest.
func counterparts(a, b Seat) bool { return (a == HostSeat) != (b == HostSeat) }

// peersOf lists the present counterparts of a seat: all guests for the host,
// the host for a guest.
func (b *mailbox) peersOf(number Seat) []member {
	var peers []member
	for _, m := range b.members {
		if counterparts(m.number, number) {
			peers = append(peers, m)
		}
	}
	return peers
}

// send passes a body to a counterpart, or tells the sender that it is gone, or
// parts the two when too much waits already.
func (s *state) send(conn connID, m message) []effect {
	b, number, in := s.seatOf(conn, m.Mailbox)
	if !in {
		return refuse(conn, m, CodeNotJoined)
	}
	to, there := b.at(m.To)
	if !there || !counterparts(number, m.To) {
		return []effect{presence(b, conn, m.To, false)}
	}
	if !s.readable(to, base64.StdEncoding.EncodedLen(len(m.Body))) {
		return s.part(b, max(number, m.To)) // one of them is the host, 0
	}
	return []effect{{
		to:      to.conn,
		msg:     message{Type: typeMessage, Mailbox: b.name, From: number, Body: m.Body},
		waiting: to.waiting,
	}}
}

// credentials mints once more for a member whose peer is present.
func (s *state) credentials(conn connID, m message) []effect {
	b, number, in := s.seatOf(conn, m.Mailbox)
	if !in {
		return refuse(conn, m, CodeNotJoined)
	}
	if len(b.peersOf(number)) == 0 {
		return refuse(conn, m, CodeAbsent)
	}
	asks, _ := b.at(number)
	return []effect{credentialsFor(b, asks)}
}

// leave takes conn out of a mailbox. A nameplate whose host leaves has ended.
func (s *state) leave(conn connID, m message) []effect {
	b, number, in := s.seatOf(conn, m.Mailbox)
	if !in {
		return refuse(conn, m, CodeNotJoined)
	}
	effects := s.vacate(b, number)
	if b.nameplate && number == HostSeat {
		effects = append(effects, s.end(b)...)
	}
	return effects
}

// disconnect takes conn out of all its mailboxes. A nameplate stays: its host
// or guest may come back until its time is over.
func (s *state) disconnect(conn connID) []effect {
	c := s.clients[conn]
	if c == nil {
		return nil
	}
	boxes := c.boxes
	c.boxes = nil // at once: there may be a thousand
	var effects []effect
	for _, b := range boxes {
		_, number, _ := s.seatOf(conn, b.name)
		effects = append(effects, s.vacate(b, number)...)
	}
	delete(s.clients, conn) // behind its last seat
	return effects
}

// end closes a nameplate for good and lets the number rest until its deadline.
func (s *state) end(b *mailbox) []effect {
	b.ended = true
	var effects []effect
	for _, m := range slices.Clone(b.members) {
		effects = append(effects, refuse(m.conn, message{Mailbox: b.name}, CodeExpired)...)
		s.unseat(b, m.number)
	}
	return effects
}

// expire ends the nameplates whose time is over and frees their numbers.
func (s *state) expire(now time.Time) []effect {
	if s.nextExpiry.IsZero() || now.Before(s.nextExpiry) {
		return nil
	}
	var due []string
	s.nextExpiry = time.Time{}
	for name, b := range s.nameplates {
		switch {
		case !now.Before(b.deadline):
			due = append(due, name)
		case s.nextExpiry.IsZero() || b.deadline.Before(s.nextExpiry):
			s.nextExpiry = b.deadline
		}
	}
	slices.Sort(due)
	var effects []effect
	for _, name := range due {
		effects = append(effects, s.end(s.boxes[name])...)
		delete(s.boxes, name)
		delete(s.nameplates, name)
	}
	return effects
}

func sameToken(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
