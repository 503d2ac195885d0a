package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

func specsTo(targets ...string) (out []forward.Spec) {
	for _, t := range targets {
		out = append(out, forward.Spec{Bind: "localhost:0", Target: t})
	}
	return out
}

// Both sides say which targets of -L are not allowed before anybody connects, and
// those that are work.
func TestDeniedTargetsAreTold(t *testing.T) {
	_, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	specs := specsTo(target, "127.0.0.1:1", "169.254.169.254:80", "127.0.0.1:1", "evil\x1b[2J:80")
	for i := range 2 * maxTargets {
		specs = append(specs, specsTo(fmt.Sprintf("host%d:1", i))...)
	}
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience, Locals: specs})
	denied := func(m *machine, remote bool) (out []string) {
		await(t, m.events, 0, func(e trace.TargetDenied) bool { return e.Target == "host31:1" })
		m.events.mu.Lock()
		defer m.events.mu.Unlock()
		for _, r := range m.events.records {
			if e, ok := r.Event.(trace.TargetDenied); ok {
				if e.Remote != remote || !remote && e.Never != strings.HasPrefix(e.Target, "169.254.") {
					t.Errorf("%s: %+v", m.cfg.Name, e)
				}
				out = append(out, e.Target)
			}
		}
		return out
	}
	here := denied(a, false)
	if len(here) != 2*maxTargets+3 || slices.Contains(here, target) {
		t.Errorf("the connector was told of %q", here)
	}
	if there := denied(b, true); !slices.Equal(there, here) {
		t.Errorf("the listener tells of %q, the connector of %q", there, here)
	}
	roundTrip(t, forwardTo(t, c, target), 1000)
}

// A peer of an older version does not answer, and is left in peace after a while.
func TestTargetsOfAnOldPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{post: newPost(nil), targetAnswers: make(chan *targetsAnswer, askTargets)}
		began := time.Now()
		go l.targetsAnswered(&targetsAnswer{ID: "of another question"})
		l.askAboutTargets(t.Context(), specsTo("localhost:22"))
		if took := time.Since(began); took != askTargets*askAgain || len(l.post.stash) != askTargets {
			t.Errorf("asked %d times in %v", len(l.post.stash), took)
		}
	})
}

// What a peer learns by asking is bounded, and nothing before there is a session.
func TestTargetsAreAnsweredWithinBounds(t *testing.T) {
	e := &environment{cfg: Config{Allow: allow(t, "localhost:22")}}
	var told int
	l := &link{post: newPost(nil), trace: trace.New("b", trace.SinkFunc(func(trace.Record) { told++ }))}
	question := &targetsQuestion{ID: "t1", Targets: append([]string{"localhost:22"}, slices.Repeat([]string{"localhost:23"}, maxTargets-1)...)}
	e.answerTargets(l, question)
	if len(l.post.stash) != 0 {
		t.Error("answered without a session")
	}
	l.session.Store(new(session.Session))
	for range 2 * maxAsked / maxTargets {
		e.answerTargets(l, question)
	}
	if told != 1 {
		t.Errorf("one target that is not allowed left %d events", told)
	}
	if l.asked != maxAsked {
		t.Errorf("%d targets were answered", l.asked)
	}
	for _, m := range l.post.stash {
		if slices.Contains(m.Denied.Denied, "localhost:22") || !slices.Contains(m.Denied.Denied, "localhost:23") {
			t.Errorf("denied %q", m.Denied.Denied)
		}
	}
}
