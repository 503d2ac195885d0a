package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

// A peer that is not heard is waited for as long as there is reason, by simulated time:
// what happens, when, and when the link is given up at last.
func TestSilence(t *testing.T) {
	type event struct {
		at      time.Duration
		do      func(*unheard, time.Time)
		stopped bool // this process, until then
	}
	paths := func(alive bool) func(*unheard, time.Time) {
		return func(s *unheard, now time.Time) { s.paths(now, alive) }
	}
	packets := func(n uint64) func(*unheard, time.Time) {
		return func(s *unheard, now time.Time) { s.received(now, n) }
	}
	replaced := func(s *unheard, _ time.Time) { s.replaced = true }
	met, left, woke := (*unheard).met, (*unheard).left, (*unheard).woke
	const (
		sec   = time.Second
		min   = time.Minute
		never = time.Duration(-1)
	)
	for _, tt := range []struct {
		name   string
		events []event
		giveUp time.Duration
		why    error
	}{
		{"all is well", []event{{at: 0, do: met}, {at: 0, do: paths(true)}}, never, nil},
		{"a short outage", []event{{at: 5 * sec, do: paths(false)}, {at: 100 * sec, do: paths(true)}}, never, nil},
		{"there, and nothing passes", []event{{at: 5 * sec, do: paths(false)}}, 5*sec + stuckAfter, ErrNoPath},
		{"asleep for 200 s", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 200 * sec, do: met}, {at: 201 * sec, do: paths(true)}}, never, nil},
		{"asleep for 14 minutes", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 14 * min, do: met}, {at: 14*min + sec, do: paths(true)}}, never, nil},
		{"another one has its place, and nothing passes", []event{{at: 0, do: replaced}, {at: 5 * sec, do: left}, {at: 5 * sec, do: met}, {at: 6 * sec, do: paths(false)}}, 6*sec + replacedFor, ErrNoPath},
		{"another one has its place, and all is well", []event{{at: 0, do: replaced}, {at: 5 * sec, do: paths(false)}, {at: 10 * sec, do: paths(true)}}, never, nil},
		{"asleep for longer", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}}, 35*sec + asleepFor, ErrPeerAbsent},
		{"gone from the server first", []event{{at: 35 * sec, do: left}, {at: 50 * sec, do: paths(false)}}, 50*sec + asleepFor, ErrPeerAbsent},
		{"gone from the server, and well", []event{{at: 35 * sec, do: left}}, never, nil},
		{"awake again, and nothing passes", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 10 * min, do: met}}, 10*min + stuckAfter, ErrNoPath},
		{"it flaps at the server", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 36 * sec, do: met}, {at: 40 * sec, do: left}, {at: 50 * sec, do: left}}, 40*sec + asleepFor, ErrPeerAbsent},
		{"both reconnect to the server", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 36 * sec, do: met}, {at: 95 * sec, do: left}, {at: 96 * sec, do: met}}, 5*sec + stuckAfter, ErrNoPath},
		{"asleep twice", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 600 * sec, do: met}, {at: 601 * sec, do: paths(true)}, {at: 605 * sec, do: paths(false)}, {at: 635 * sec, do: left}}, 635*sec + asleepFor, ErrPeerAbsent},
		{"this side slept meanwhile", []event{{at: 5 * sec, do: paths(false)}, {at: 100 * min, do: woke, stopped: true}}, 100*min + stuckAfter, ErrNoPath},
		{"both slept", []event{{at: 5 * sec, do: paths(false)}, {at: 35 * sec, do: left}, {at: 100 * min, do: woke, stopped: true}}, 100*min + asleepFor, ErrPeerAbsent},
		{"paths answer, the session gets nothing", []event{{at: 0, do: paths(true)}, {at: 30 * sec, do: packets(7)}, {at: 60 * sec, do: packets(7)}}, 30*sec + stuckAfter, session.ErrIdle},
		{"the session goes on", []event{{at: 30 * sec, do: packets(7)}, {at: 60 * sec, do: packets(8)}}, 60*sec + stuckAfter, session.ErrIdle},
		{"the session had an outage", []event{{at: 30 * sec, do: packets(7)}, {at: 40 * sec, do: paths(false)}, {at: 50 * sec, do: left}, {at: 10 * min, do: met}, {at: 11 * min, do: paths(true)}}, 11*min + stuckAfter, session.ErrIdle},
		{"the session was stopped", []event{{at: 30 * sec, do: packets(7)}, {at: 9 * min, do: woke, stopped: true}}, 9*min + stuckAfter, session.ErrIdle},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s unheard
			start := time.Now()
			for _, e := range tt.events {
				if at, why := s.giveUp(); !at.IsZero() && at.Before(start.Add(e.at)) && !e.stopped {
					t.Fatalf("given up at %v, before what happens at %v: %v", at.Sub(start), e.at, why)
				}
				e.do(&s, start.Add(e.at))
			}
			at, why := s.giveUp()
			got := never
			if !at.IsZero() {
				got = at.Sub(start)
			}
			if got != tt.giveUp || !errors.Is(why, tt.why) {
				t.Errorf("given up at %v (%v), want %v (%v)", got, why, tt.giveUp, tt.why)
			}
		})
	}
}

// A session that has received something since the last look is not silent.
func TestGivingUpLooksOnceMore(t *testing.T) {
	for _, tt := range []struct {
		name string
		now  uint64
		want error
	}{{"silent", 7, session.ErrIdle}, {"it has received something since", 8, nil}} {
		var s unheard
		start := time.Now()
		s.paths(start, true)
		s.received(start.Add(hearEvery), 7)
		at, _ := s.giveUp()
		if why := s.over(at.Add(-time.Millisecond), 7); why != nil {
			t.Errorf("%s: too early: %v", tt.name, why)
		}
		if why := s.over(at, tt.now); !errors.Is(why, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, why, tt.want)
		}
	}
}

// Links that wait for peers which may be asleep are bounded, in number and in memory:
// the one that has waited longest makes room.
func TestWaitingLinksAreBounded(t *testing.T) {
	start := time.Now()
	now := start.Add(time.Hour)
	setUp := func(n int) (e *environment, ended func() []int) {
		e = &environment{}
		for i := range n {
			l := &link{env: e}
			l.ctx, l.stop = context.WithCancelCause(t.Context())
			l.unheard.left(start)
			l.unheard.paths(start.Add(time.Duration(i)*time.Second), false)
			e.links = append(e.links, l)
		}
		return e, func() (all []int) {
			for i, l := range e.links {
				if l.ctx.Err() != nil {
					all = append(all, i)
				}
			}
			return all
		}
	}
	t.Run("number", func(t *testing.T) {
		e, ended := setUp(maxAsleep + 2)
		e.links[0].unheard.paths(now, true) // heard again
		for _, l := range slices.Backward(e.links) {
			l.noteLongWait(now)
			l.noteLongWait(now) // nothing more
		}
		if got := ended(); !slices.Equal(got, []int{1}) {
			t.Errorf("links %v ended, want the second: it waits longest", got)
		}
	})
	t.Run("memory", func(t *testing.T) {
		e, ended := setUp(3)
		for _, l := range e.links {
			l.noteLongWait(now)
		}
		for i, tt := range []struct {
			after time.Duration
			heap  uint64
			want  []int
		}{
			{0, maxAsleepHeap, nil},
			{0, maxAsleepHeap + 1, []int{0}},
			{time.Second, maxAsleepHeap + 1, []int{0}}, // what was let go may not be swept yet
			{hearEvery, maxAsleepHeap + 1, []int{0, 1}},
			{2 * hearEvery, maxAsleepHeap, []int{0, 1}},
		} {
			e.limitWaiting(now.Add(tt.after), tt.heap)
			if got := ended(); !slices.Equal(got, tt.want) {
				t.Errorf("step %d: links %v ended, want %v", i, got, tt.want)
			}
		}
	})
}

// A session outlives the longest wait for its peer.
func TestSessionOutlivesSleep(t *testing.T) {
	if session.IdleTimeout < asleepFor+time.Minute {
		t.Errorf("a session ends after %v, and a peer may sleep for %v", session.IdleTimeout, asleepFor)
	}
}
