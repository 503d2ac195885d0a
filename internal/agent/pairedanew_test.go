package agent

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Two machines that pair again forget nobody: the live link ends, says why, and the next
// one is with the new secret, whichever side's store has it first.
func TestPairedAnew(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*identity.Store, identity.Peer) error // the connector's store, before the listener's
		after  func(*identity.Store, identity.Peer) error // and when the link has ended
	}{
		{"as a pairing stores it", propose, nil},
		{"the connector's store is late", nil, put},
		{"the connector's store is first", put, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, a, b, target := twoMachines(t)
			peer, back := befriend(t, a, b)
			startListener(t, b)
			c, stop := startConnector(t, a, peer, ConnectConfig{})
			addr := forwardTo(t, c, target)
			roundTrip(t, addr, 1000)
			_, at := await(t, a.events, 0, func(e trace.SessionState) bool { return e.State == "up" })

			rand.Read(peer.Secret[:])
			back.Secret = peer.Secret
			if tt.before != nil {
				if err := tt.before(a.cfg.Peers, peer); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.cfg.Peers.Put(back); err != nil {
				t.Fatal(err)
			}
			_, at = await(t, a.events, at, func(e trace.SessionState) bool {
				return e.State == "closed" && strings.Contains(e.Why, "paired anew")
			})
			if tt.after != nil {
				if err := tt.after(a.cfg.Peers, peer); err != nil {
					t.Fatal(err)
				}
			}
			await(t, a.events, at, func(e trace.SessionState) bool { return e.State == "up" })
			roundTrip(t, addr, 1000)
			if got, err := a.cfg.Peers.ByFingerprint(peer.Fingerprint); err != nil || got.Secret != peer.Secret {
				t.Errorf("the new secret is not stored as the peer's: %v", err)
			}
			if err := stop(); err != nil {
				t.Errorf("the connector ended with %v", err)
			}
		})
	}
}

// What follows when the listener does not know the secret any more is in the connector's
// store: an older listener calls a machine forgotten, too, that was paired anew.
func TestUnknownToThePeer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		code  session.Code
		store func(s *identity.Store, p identity.Peer) error
		want  error
	}{
		{"forgotten", session.CodeForgotten, nil, ErrForgotten},
		{"forgotten, and there is a new secret", session.CodeForgotten, put, errPairedAnew},
		{"forgotten, and one is proposed", session.CodeForgotten, propose, errOtherSecret},
		{"paired anew, and it is stored", session.CodePairedAnew, put, errPairedAnew},
		{"paired anew, and it is proposed", session.CodePairedAnew, propose, errOtherSecret},
		{"paired anew, and nothing is stored", session.CodePairedAnew, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, a, b, _ := twoMachines(t)
			peer, _ := befriend(t, a, b)
			c, err := NewConnector(a.cfg, peer, ConnectConfig{})
			if err != nil {
				t.Fatal(err)
			}
			c.retry = time.NewTimer(meetTimeout)
			defer c.retry.Stop()
			if tt.store != nil {
				rand.Read(peer.Secret[:])
				if err := tt.store(a.cfg.Peers, peer); err != nil {
					t.Fatal(err)
				}
			}
			if got := c.linkEnded(t.Context(), &session.PeerClosedError{Code: tt.code}); !errors.Is(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func put(s *identity.Store, p identity.Peer) error {
	_, err := s.Put(p)
	return err
}

func propose(s *identity.Store, p identity.Peer) error {
	_, err := s.Propose(p, "")
	return err
}
