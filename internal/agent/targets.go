package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Whether the targets of -L are on the peer's list is asked when the session comes
// up, so that a user is told then and not by the first connection.
const (
	maxTargets    = 16   // of one question
	maxTargetText = 512  // bytes, as in the header of a stream
	maxAsked      = 1024 // targets that one link may ask about
	askTargets    = 3    // times, askAgain apart; a peer of an older version never answers
)

// answerTargets tells the peer which targets of its question it may not dial: no
// more than a dial would tell it, and like that it leaves an event for each of
// them, once. It runs on the link's loop.
func (e *environment) answerTargets(l *link, q *targetsQuestion) {
	if l.session.Load() == nil || l.asked+len(q.Targets) > maxAsked {
		return // too early, or too much; nobody waits for it for long
	}
	l.asked += len(q.Targets)
	var denied []string
	for _, target := range q.Targets {
		if e.cfg.Allow.Allows(target) {
			continue
		}
		denied = append(denied, target)
		if l.deniedHere == nil {
			l.deniedHere = make(map[string]bool)
		}
		if !l.deniedHere[target] {
			l.deniedHere[target] = true
			l.trace.Emit(trace.TargetDenied{Target: target, Remote: true})
		}
	}
	l.post.send(&message{Denied: &targetsAnswer{ID: q.ID, Denied: denied}})
}

// targetsAnswered hands the peer's answer to askTargets.
func (l *link) targetsAnswered(a *targetsAnswer) {
	select {
	case l.targetAnswers <- a:
	default: // one that nobody waits for
	}
}

// askAboutTargets asks the peer which of the targets it does not allow, and records
// those. A peer that does not answer is not asked for ever.
func (l *link) askAboutTargets(ctx context.Context, specs []forward.Spec) {
	var targets []string
	for _, s := range specs {
		if !slices.Contains(targets, s.Target) && len(s.Target) <= maxTargetText {
			targets = append(targets, s.Target)
		}
	}
	n := 0
	for batch := range slices.Chunk(targets, maxTargets) {
		n++
		answer := l.askTargets(ctx, &targetsQuestion{ID: fmt.Sprintf("t%d", n), Targets: batch})
		if answer == nil {
			return
		}
		for _, target := range batch {
			if slices.Contains(answer.Denied, target) {
				l.trace.Emit(trace.TargetDenied{Target: target, Never: forward.NeverDialed(target)})
			}
		}
	}
}

// askTargets puts one question until it is answered; nil when it never is.
func (l *link) askTargets(ctx context.Context, q *targetsQuestion) *targetsAnswer {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for range askTargets {
		l.post.send(&message{Targets: q})
		for waiting := true; waiting; {
			select {
			case a := <-l.targetAnswers:
				if a.ID == q.ID {
					return a
				}
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}
