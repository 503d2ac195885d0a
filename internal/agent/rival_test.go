package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/signaling"
)

func TestRivalry(t *testing.T) {
	var r rivalry
	now := time.Now()
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 16, 30, 30} {
		if got := r.next(now); got != want*time.Second {
			t.Errorf("change %d: a pause of %v, want %d s", i+1, got, want)
		}
		now = now.Add(time.Minute)
	}
	if got := r.next(now.Add(rivalMemory)); got != 0 {
		t.Errorf("after a long rest: %v", got)
	}
}

// Two listeners with one key: both say so, and whoever is linked with them does.
func TestOneKeyTwice(t *testing.T) {
	d, a, b, target := twoMachines(t)
	peer, _ := befriend(t, a, b)
	other := newMachine(t, d, "copy")
	other.cfg.Key, other.cfg.Peers, other.cfg.Allow = b.cfg.Key, b.cfg.Peers, b.cfg.Allow
	older, err := NewListener(b.cfg, ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	start(t, func(ctx context.Context) error {
		ended <- older.Run(ctx)
		return nil
	})
	c, _ := startConnector(t, a, peer, ConnectConfig{})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)

	startListener(t, other)
	is := func(want trace.KeyShared) func(trace.KeyShared) bool {
		return func(got trace.KeyShared) bool { return got == want }
	}
	await(t, other.events, 0, is(trace.KeyShared{Side: sideNewcomer}))
	await(t, b.events, 0, is(trace.KeyShared{Side: sideReplaced}))
	_, at := await(t, a.events, 0, is(trace.KeyShared{Side: sidePeer, From: "b", To: "copy"}))
	await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "up" })
	roundTrip(t, addr, 1000)
	// The older one ends with its last link.
	if err := <-ended; !errors.Is(err, ErrRefused) || !errors.Is(err, signaling.ErrReplaced) {
		t.Errorf("the older listener ended with %v", err)
	}
	if _, _, none := find(a.events, 0, func(e trace.PeerState) bool { return e.Present && e.Why != "" }); none == nil {
		t.Error("the newcomer was taken for the old one, started again")
	}
}

// A listener that is started again has no rival.
func TestRestartIsNoRival(t *testing.T) {
	_, a, b, _ := twoMachines(t)
	peer, _ := befriend(t, a, b)
	startConnector(t, a, peer, ConnectConfig{})
	at := 0
	for range 3 {
		stop := startListener(t, b)
		_, at = await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "up" })
		stop()
		_, at = await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "closed" })
	}
	for _, m := range []*machine{a, b} {
		if e, _, none := find(m.events, 0, func(trace.KeyShared) bool { return true }); none == nil {
			t.Errorf("%s has seen a rival: %+v", m.cfg.Name, e)
		}
		if e, _, none := find(m.events, 0, func(e trace.SignalState) bool { return e.State == "held" }); none == nil {
			t.Errorf("%s was held back: %+v", m.cfg.Name, e)
		}
	}
}
