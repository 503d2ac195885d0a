package agent

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
)

const (
	maxMessage    = 12 << 10 // bytes of JSON; a sealed one fits a mailbox body
	maxCandidates = 32       // more are cut off before anything looks at them
	keyBytes      = 32
)

// message is the union of all messages; exactly one pointer is set.
type message struct {
	Seq        uint64           `json:"seq"`
	Offer      *offer           `json:"offer,omitempty"`
	Answer     *answer          `json:"answer,omitempty"`
	Candidates *announcement    `json:"candidates,omitempty"`
	Relay      *relayedAt       `json:"relay,omitempty"`
	Attempt    *attemptMessage  `json:"attempt,omitempty"`
	Opened     *attemptRef      `json:"opened,omitempty"`
	Selected   *attemptRef      `json:"selected,omitempty"`
	Failed     *attemptRef      `json:"failed,omitempty"`
	Want       *want            `json:"want,omitempty"`
	Bind       *bindRequest     `json:"bind,omitempty"`
	Bound      *bindAnswer      `json:"bound,omitempty"`
	Targets    *targetsQuestion `json:"targets,omitempty"`
	Denied     *targetsAnswer   `json:"denied,omitempty"`
	Rival      *rival           `json:"rival,omitempty"`
	Awake      *awake           `json:"awake,omitempty"`
	Bye        *bye             `json:"bye,omitempty"`
}

type offer struct {
	Link      linkID `json:"link"`
	Key       []byte `json:"key,omitempty"` // of probes, 32 bytes; absent when resuming
	Resume    bool   `json:"resume,omitempty"`
	RelayOnly bool   `json:"relay_only,omitempty"`
	Direct    bool   `json:"require_direct,omitempty"`

	// Run is the connector's process. Ended are earlier ones of the same machine
	// that it knows to be over: their links are too. Absent from an older peer.
	Run   identity.RunID   `json:"run,omitzero"`
	Ended []identity.RunID `json:"ended_runs,omitempty"`
}

type answer struct {
	Link      linkID `json:"link"`
	Resumed   bool   `json:"resumed,omitempty"`
	Refused   string `json:"refused,omitempty"` // why there is no link
	Final     bool   `json:"final,omitempty"`   // and asking again is of no use
	RelayOnly bool   `json:"relay_only,omitempty"`
	Direct    bool   `json:"require_direct,omitempty"`

	Run  identity.RunID `json:"run,omitzero"`   // the listener's process; absent from an older peer
	Name string         `json:"name,omitempty"` // what its machine is called; likewise
}

type announcement struct {
	Generation int                    `json:"generation"`
	List       []candidates.Candidate `json:"list"`
	NAT        *natFacts              `json:"nat,omitempty"`
}

// natFacts is what a peer tells of its NAT, for the verdict. It names no
// address: with --relay-only none leaves.
type natFacts struct {
	UDP       *bool                 `json:"udp"`
	Silent    bool                  `json:"silent,omitempty"` // servers at one address were asked, and have not answered
	Own       bool                  `json:"own,omitempty"`    // and they are not those that signaling names
	Mapping   candidates.Dependence `json:"mapping"`
	Varies    *bool                 `json:"varies,omitempty"`
	Filtering candidates.Dependence `json:"filtering"`
}

type relayedAt struct {
	Addr netip.AddrPort `json:"addr"`
}

type attemptMessage struct {
	ID         string                 `json:"id"`
	Reply      bool                   `json:"reply,omitempty"`
	ICE        punch.Credentials      `json:"ice"`
	Trigger    string                 `json:"trigger,omitempty"`
	FreshPort  bool                   `json:"fresh_port,omitempty"`
	Tunnels    bool                   `json:"tunnels,omitempty"` // candidates in tunnels are tried too
	Candidates []candidates.Candidate `json:"candidates"`
}

type attemptRef struct {
	ID  string `json:"id"`
	Why string `json:"why,omitempty"`
}

type want struct {
	Trigger string `json:"trigger"`
}

type bindRequest struct {
	ID   string `json:"id"`
	Bind string `json:"bind"`
}

type bindAnswer struct {
	ID   string `json:"id"`
	Addr string `json:"addr,omitempty"`
	Err  string `json:"error,omitempty"`

	Final bool `json:"final,omitempty"` // asking again is of no use
}

// targetsQuestion asks which of these targets the receiver would not dial.
type targetsQuestion struct {
	ID      string   `json:"id"`
	Targets []string `json:"targets"`
}

// targetsAnswer names those of a question.
type targetsAnswer struct {
	ID     string   `json:"id"`
	Denied []string `json:"denied"`
}

// rival is the word of a listener that another process with its key has its place.
type rival struct{}

type awake struct {
	SleptMS int64 `json:"slept_ms"`
}

type bye struct {
	Why string `json:"why,omitempty"`
}

// name is the message's word in the trace; empty when nothing known is set.
func (m *message) name() string {
	switch {
	case m.Offer != nil:
		return "offer"
	case m.Answer != nil:
		return "answer"
	case m.Candidates != nil:
		return "candidates"
	case m.Relay != nil:
		return "relay"
	case m.Attempt != nil:
		return "attempt"
	case m.Opened != nil:
		return "opened"
	case m.Selected != nil:
		return "selected"
	case m.Failed != nil:
		return "failed"
	case m.Want != nil:
		return "want"
	case m.Bind != nil:
		return "bind"
	case m.Bound != nil:
		return "bound"
	case m.Targets != nil:
		return "targets"
	case m.Denied != nil:
		return "denied"
	case m.Rival != nil:
		return "rival"
	case m.Awake != nil:
		return "awake"
	case m.Bye != nil:
		return "bye"
	}
	return ""
}

// members counts what is set of the union.
func (m *message) members() (n int) {
	for _, set := range []bool{
		m.Offer != nil, m.Answer != nil, m.Candidates != nil, m.Relay != nil, m.Attempt != nil, m.Opened != nil,
		m.Selected != nil, m.Failed != nil, m.Want != nil, m.Bind != nil, m.Bound != nil,
		m.Targets != nil, m.Denied != nil, m.Rival != nil, m.Awake != nil, m.Bye != nil,
	} {
		if set {
			n++
		}
	}
	return n
}

func (m *message) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err == nil && len(b) > maxMessage {
		err = fmt.Errorf("%s message of %d bytes, at most %d allowed", m.name(), len(b), maxMessage)
	}
	return b, err
}

// errMessage is what every message wraps that a peer should not have sent.
var errMessage = errors.New("bad message from peer")

// decodeMessage reads a message and checks what can be checked without state.
// The peer is authenticated, not trusted.
func decodeMessage(b []byte) (*message, error) {
	if len(b) > maxMessage {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", errMessage, len(b), maxMessage)
	}
	m := new(message)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: %v", errMessage, err)
	}
	bad := func(what string) (*message, error) {
		return nil, fmt.Errorf("%w: %s: %s", errMessage, m.name(), what)
	}
	if m.members() > 1 {
		return bad("more than one member")
	}
	switch {
	case m.Offer != nil:
		if !m.Offer.Resume && len(m.Offer.Key) != keyBytes {
			return bad("key of the wrong size")
		}
		m.Offer.Ended = m.Offer.Ended[:min(len(m.Offer.Ended), identity.MaxEndedRuns)]
	case m.Awake != nil:
		if m.Awake.SleptMS < 0 || m.Awake.SleptMS > maxSlept.Milliseconds() {
			return bad("no time that a machine sleeps")
		}
	case m.Candidates != nil:
		m.Candidates.List = capped(m.Candidates.List)
	case m.Relay != nil:
		if !m.Relay.Addr.IsValid() || m.Relay.Addr.Port() == 0 {
			return bad("no address")
		}
	case m.Attempt != nil:
		if !validRef(m.Attempt.ID) || m.Attempt.ICE.Ufrag == "" || len(m.Attempt.ICE.Ufrag) > 256 ||
			len(m.Attempt.ICE.Pwd) < 22 || len(m.Attempt.ICE.Pwd) > 256 {
			return bad("no id or unusable ICE credentials")
		}
		m.Attempt.Candidates = capped(m.Attempt.Candidates)
	case m.Targets != nil:
		tooLong := func(s string) bool { return len(s) > maxTargetText }
		if !validRef(m.Targets.ID) || len(m.Targets.Targets) > maxTargets || slices.ContainsFunc(m.Targets.Targets, tooLong) {
			return bad("no id, or more than is answered")
		}
	}
	return m, nil
}

func capped(list []candidates.Candidate) []candidates.Candidate {
	return list[:min(len(list), maxCandidates)]
}

func validRef(id string) bool { return len(id) > 0 && len(id) <= 64 }

// linkID names a link between two peers; random, the same on both sides.
type linkID [16]byte

func (id linkID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes the id in hexadecimal.
func (id linkID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (id *linkID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("link id of %d digits, want %d", len(b), 2*len(id))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// factsOf is what we tell the peer of our NAT.
func factsOf(n candidates.NAT, own bool) *natFacts {
	return &natFacts{UDP: n.UDP, Silent: n.Unanswered(), Own: own, Mapping: n.Mapping, Varies: n.Varies, Filtering: n.Filtering}
}

// nat is what the peer told us, in the shape of a measurement.
func (f *natFacts) nat() candidates.NAT {
	if f == nil {
		return candidates.NAT{}
	}
	return candidates.NAT{UDP: f.UDP, Mapping: f.Mapping, Varies: f.Varies, Filtering: f.Filtering}
}

// event is the peer's NAT in the trace.
func (f *natFacts) event() trace.NATMeasured {
	e := f.nat().Event()
	e.Remote = true
	return e
}
