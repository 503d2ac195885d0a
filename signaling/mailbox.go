package signaling

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"
)

// An EventKind says what happened in a mailbox.
type EventKind int

const (
	// Joined: in the mailbox, for the first time or again. Present tells
	// whether a peer is there; if so, PeerHere follows.
	Joined EventKind = iota + 1
	// PeerHere: the counterpart From is there. All that was agreed with an
	// earlier one of the same number is void.
	PeerHere
	// PeerGone: the counterpart From is gone; what was sent to it and not
	// answered may be lost.
	PeerGone
	// Message: Body from the counterpart From.
	Message
	// NewCredentials: TURN credentials, when a peer comes and on request.
	NewCredentials
	// Lost: no connection to the server, Err says why. The client is trying
	// again; peers are unknown until Joined.
	Lost
	// Failed: the end, Err says why. The channel is closed after it.
	Failed
)

func (k EventKind) String() string {
	names := [...]string{"none", "joined", "peer here", "peer gone", "message", "credentials", "lost", "failed"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("event %d", int(k))
	}
	return names[k]
}

// An Event is one thing that happened in a mailbox.
type Event struct {
	Kind        EventKind
	From        Seat
	Body        []byte
	Credentials *Credentials
	Err         error
	Present     bool
	Replaced    bool // Joined: another process with the same seat had to go
}

// maxPeers is how many counterparts at once are believed: four times what a
// server lets in unless told otherwise.
const maxPeers = 64

// eventQueue is how many events may wait in a mailbox before it is given up.
const eventQueue = 256

// A Mailbox is a client's seat in one mailbox. It survives reconnections.
type Mailbox struct {
	// constant
	c      *Client
	role   Role
	seat   string
	ref    int // of a claimed nameplate; 0: joined by name
	events chan Event

	// guarded by c.mu
	name    string // empty: claimed, not yet known
	link    *link  // where it is joined, or was asked to be
	joined  bool   // on link
	proven  bool   // has been joined once
	down    bool   // Lost was told
	tries   int    // in a row that the server refused for now
	pace    meter  // of what is sent
	retry   *time.Timer
	peers   map[Seat]bool
	waiters []chan credentialsAnswer
	named   chan struct{} // closed when name is known or the mailbox ended
	ended   bool
	err     error
}

type credentialsAnswer struct {
	credentials *Credentials
	err         error
}

// Name returns the mailbox's name; for a nameplate the number.
func (m *Mailbox) Name() string {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.name
}

// Events returns what happens in the mailbox, in order. The channel is closed
// after Failed, and by Close. It must be read: a mailbox with more than 256
// unread events fails with ErrOverflow.
func (m *Mailbox) Events() <-chan Event { return m.events }

// Err returns why the mailbox ended, nil while it has not.
func (m *Mailbox) Err() error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.err
}

// Send sends body to a counterpart: a guest's number, or HostSeat. It waits
// while too much is in line, and fails with ErrNotJoined when there is no
// connection, or ErrAbsent when the counterpart is known to be gone. Nil means
// on its way, not delivered: see PeerGone and Lost.
func (m *Mailbox) Send(ctx context.Context, to Seat, body []byte) error {
	if !within(len(body), 1, MaxBody) {
		return fmt.Errorf("send through signaling: body of %d bytes, want 1 to %d", len(body), MaxBody)
	}
	l, name, err := m.turn(ctx, to, base64.StdEncoding.EncodedLen(len(body)))
	if err != nil {
		return fmt.Errorf("send through signaling: %w", err)
	}
	frame := message{Type: typeSend, Mailbox: name, To: to, Body: body}
	if err := l.send(ctx, frame); err != nil {
		return fmt.Errorf("send through signaling: %w", err)
	}
	return nil
}

// turn waits until a body may be sent, and returns the connection over which
// it can go.
func (m *Mailbox) turn(ctx context.Context, to Seat, size int) (*link, string, error) {
	for {
		l, name, wait, err := m.ready(to, size)
		if err != nil || wait == 0 {
			return l, name, err
		}
		if pause(ctx, wait); ctx.Err() != nil {
			return nil, "", context.Cause(ctx)
		}
	}
}

// ready returns the connection over which a body for a counterpart can go, or
// how long to wait.
func (m *Mailbox) ready(to Seat, size int) (l *link, name string, wait time.Duration, err error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	switch {
	case m.ended:
		return nil, "", 0, m.err
	case !m.joined:
		return nil, "", 0, ErrNotJoined
	case !m.peers[to]:
		return nil, "", 0, ErrAbsent
	}
	return m.link, m.name, m.link.paceBody(&m.pace, size), nil
}

// Credentials asks for fresh credentials and waits for them. It fails with
// ErrAbsent while no peer is present.
func (m *Mailbox) Credentials(ctx context.Context) (Credentials, error) {
	answer := make(chan credentialsAnswer, 1)
	if err := m.ask(answer); err != nil {
		return Credentials{}, fmt.Errorf("ask signaling for credentials: %w", err)
	}
	select {
	case a := <-answer:
		if a.err != nil {
			return Credentials{}, fmt.Errorf("ask signaling for credentials: %w", a.err)
		}
		return *a.credentials, nil
	case <-ctx.Done():
		m.c.mu.Lock()
		defer m.c.mu.Unlock()
		m.waiters = slices.DeleteFunc(m.waiters, func(w chan credentialsAnswer) bool { return w == answer })
		return Credentials{}, fmt.Errorf("ask signaling for credentials: %w", context.Cause(ctx))
	}
}

func (m *Mailbox) ask(answer chan credentialsAnswer) error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	switch {
	case m.ended:
		return m.err
	case !m.joined:
		return ErrNotJoined
	}
	m.waiters = append(m.waiters, answer)
	m.link.push(message{Type: typeCredentials, Mailbox: m.name})
	return nil
}

// Close leaves the mailbox, after what was sent before, and closes Events.
func (m *Mailbox) Close() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	m.leaveLocked(ErrClosed)
}

// leaveLocked tells the server and ends the mailbox.
func (m *Mailbox) leaveLocked(err error) {
	if !m.ended && m.link != nil && m.name != "" {
		m.link.push(message{Type: typeLeave, Mailbox: m.name})
	}
	m.endLocked(err)
}

// failLocked ends the mailbox with a Failed event.
func (m *Mailbox) failLocked(err error) {
	if !m.ended {
		m.events <- Event{Kind: Failed, Err: err} // the place that emitLocked keeps free
	}
	m.endLocked(err)
}

func (m *Mailbox) endLocked(err error) {
	if m.ended {
		return
	}
	m.ended, m.err = true, err
	m.stopLocked(err)
	if m.link != nil && m.ref != 0 && m.name == "" {
		m.link.givenUp[m.ref] = true // the answer may be on its way
	}
	m.nameLocked(m.name)
	m.link = nil
	close(m.events)
	m.c.boxes = slices.DeleteFunc(m.c.boxes, func(o *Mailbox) bool { return o == m })
}

// stopLocked forgets what held for one connection.
func (m *Mailbox) stopLocked(err error) {
	m.joined = false
	m.peers = nil
	if m.retry != nil {
		m.retry.Stop()
		m.retry = nil
	}
	m.answerLocked(credentialsAnswer{err: err})
}

// nameLocked sets the name and lets Claim know.
func (m *Mailbox) nameLocked(name string) {
	m.name = name
	select {
	case <-m.named:
	default:
		close(m.named)
	}
}

func (m *Mailbox) answerLocked(a credentialsAnswer) {
	for _, w := range m.waiters {
		w <- a // one place each, used once
	}
	m.waiters = nil
}

// emitLocked queues an event. One place is kept for Failed.
func (m *Mailbox) emitLocked(e Event) {
	switch {
	case m.ended:
	case len(m.events) < eventQueue:
		m.events <- e
	default:
		if m.link != nil {
			m.link.push(message{Type: typeLeave, Mailbox: m.name})
		}
		m.failLocked(ErrOverflow)
	}
}

// enterLocked asks the server on l for the seat.
func (m *Mailbox) enterLocked(l *link) {
	m.link = l
	if m.ref != 0 {
		l.push(message{Type: typeClaim, Ref: m.ref, Seat: m.seat, Mailbox: m.name})
		return
	}
	if m.role == RoleHost && !l.named { // an older server says that it does not know the type
		l.named = true
		l.push(message{Type: typeRun, Run: m.c.process})
	}
	l.push(message{Type: typeJoin, Mailbox: m.name, Role: m.role, Seat: m.seat})
}

// lostLocked is the end of a connection, or a failed attempt at one. It is
// told once.
func (m *Mailbox) lostLocked(err error) {
	m.link = nil
	m.stopLocked(ErrNotJoined)
	if !m.down {
		m.down = true
		m.emitLocked(Event{Kind: Lost, Err: err})
	}
}

// heardLocked is a message of the server for this mailbox.
func (m *Mailbox) heardLocked(msg message) error {
	switch msg.Type {
	case typeClaimed, typeJoined:
		m.nameLocked(msg.Mailbox)
		m.joined, m.proven, m.down, m.tries = true, true, false, 0
		m.peers = make(map[Seat]bool)
		m.emitLocked(Event{Kind: Joined, Present: msg.Present, Replaced: msg.Replaced})
	case typeError:
		m.refusedLocked(msg)
	default:
		if m.joined {
			return m.happenedLocked(msg)
		}
	}
	return nil
}

func (m *Mailbox) happenedLocked(msg message) error {
	switch msg.Type {
	case typePeer:
		if msg.Present && len(m.peers) >= maxPeers && !m.peers[msg.From] {
			return malformed("more peers in one mailbox than there can be")
		}
		kind := PeerGone
		if delete(m.peers, msg.From); msg.Present {
			kind = PeerHere
			m.peers[msg.From] = true
		}
		m.emitLocked(Event{Kind: kind, From: msg.From, Present: msg.Present})
	case typeMessage:
		m.emitLocked(Event{Kind: Message, From: msg.From, Body: msg.Body})
	case typeCredentials:
		c := &Credentials{
			Username: msg.Username, Password: msg.Password, TTL: time.Duration(msg.TTL) * time.Second,
			URIs: msg.URIs, STUN: msg.STUN,
		}
		m.answerLocked(credentialsAnswer{credentials: c})
		m.emitLocked(Event{Kind: NewCredentials, Credentials: c})
	}
	return nil
}

// refusedLocked is an error of the server that concerns this mailbox.
func (m *Mailbox) refusedLocked(msg message) {
	err := &ServerError{msg.Code, msg.Text, time.Duration(msg.RetryAfterMS) * time.Millisecond}
	switch do, wait := afterError(err, m.joined, m.proven, m.tries); do {
	case ignore:
		m.answerLocked(credentialsAnswer{err: err})
	case tryAgain:
		if err.Code == CodeRate {
			m.c.emitState("held", errors.New(printable(err.Message, 200)))
		}
		m.tries++
		m.retryLocked(wait)
	case giveUp:
		m.failLocked(err)
	}
}

func (m *Mailbox) retryLocked(wait time.Duration) {
	l := m.link
	m.stopLocked(ErrNotJoined)
	m.retry = time.AfterFunc(wait, func() {
		m.c.mu.Lock()
		defer m.c.mu.Unlock()
		if !m.ended && m.link == l && !m.joined {
			m.enterLocked(l)
		}
	})
}

// A reaction is what to do about an error of the server.
type reaction int

const (
	giveUp   reaction = iota
	ignore            // a request failed, the mailbox stays as it is
	tryAgain          // ask for the seat again, later
)

// rejoinTries is how often a guest that was in a nameplate looks for it again,
// one second apart: after a restart of the server it may come before the host.
const rejoinTries = 10

// afterError decides what a mailbox does about an error. joined: it is in;
// proven: it was in once; tries: how often in a row it has tried again.
func afterError(e *ServerError, joined, proven bool, tries int) (reaction, time.Duration) {
	switch e.Code {
	case CodeAbsent, CodeUnknownType:
		return ignore, 0
	case CodeNotJoined:
		if joined { // the server knows better
			return tryAgain, 0
		}
		return ignore, 0
	case CodeRate:
		return tryAgain, max(e.RetryAfter, time.Second)
	case CodeUnknown:
		if proven && tries < rejoinTries {
			return tryAgain, time.Second
		}
	}
	if e.Unwrap() == nil { // of a newer server
		return ignore, 0
	}
	return giveUp, 0
}

// randomSeat makes a seat token of 128 bits.
func randomSeat() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}

// checkSeat says what is wrong with the arguments of a join.
func checkSeat(name string, role Role, seat string) error {
	switch {
	case !IsNameplate(name) && !isToken(name):
		return fmt.Errorf("join mailbox: %w: its name is neither a nameplate of 4 to 7 digits nor 22 to 64 characters of base64url", ErrUnknown)
	case role != RoleHost && role != RoleGuest:
		return fmt.Errorf("join mailbox: role %q", string(role))
	case !isToken(seat):
		return errors.New("join mailbox: the seat token is not 22 to 64 characters of base64url")
	}
	return nil
}
