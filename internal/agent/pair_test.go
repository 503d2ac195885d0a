package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
			here, there := tt.from.events.len(), b.events.len()
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
		{"not stored there", fmt.Errorf("pairing: %w", identity.ErrNotStored{}), true, 0, nextCode{true, "pairing: the other machine could not store the pairing", 1, time.Second}},
		{"no last word", errUnsettled, true, 4, nextCode{false, errUnsettled.Error(), 5, 16 * time.Second}},
		{"the server refuses", ErrRefused, false, 0, nextCode{}},
		{"the store is full", errors.New("disk full"), true, 0, nextCode{spent: 1, pause: time.Second}},
	} {
		if got := afterCode(tt.err, tt.spent, tt.before); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// unstorable makes a machine's list of known peers one that can be read and not
// changed, and returns what makes it good again.
func unstorable(t *testing.T, m *machine) (mend func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peers.json")
	store, err := identity.OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	m.cfg.Peers = store
	lock := path + ".lock"
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
	}
}

// A side that cannot store the other one tells it, and neither keeps anything or calls
// itself paired.
func TestPairingNotStored(t *testing.T) {
	nothing := func(t *testing.T, machines ...*machine) {
		t.Helper()
		for _, m := range machines {
			if peers, err := m.cfg.Peers.List(); err != nil || len(peers) != 0 {
				t.Errorf("%s has %v, %v", m.cfg.Name, peers, err)
			}
			if e, _, none := find(m.events, 0, func(trace.Paired) bool { return true }); none == nil {
				t.Errorf("%s says that it is paired: %+v", m.cfg.Name, e)
			}
		}
	}
	t.Run("at the listener", func(t *testing.T) {
		d := deploy(t)
		a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
		unstorable(t, b)
		codes, stop := codesOf(t, b)
		if _, err := pairWith(t, a, <-codes, ""); !errors.As(err, new(identity.ErrNotStored)) {
			t.Errorf("connector: %v", err)
		}
		nothing(t, a, b)
		if err := stop(); err == nil || !strings.Contains(err.Error(), "neither machine keeps it") {
			t.Errorf("listener: %v", err)
		}
	})
	t.Run("at the connector", func(t *testing.T) {
		d := deploy(t)
		a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
		mend := unstorable(t, a)
		codes, _ := codesOf(t, b)
		if _, err := pairWith(t, a, <-codes, ""); err == nil || !strings.Contains(err.Error(), "neither machine keeps it") {
			t.Errorf("connector: %v", err)
		}
		next := <-codes
		nothing(t, a, b)
		mend()
		if _, err := pairWith(t, a, next, ""); err != nil {
			t.Errorf("with the new code: %v", err)
		}
	})
}

// halfPaired pairs a with b up to the connector's last word. The listener's is lost,
// whether it has stored the connector or not. It returns the secret of the pairing.
func halfPaired(t *testing.T, a, b *machine) identity.Peer {
	t.Helper()
	client, err := signaling.NewClient(signaling.ClientConfig{URL: b.cfg.SignalURL})
	if err != nil {
		t.Fatal(err)
	}
	start(t, client.Run)
	number, box, err := client.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	code, err := identity.NewCode(number)
	if err != nil {
		t.Fatal(err)
	}
	p, err := identity.NewPairing(listener, code, identity.Self{Name: b.cfg.Name, Fingerprint: b.cfg.Key.Fingerprint()}, number)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := Pair(ctx, a.cfg, code, "")
		ended <- err
	}()
	for ev := range box.Events() {
		if ev.Kind != signaling.Message {
			continue
		}
		out, next, err := p.Step(ev.Body)
		if err != nil {
			t.Fatal(err)
		}
		if next == identity.NextStore {
			box.Close()
			break
		}
		if err := box.Send(t.Context(), ev.From, out); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; !errors.Is(err, errUnsettled) {
		t.Errorf("connector: %v", err)
	}
	if e, _, none := find(a.events, 0, func(trace.Paired) bool { return true }); none == nil {
		t.Errorf("the connector says that it is paired: %+v", e)
	}
	return p.Result()
}

// When the listener's last word is lost, the connector does not know whether it is
// paired. What it has stored works if it is, in both roles, and does no harm if not: a
// pairing from before still works. The user is told.
func TestLastWordLost(t *testing.T) {
	setUp := func(t *testing.T) (a, b *machine, target string, peer func() identity.Peer) {
		_, a, b, target = twoMachines(t)
		return a, b, target, func() identity.Peer {
			t.Helper()
			p, err := a.cfg.Peers.ByFingerprint(b.cfg.Key.Fingerprint())
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Run("stored there", func(t *testing.T) {
		a, b, target, peer := setUp(t)
		if _, err := b.cfg.Peers.Put(halfPaired(t, a, b)); err != nil {
			t.Fatal(err)
		}
		if peer().Confirmed() {
			t.Error("confirmed without a word")
		}
		startListener(t, b)
		c, _ := startConnector(t, a, peer(), ConnectConfig{Timeout: patience})
		roundTrip(t, forwardTo(t, c, target), 1000)
		await(t, a.events, 0, func(e trace.Paired) bool { return e.Name == "b" })
		if !peer().Confirmed() {
			t.Error("a link does not confirm the pairing")
		}
	})
	t.Run("stored there, and that side connects", func(t *testing.T) {
		a, b, _, peer := setUp(t)
		stored, err := b.cfg.Peers.Put(halfPaired(t, a, b))
		if err != nil {
			t.Fatal(err)
		}
		startListener(t, a)
		startConnector(t, b, stored, ConnectConfig{Timeout: patience})
		await(t, a.events, 0, func(e trace.Paired) bool { return e.Name == "b" })
		await(t, a.events, 0, func(e trace.SessionState) bool { return e.State == "up" })
		if !peer().Confirmed() {
			t.Error("a link does not confirm the pairing")
		}
	})
	t.Run("not stored there", func(t *testing.T) {
		a, b, _, peer := setUp(t)
		halfPaired(t, a, b)
		startListener(t, b) // serves nobody
		c, err := NewConnector(a.cfg, peer(), ConnectConfig{Timeout: absence})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(t.Context()); !errors.Is(err, ErrPeerAbsent) || !strings.Contains(err.Error(), "never confirmed the pairing") {
			t.Errorf("got %v", err)
		}
		await(t, a.events, 0, func(e trace.PeerState) bool { return !e.Present && strings.Contains(e.Why, "pair again") })
	})
	t.Run("not stored there, and paired before", func(t *testing.T) {
		a, b, target, peer := setUp(t)
		befriend(t, a, b)
		halfPaired(t, a, b)
		if n := len(peer().Variants()); n != 2 {
			t.Fatalf("%d secrets", n)
		}
		startListener(t, b)
		c, _ := startConnector(t, a, peer(), ConnectConfig{Timeout: patience})
		roundTrip(t, forwardTo(t, c, target), 1000) // the second secret that it tries
	})
}

// A machine that shows a code and does not answer is absent: the server was reached.
func TestPairWithMute(t *testing.T) {
	d := deploy(t)
	a, b := newMachine(t, d, "a"), newMachine(t, d, "b")
	client, err := signaling.NewClient(signaling.ClientConfig{URL: b.cfg.SignalURL})
	if err != nil {
		t.Fatal(err)
	}
	start(t, client.Run)
	number, _, err := client.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	code, err := identity.NewCode(number)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Pair(ctx, a.cfg, code, ""); !errors.Is(err, ErrPeerAbsent) || !strings.Contains(err.Error(), "nobody answered") {
		t.Errorf("got %v", err)
	}
}
