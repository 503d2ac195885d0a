package forward

import (
	"context"
	"fmt"
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
	open    int // connections
	waiting int // of these, those that wait for an answer of the target
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
	share    *Share
	target   string
	answered bool
}

// Take claims a connection. The error is a *[FullError].
func (h *Share) Take(ctx context.Context) (*Slot, error) {
	return h.of.take(ctx, h.takeLocked)
}

// TakeFor claims a connection to a target, of shares that are divided by target.
// The error is a *[FullError].
func (s *Shares) TakeFor(ctx context.Context, target string) (*Slot, error) {
	return s.take(ctx, func() (*Slot, error) { return s.takeForLocked(target) })
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

func (h *Share) takeLocked() (*Slot, error) {
	if err := h.claimLocked().judge(); err != nil {
		return nil, err
	}
	h.open++
	h.waiting++
	return &Slot{share: h}, nil
}

func (s *Shares) takeForLocked(target string) (*Slot, error) {
	h := s.targets[target]
	if h == nil {
		h = &Share{of: s}
	}
	slot, err := h.takeLocked()
	if err != nil {
		return nil, err
	}
	slot.target = target
	s.targets[target] = h
	s.forwards[h] = struct{}{}
	return slot, nil
}

func (h *Share) claimLocked() claim {
	c := claim{most: h.of.most, open: h.open, waiting: h.waiting, newcomer: h.of.byTarget}
	for other := range h.of.forwards {
		if other != h {
			c.others = append(c.others, other.open)
		}
	}
	return c
}

// Answered tells that the target has answered. More calls do nothing.
func (l *Slot) Answered() {
	l.share.of.mu.Lock()
	defer l.share.of.mu.Unlock()
	l.answerLocked()
}

func (l *Slot) answerLocked() {
	if !l.answered {
		l.answered = true
		l.share.waiting--
	}
}

// Free gives the connection back. It is called once.
func (l *Slot) Free() {
	s := l.share.of
	s.mu.Lock()
	defer s.mu.Unlock()
	l.answerLocked()
	l.share.open--
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
	Waiting bool // they are this forward's, and its target has not answered them
}

func (e *FullError) Error() string {
	what := "are open"
	switch {
	case e.Waiting:
		what = "wait for the target's answer"
	case e.Kept:
		what = "are open or kept for other forwards"
	}
	return fmt.Sprintf("%d connections %s, no more at once", e.Most, what)
}

// A claim is what is known when a forward asks for one more connection.
type claim struct {
	most     int   // connections of all forwards
	open     int   // of this one
	waiting  int   // of these, those that wait for an answer
	others   []int // open connections of each other forward
	newcomer bool  // one that is not known yet may come, and is to find room
}

// judge decides who may open: nobody beyond most; a forward that has what is kept
// for each, only what the others do not need for the same; and none may have
// more than an equal share of them wait for an answer, or one target that is
// silent would use up what all the others can have.
func (c claim) judge() error {
	forwards, reserved := 1+len(c.others), 0
	if c.newcomer {
		reserved = 1
	}
	kept := max(1, min(keptForEach, c.most/(2*(forwards+reserved))))
	total, reserve := c.open, reserved*kept
	share := max(kept, c.most/forwards)
	for _, n := range c.others {
		total += n
		reserve += max(0, kept-n)
	}
	switch {
	case total >= c.most:
		return &FullError{Most: c.most}
	case c.open >= kept && total+reserve >= c.most:
		return &FullError{Most: c.most, Kept: true}
	case c.waiting >= share:
		return &FullError{Most: share, Waiting: true}
	}
	return nil
}
