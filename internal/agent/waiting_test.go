package agent

import (
	"errors"
	"fmt"
	"testing"

	"github.com/p2pagent/p2pagent/internal/identity"
)

func TestWaitsFor(t *testing.T) {
	down := errors.New("dial 192.0.2.2:8080: connection refused")
	declined := fmt.Errorf("%w by office: %q", ErrRefused, "too many links of one peer")
	for _, tt := range []struct {
		name      string
		s         sighting
		unreached error
		state     WaitingState
		text      string
		remedy    bool
	}{
		{"at the start", sighting{}, errConnecting, WaitingForSignaling, "the signaling server is not reached: connecting; trying again", true},
		{"no server", sighting{joined: true, present: true}, down, WaitingForSignaling, "the signaling server is not reached: dial 192.0.2.2:8080: connection refused; trying again", true},
		{"connected", sighting{}, nil, WaitingForServer, "not known yet whether it is at the signaling server", false},
		{"absent", sighting{joined: true}, nil, WaitingForPeer, "absent: not at the signaling server; waiting", true},
		{"absent since ever", sighting{joined: true, unproved: true}, nil, WaitingForPeer, "absent: not at the signaling server, and it has never confirmed the pairing; waiting", true},
		{"there", sighting{joined: true, present: true}, nil, WaitingForLink, "there, linking", false},
		{"there again", sighting{joined: true, present: true, ended: ErrNoPath}, nil, WaitingForLink, "there, linking anew; the last link ended: no path to the peer", false},
		{"declined", sighting{joined: true, present: true, declined: declined, ended: ErrNoPath}, nil, WaitingDeclined,
			"there, but refused by office: \"too many links of one peer\"; asking again", false},
		{"refused", sighting{joined: true, refused: ErrRefused}, nil, WaitingRefused, "refused", false},
	} {
		for _, role := range []identity.Role{connector, listener} {
			tt.s.role = role
			state, v := tt.s.waitsFor(tt.unreached)
			if state != tt.state || v.why != tt.text || (v.remedy != "") != tt.remedy || v.path != pathNone {
				t.Errorf("%s, as %v: %s, %+v", tt.name, role, state, v)
			}
		}
	}
}
