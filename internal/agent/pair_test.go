package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/signaling"
)

// codesOf starts a listener that pairs, and returns the codes it shows.
func codesOf(t *testing.T, m *machine) (codes <-chan identity.Code, stop func() error) {
	t.Helper()
	shown := make(chan identity.Code, maxCodes)
	ls, err := NewListener(m.cfg, ListenConfig{Pair: true, OnCode: func(c identity.Code, _ string) { shown <- c }})
	if err != nil {
		t.Fatal(err)
	}
	return shown, start(t, ls.Run)
}

// pairWith redeems a code.
func pairWith(t *testing.T, m *machine, code identity.Code, as string) (identity.Peer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return Pair(ctx, m.cfg, code, as)
}

// Under which name a peer is remembered, and that whoever reads the events learns it.
func TestPairedNames(t *testing.T) {
	d := deploy(t)
	a, b, twin := newMachine(t, d, "a"), newMachine(t, d, "b"), newMachine(t, d, "a")
	for _, tt := range []struct {
		name           string
		from           *machine
		as             string
		want, atOthers trace.Paired
	}{
		{"new, with a name of the user's", a, "bob", trace.Paired{Name: "bob"}, trace.Paired{Name: "a"}},
		{"again, as before", a, "bob", trace.Paired{Name: "bob", Again: true}, trace.Paired{Name: "a", Again: true}},
		{"again, with another name", a, "desk", trace.Paired{Name: "desk", Again: true, Was: "bob"}, trace.Paired{Name: "a", Again: true}},
		{"again, without a name", a, "", trace.Paired{Name: "desk", Again: true, Calls: "b"}, trace.Paired{Name: "a", Again: true}},
		{"a name that the other side has given away", twin, "", trace.Paired{Name: "b"}, trace.Paired{Name: "a-2", Calls: "a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			here, there := len(tt.from.events.records), len(b.events.records)
			codes, stop := codesOf(t, b)
			peer, err := pairWith(t, tt.from, <-codes, tt.as)
			if err != nil || peer.Name != tt.want.Name {
				t.Errorf("paired with %q, %v", peer.Name, err)
			}
			paired := func(trace.Paired) bool { return true }
			got, _ := await(t, tt.from.events, here, paired)
			other, _ := await(t, b.events, there, paired)
			tt.want.Fingerprint, tt.atOthers.Fingerprint = got.Fingerprint, other.Fingerprint
			if got != tt.want || other != tt.atOthers {
				t.Errorf("told %+v and %+v, want %+v and %+v", got, other, tt.want, tt.atOthers)
			}
			stop()
		})
	}
}

// A wrong code is spent: the right one of the same number pairs nobody. The listener
// shows a new one, which does, whether it serves known peers or not.
func TestWrongCode(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("known peers %t", known), func(t *testing.T) {
			d := deploy(t)
			a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
			if known {
				befriend(t, newMachine(t, d, "other"), b)
			}
			codes, _ := codesOf(t, b)
			right := <-codes
			wrong, err := identity.NewCode(right.Nameplate())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pairWith(t, a, wrong, ""); !errors.Is(err, ErrWrongCode) {
				t.Errorf("a wrong code: %v", err)
			}
			next := <-codes
			if _, err := pairWith(t, a, right, ""); !errors.Is(err, ErrPeerAbsent) {
				t.Errorf("a code that is spent: %v", err)
			}
			if peers, _ := a.cfg.Peers.List(); len(peers) != 0 {
				t.Errorf("stored %v", peers)
			}
			if _, err := pairWith(t, a, next, ""); err != nil {
				t.Errorf("the new code: %v", err)
			}
		})
	}
}

// Five codes are spent at most, with a pause that grows; those that nobody used do
// not count, and what is not about the code is the end.
func TestAfterCode(t *testing.T) {
	wrong := fmt.Errorf("%w; it is spent now", ErrWrongCode)
	expired := fmt.Errorf("mailbox: %w", signaling.ErrExpired)
	for _, tt := range []struct {
		name   string
		err    error
		spent  bool
		before int
		want   nextCode
	}{
		{"first wrong one", wrong, true, 0, nextCode{true, whyWrong, 1, time.Second}},
		{"fourth", wrong, true, 3, nextCode{true, whyWrong, 4, 8 * time.Second}},
		{"fifth", wrong, true, 4, nextCode{false, whyWrong, 5, 16 * time.Second}},
		{"nobody came", expired, false, 4, nextCode{true, whyExpired, 4, 0}},
		{"the server refuses", ErrRefused, false, 0, nextCode{}},
		{"the store is full", errors.New("disk full"), true, 0, nextCode{spent: 1, pause: time.Second}},
	} {
		if got := afterCode(tt.err, tt.spent, tt.before); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
