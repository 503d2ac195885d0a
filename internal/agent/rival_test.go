package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
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

// Two listeners with one key: both say so, and whoever is linked with them does. The
// link that works goes on with what it carries; the next one is with the newcomer.
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
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	echo := func(when string) {
		t.Helper()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	echo("before")

	startListener(t, other)
	is := func(want trace.KeyShared) func(trace.KeyShared) bool {
		return func(got trace.KeyShared) bool { return got == want }
	}
	await(t, other.events, 0, is(trace.KeyShared{Side: sideNewcomer}))
	await(t, b.events, 0, is(trace.KeyShared{Side: sideReplaced}))
	_, at := await(t, a.events, 0, is(trace.KeyShared{Side: sidePeer, From: "b", To: "copy", Kept: true}))
	echo("after the newcomer was met")

	// It is not told again when only signaling has come and gone.
	c.env.client.Kick("this is a test")
	_, met := await(t, a.events, at, func(e trace.SignalState) bool { return e.State == "connected" })
	await(t, a.events, met, func(e trace.PeerState) bool { return e.Present })
	second, err := NewConnector(a.cfg, peer, ConnectConfig{Handle: func(context.Context, *session.Session) {}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, second.Run)
	until(t, "a link of another connector with the newcomer", second.env.sessions)
	echo("after signaling has gone and come")
	if e, _, none := find(a.events, at, func(trace.KeyShared) bool { return true }); none == nil {
		t.Errorf("told again: %+v", e)
	}
	if e, _, none := find(a.events, 0, func(e trace.SessionState) bool { return e.State == "closed" }); none == nil {
		t.Errorf("a link ended: %+v", e)
	}

	// The older one ends with its last link, and the newcomer has the next.
	for _, l := range older.env.live() {
		l.end(errors.New("this is a test"))
	}
	if err := <-ended; !errors.Is(err, ErrRefused) || !errors.Is(err, signaling.ErrReplaced) {
		t.Errorf("the older listener ended with %v", err)
	}
	_, at = await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "closed" })
	await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "up" })
	roundTrip(t, addr, 1000)
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
