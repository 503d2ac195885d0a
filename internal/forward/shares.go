package forward

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// keptForEach is how many connections a forward can always have, whatever the
// others do; fewer where that would be more than half of all.
const keptForEach = 16

// Shares divides the connections that may be open at once among the forwards of
// one session, so that none of them takes the others along.
type Shares struct {
	most     int  // connections
	byTarget bool // forwards come and go with their connections: one more may come at any time

	mu       sync.Mutex
	forwards map[*Share]struct{}
	targets  map[string]*Share // of byTarget
	queued   int               // claims that wait for a connection to end
	freed    chan struct{}     // closed and replaced when one has
}

// A program sees the end of its connection a little earlier than we have done with
// it, and may begin the next one. So a claim that is one too many waits a moment
// before it is refused, and so many may at a time.
const (
	freeWithin = 200 * time.Millisecond
	maxQueued  = 128
)

// NewShares divides among forwards that are known: those that open connections
// here, see [Shares.Add].
func NewShares(most int) *Shares {
	return &Shares{most: most, forwards: make(map[*Share]struct{}), freed: make(chan struct{})}
}

// NewTargetShares divides among the targets that a peer asks for.
func NewTargetShares(most int) *Shares {
	s := NewShares(most)
	s.byTarget, s.targets = true, make(map[string]*Share)
	return s
}

// A Share is what one forward has of the connections.
type Share struct {
	of *Shares

	// guarded by of.mu
	open    int     // connections
	waiting []*Slot // of these, those that wait for an answer of the target, the oldest first
}

// Add counts one more forward, until its Remove.
func (s *Shares) Add() *Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &Share{of: s}
	s.forwards[h] = struct{}{}
	return h
}

// Remove ends a forward whose connections have ended.
func (h *Share) Remove() {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	delete(h.of.forwards, h)
}

// A Slot is one connection, from before it is opened until Free.
type Slot struct {
	share  *Share
	target string
	revoke context.CancelCauseFunc
	gone   bool // given back, or revoked; guarded by share.of.mu
}

// Take claims a connection. The error is a *[FullError], and so is what revoke is
// called with, at most once and before Answered, when another forward needs the
// room: then the connection is to end at once.
func (h *Share) Take(ctx context.Context, revoke context.CancelCauseFunc) (*Slot, error) {
	return h.of.take(ctx, func() (*Slot, error) { return h.takeLocked(revoke) })
}

// TakeFor claims a connection to a target, of shares that are divided by target,
// as [Share.Take] does.
func (s *Shares) TakeFor(ctx context.Context, target string, revoke context.CancelCauseFunc) (*Slot, error) {
	return s.take(ctx, func() (*Slot, error) { return s.takeForLocked(target, revoke) })
}

// take tries to claim until it may, or the moment is over that it may take.
func (s *Shares) take(ctx context.Context, tryLocked func() (*Slot, error)) (*Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, err := tryLocked()
	if err == nil || s.queued >= maxQueued {
		return slot, err
	}
	s.queued++
	defer func() { s.queued-- }()
	ctx, cancel := context.WithTimeout(ctx, freeWithin)
	defer cancel()
	for err != nil && ctx.Err() == nil {
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		slot, err = tryLocked()
	}
	return slot, err
}

func (h *Share) takeLocked(revoke context.CancelCauseFunc) (*Slot, error) {
	for {
		c, others := h.claimLocked()
		yields, err := c.judge()
		switch {
		case err == nil:
			h.open++
			slot := &Slot{share: h, revoke: revoke}
			h.waiting = append(h.waiting, slot)
			return slot, nil
		case yields < 0:
			return nil, err
		}
		oldest := others[yields].waiting[0]
		oldest.leaveLocked()
		oldest.revoke(&FullError{Most: c.share(), Waiting: true})
	}
}

func (s *Shares) takeForLocked(target string, revoke context.CancelCauseFunc) (*Slot, error) {
	h := s.targets[target]
	if h == nil {
		h = &Share{of: s}
	}
	slot, err := h.takeLocked(revoke)
	if err != nil {
		return nil, err
	}
	slot.target = target
	s.targets[target] = h
	s.forwards[h] = struct{}{}
	return slot, nil
}

// claimLocked returns the others in the order of the claim.
func (h *Share) claimLocked() (c claim, others []*Share) {
	c = claim{most: h.of.most, own: h.usageLocked(), newcomer: h.of.byTarget}
	for other := range h.of.forwards {
		if other != h {
			c.others = append(c.others, other.usageLocked())
			others = append(others, other)
		}
	}
	return c, others
}

func (h *Share) usageLocked() usage { return usage{h.open, len(h.waiting)} }

// Answered tells that the target has answered: the connection is not revoked any
// more. It returns false when it already is. More calls do nothing.
func (l *Slot) Answered() bool {
	l.share.of.mu.Lock()
	defer l.share.of.mu.Unlock()
	l.answerLocked()
	return !l.gone
}

func (l *Slot) answerLocked() {
	if i := slices.Index(l.share.waiting, l); i >= 0 {
		l.share.waiting = slices.Delete(l.share.waiting, i, i+1)
	}
}

// Free gives the connection back.
func (l *Slot) Free() {
	l.share.of.mu.Lock()
	defer l.share.of.mu.Unlock()
	l.leaveLocked()
}

func (l *Slot) leaveLocked() {
	if l.gone {
		return
	}
	l.gone = true
	l.answerLocked()
	l.share.open--
	s := l.share.of
	if s.queued > 0 {
		close(s.freed)
		s.freed = make(chan struct{})
	}
	if s.byTarget && l.share.open == 0 {
		delete(s.forwards, l.share)
		delete(s.targets, l.target)
	}
}

// A FullError is a connection that is one too many.
type FullError struct {
	Most    int  // connections
	Kept    bool // some of them for other forwards, as yet unused
	Waiting bool // they are one forward's, its target has not answered them, and another needs room
}

func (e *FullError) Error() string {
	switch {
	case e.Waiting:
		return fmt.Sprintf("%d connections wait for the target's answer, no more while other forwards need room", e.Most)
	case e.Kept:
		return fmt.Sprintf("%d connections are open or kept for other forwards, no more at once", e.Most)
	}
	return fmt.Sprintf("%d connections are open, no more at once", e.Most)
}

// A claim is what is known when a forward asks for one more connection.
type claim struct {
	most     int     // connections of all forwards
	own      usage   // of the one that asks
	others   []usage // of each other forward
	newcomer bool    // one that is not known yet may come, and is to find room
}

// A usage is what one forward has.
type usage struct {
	open    int // connections
	waiting int // of these, those that wait for an answer
}

// kept is how many a forward can always have.
func (c claim) kept() int {
	return max(1, min(keptForEach, c.most/(2*(1+len(c.others)+c.reserved()))))
}

func (c claim) reserved() int {
	if c.newcomer {
		return 1
	}
	return 0
}

// share is how many of one forward may wait while others need room: an equal part.
func (c claim) share() int { return max(c.kept(), c.most/(1+len(c.others))) }

// judge decides who may open: nobody beyond most; and a forward that has what is
// kept for each, only what the others do not need for the same.
//
// A target that is silent may use up all of that. So one that may not open, and has
// fewer than its share waiting, takes the place of a connection of whoever has most
// waiting and more than a share. yields is who in others, or -1; then it asks again.
// How long a connection has waited does not matter as long as there is room: a
// burst to a target that is far away waits as well.
func (c claim) judge() (yields int, err error) {
	kept := c.kept()
	total, reserve := c.own.open, c.reserved()*kept
	longest := -1
	for i, n := range c.others {
		total += n.open
		reserve += max(0, kept-n.open)
		if longest < 0 || n.waiting > c.others[longest].waiting {
			longest = i
		}
	}
	switch {
	case total >= c.most:
		err = &FullError{Most: c.most}
	case c.own.open >= kept && total+reserve >= c.most:
		err = &FullError{Most: c.most, Kept: true}
	default:
		return -1, nil
	}
	if share := c.share(); longest >= 0 && c.own.waiting < share && c.others[longest].waiting > share {
		return longest, err
	}
	return -1, err
}
