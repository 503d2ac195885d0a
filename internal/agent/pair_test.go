package agent

import (
	"context"
	"testing"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// codesOf starts a listener that pairs, and returns the codes it shows.
func codesOf(t *testing.T, m *machine) (codes <-chan identity.Code, stop func() error) {
	t.Helper()
	shown := make(chan identity.Code, 8)
	ls, err := NewListener(m.cfg, ListenConfig{Pair: true, OnCode: func(c identity.Code) { shown <- c }})
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
