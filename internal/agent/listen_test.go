package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A list of known peers that cannot be read for a while ends nothing; when it
// can be read again, what has changed counts.
func TestPeersUnreadable(t *testing.T) {
	_, a, b, target := twoMachines(t)
	path := filepath.Join(t.TempDir(), "peers.json")
	store, err := identity.OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Peers = store
	peer, _ := befriend(t, a, b)
	stop := startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{Timeout: patience})
	addr := forwardTo(t, c, target)
	roundTrip(t, addr, 1000)

	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	_, at := await(t, b.events, 0, func(e trace.Trouble) bool { return e.Where == "read the known peers" })
	roundTrip(t, addr, 1000)
	if _, _, none := find(b.events, 0, func(e trace.SessionState) bool { return e.State == "closed" }); none == nil {
		t.Error("the link ended")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.Forget("a"); err != nil {
		t.Fatal(err)
	}
	await(t, b.events, at, func(e trace.SessionState) bool {
		return e.State == "closed" && strings.Contains(e.Why, ErrForgotten.Error())
	})
	if err := stop(); err != nil {
		t.Errorf("listener: %v", err)
	}
}

// A link too many is refused, which is not the same as no path. When the peer of
// another one has gone, that one makes room.
func TestTooManyLinks(t *testing.T) {
	_, a, b, _ := twoMachines(t)
	peer, _ := befriend(t, a, b)
	ls, err := NewListener(b.cfg, ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	start(t, ls.Run)
	for range maxLinks {
		o := offer{Key: make([]byte, keyBytes)}
		rand.Read(o.Link[:])
		if err := meetAs(t, a, peer).say(t.Context(), &message{Offer: &o}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all links that there may be", func() bool { return len(ls.env.live()) == maxLinks })
	c, err := NewConnector(a.cfg, peer, ConnectConfig{Timeout: absence})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "too many links") {
		t.Errorf("got %v", err)
	}

	ls.env.live()[0].detach(true)
	ctx, up := context.WithCancel(t.Context())
	defer up()
	c, err = NewConnector(a.cfg, peer, ConnectConfig{
		Timeout: sessionTimeout / 2, // the others give up by themselves later
		Handle:  func(context.Context, *session.Session) { up() },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(ctx); err != nil {
		t.Errorf("with one that is gone: %v", err)
	}
}
