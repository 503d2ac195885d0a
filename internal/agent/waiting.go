package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// WaitingState is the step to a link at which a known peer is.
type WaitingState string

// The states, in the order in which a peer goes through them.
const (
	WaitingForSignaling WaitingState = "no-signaling" // the server is not reached
	WaitingForServer    WaitingState = "joining"      // it has not said yet whether the peer is there
	WaitingForPeer      WaitingState = "absent"       // the peer is not at the server
	WaitingForLink      WaitingState = "linking"      // it is there
	WaitingDeclined     WaitingState = "declined"     // and refuses a link for now
	WaitingRefused      WaitingState = "refused"      // by the server
)

// PeerStatus is a known peer without a link, that this process waits for.
type PeerStatus struct {
	Peer    string        `json:"peer"`
	Role    string        `json:"role"`
	State   WaitingState  `json:"state"`
	Since   time.Time     `json:"since"`
	Verdict trace.Verdict `json:"verdict"`
}

// A sighting is the last that is known of a contact with a peer that this process
// serves, or wants to be served by. Its zero value is that of one whose mailbox has
// not been entered.
type sighting struct {
	peer identity.Peer
	role identity.Role

	joined   bool      // the server has let us into the mailbox
	present  bool      // the peer is there too
	unproved bool      // the peer has never confirmed that it knows us
	since    time.Time // of these two
	declined error     // the peer's last word, where it was a refusal
	refused  error     // the server's
	ended    error     // why the last link is over
}

// waitsFor says at which step a peer without a link is, and why. unreached is the
// error of a server that there is no connection to; nil: there is one.
func (s sighting) waitsFor(unreached error) (WaitingState, verdict) {
	v := verdict{path: pathNone}
	there := "run `p2pagent listen` there"
	if s.role == listener {
		there = "run `p2pagent connect` there"
	}
	switch {
	case s.refused != nil:
		v.why = s.refused.Error()
		return WaitingRefused, v
	case unreached != nil:
		v.why, v.remedy = fmt.Sprintf("the signaling server is not reached: %v; trying again", unreached), "see whether `signal` runs there, and its port is open"
		return WaitingForSignaling, v
	case !s.joined:
		v.why = "not known yet whether it is at the signaling server"
		return WaitingForServer, v
	case !s.present && s.unproved:
		v.why, v.remedy = "absent: not at the signaling server, and it has never confirmed the pairing; waiting", "pair again if it stays away"
		return WaitingForPeer, v
	case !s.present:
		v.why, v.remedy = "absent: not at the signaling server; waiting", there
		return WaitingForPeer, v
	case s.declined != nil:
		v.why = fmt.Sprintf("there, but %v; asking again", s.declined)
		return WaitingDeclined, v
	case s.ended != nil:
		v.why = fmt.Sprintf("there, linking anew; the last link ended: %v", s.ended)
		return WaitingForLink, v
	}
	v.why = "there, linking"
	return WaitingForLink, v
}

// expect says that this process waits for a peer, with whom it will have that role.
func (e *environment) expect(peer identity.Peer, role identity.Role) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sightings[contactOf(peer)] = &sighting{peer: peer, role: role, since: time.Now()}
}

// expectNoMore ends that.
func (e *environment) expectNoMore(peer identity.Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sightings, contactOf(peer))
}

// sighted takes what was learned of an expected peer.
func (e *environment) sighted(peer identity.Peer, learn func(*sighting)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sightings[contactOf(peer)]
	if s == nil {
		return
	}
	joined, present := s.joined, s.present
	learn(s)
	if s.joined != joined || s.present != present {
		s.since = time.Now()
	}
}

// sees reports whether the server says that an expected peer is there.
func (e *environment) sees(peer identity.Peer) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sightings {
		if s.peer.Fingerprint == peer.Fingerprint && s.present {
			return true
		}
	}
	return false
}

// errConnecting stands for the error that there is not yet.
var errConnecting = errors.New("connecting")

// waiting lists the expected peers that have no link, by name.
func (e *environment) waiting() []PeerStatus {
	connected, _, last := e.client.State()
	switch {
	case connected:
		last = nil
	case last == nil:
		last = errConnecting
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	best := make(map[identity.Fingerprint]*sighting)
	for _, s := range e.sightings {
		if old := best[s.peer.Fingerprint]; old == nil || s.present && !old.present {
			best[s.peer.Fingerprint] = s
		}
	}
	for _, l := range e.links {
		delete(best, l.peer.Fingerprint)
	}
	out := []PeerStatus{}
	for _, s := range best {
		state, v := s.waitsFor(last)
		out = append(out, PeerStatus{
			Peer: s.peer.Name, Role: s.role.String(), State: state, Since: s.since,
			Verdict: trace.Verdict{Path: v.path, Text: v.why, Remedy: v.remedy},
		})
	}
	slices.SortFunc(out, func(a, b PeerStatus) int { return strings.Compare(a.Peer, b.Peer) })
	return out
}
