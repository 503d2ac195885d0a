package agent

import (
	"errors"
	"net"
	"testing"

	"github.com/p2pagent/p2pagent/internal/identity"
)

// A port of an older link of the same peer is taken over when its process has
// left signaling, though its path still seems to work.
func TestPortOfDesertedLink(t *testing.T) {
	bind := freePort(t)
	_, port, _ := net.SplitHostPort(bind)
	e := &environment{cfg: Config{Allow: allow(t, "listen:"+port)}}
	newOne := func(peer byte) *link {
		l := &link{ctx: t.Context(), post: newPost(nil), peer: identity.Peer{Fingerprint: identity.Fingerprint{peer}}}
		l.post.alive.Store(true)
		t.Cleanup(func() { e.binds.closeAll(l) })
		return l
	}
	old, next, other := newOne(1), newOne(1), newOne(2)
	if _, _, err := e.listenFor(old, bind); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.listenFor(next, bind); err == nil || errors.Is(err, errNotAllowed) {
		t.Errorf("while the old one lives: %v", err)
	}
	old.left.Store(true)
	if _, _, err := e.listenFor(other, bind); err == nil {
		t.Error("another peer has taken the port")
	}
	if _, fresh, err := e.listenFor(next, bind); err != nil || !fresh {
		t.Errorf("the old one has left: fresh %v, %v", fresh, err)
	}
	if _, _, err := e.listenFor(next, "127.0.0.1:1"); !errors.Is(err, errNotAllowed) {
		t.Errorf("not on the list: %v", err)
	}
}
