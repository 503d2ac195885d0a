package agent

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A link ends as soon as a later process of the peer's machine says that the one
// it belongs to is over, but not while that one is there and answers.
func TestRunEnded(t *testing.T) {
	for _, tt := range []struct {
		name         string
		ended        bool // the peer's machine says so
		left, silent bool
		want         bool
	}{
		{"lives", false, false, false, false},
		{"left signaling", false, true, false, false},
		{"silent", false, false, true, false},
		{"killed", true, true, false, true},
		{"killed, its connection to the server not yet missed", true, false, true, true},
		{"a copy of the machine's files says so", true, false, false, false},
	} {
		l := &link{ctx: t.Context(), post: newPost(nil), peerRunEnded: tt.ended}
		var why error
		l.stop = func(err error) { why = err }
		l.left.Store(tt.left)
		l.post.alive.Store(!tt.silent)
		l.noteRunEnded()
		if got := errors.Is(why, errRunEnded); got != tt.want {
			t.Errorf("%s: ended %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Of the links of one peer only those of the named runs end, and an earlier one of the
// run that offers a new one. A process beside it, and one that does not tell its run,
// keep theirs.
func TestSuccession(t *testing.T) {
	_, a, b, _ := twoMachines(t)
	peer, _ := befriend(t, a, b)
	ls, err := NewListener(b.cfg, ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	start(t, ls.Run)
	propose := func(run identity.RunID, ended ...identity.RunID) linkID {
		o := offer{Key: make([]byte, keyBytes), Run: run, Ended: ended}
		rand.Read(o.Link[:])
		if err := meetAs(t, a, peer).say(t.Context(), &message{Offer: &o}); err != nil {
			t.Fatal(err)
		}
		return o.Link
	}
	killed, beside, next := identity.NewRunID(), identity.NewRunID(), identity.NewRunID()
	ends := func(at int, why error) int {
		t.Helper()
		e, at := await(t, b.events, at, func(e trace.SessionState) bool { return e.State == "closed" })
		if !strings.Contains(e.Why, why.Error()) {
			t.Errorf("a link ended: %s; want %v", e.Why, why)
		}
		return at
	}
	propose(killed)
	others := []linkID{propose(beside), propose(identity.RunID{})}
	propose(next, killed, identity.RunID{})
	at := ends(0, errRunEnded)
	others = append(others, propose(next))
	at = ends(at, errReplaced)
	if _, _, none := find(b.events, at, func(e trace.SessionState) bool { return e.State == "closed" }); none == nil {
		t.Error("another link ended too")
	}
	for _, id := range others {
		for changed := ls.env.change(); !slices.ContainsFunc(ls.env.live(), func(l *link) bool { return l.id == id }); changed = ls.env.change() {
			select {
			case <-changed:
			case <-time.After(patience):
				t.Fatal("a link is missing")
			}
		}
	}
}

// A connector names the earlier runs of its machine until the listener has answered.
func TestConnectorTellsOfEndedRuns(t *testing.T) {
	_, a, b, target := twoMachines(t)
	a.cfg.StateDir = t.TempDir()
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	mark := func() *identity.Run {
		t.Helper()
		r, err := identity.RecordRun(a.cfg.StateDir+"/runs", identity.NewRunID(), a.cfg.Key.Fingerprint(), peer.Fingerprint)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	mark().Close() // a run that was killed
	observer := mark()
	defer observer.Close()
	if ids, err := observer.Ended(); err != nil || len(ids) != 1 {
		t.Fatalf("ended are %v, %v", ids, err)
	}
	c, stop := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	roundTrip(t, forwardTo(t, c, target), 1000)
	if ids, err := observer.Ended(); err != nil || len(ids) != 0 {
		t.Errorf("after a link, ended are %v, %v", ids, err)
	}
	stop()
	if ids, err := observer.Ended(); err != nil || !slices.Contains(ids, c.env.run) {
		t.Errorf("after the connector's end, ended are %v, %v", ids, err)
	}
}
