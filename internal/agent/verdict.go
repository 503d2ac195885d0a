package agent

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/p2pagent/p2pagent/punch"
)

// facts is all a verdict is made of: recorded, never guessed.
type facts struct {
	Path     path.Kind  // where payload goes; empty: there is no path
	State    path.State // of that path
	Answered time.Time  // when its probes were last answered
	Another  bool       // everything goes over a second path as well
	Held     bool       // payload is held there for a measurement
	InTunnel bool       // it goes through a tunnel, here or at the peer
	Tunnel   string     // interface of this machine that it leaves by, when that is a tunnel

	Session bool      // there is one, or was: so there was a path
	Silent  time.Time // since when no path is alive; zero: one is
	OneWay  bool      // but the peer's own probes arrive
	GiveUp  time.Time // when the link ends if that goes on
	Sight   sight     // what signaling says of the peer

	RelayOnly     bool // this side's policy
	PeerRelayOnly bool
	Attempts      int   // ended so far
	LastErr       error // of the last attempt that failed
	Candidates    int   // remote ones that may be tried
	Ours, Peers   candidates.NAT
	OwnSTUN       bool   // the STUN servers are not those that signaling names
	PeersOwnSTUN  bool   // likewise the peer's
	PeersSilent   bool   // no STUN server has answered the peer, and all have one address
	Relayed       string // our relayed address; empty: none
	RelayedBy     string // transport to that relay: udp, tcp, tls
	RelayErr      error  // why there is none
	RelaySoFar    error  // what is known of the first try for one, while it goes on
	Minted        bool   // the credentials for it are signaling's
}

// A sight is what signaling says of a peer.
type sight int

const (
	sightLost   sight = iota // nothing: there is no connection to the server
	sightThere               // it is at the server
	sightAbsent              // it is not
	sightLeft                // it was, and left while the link was up
	sightOld                 // not known: the server has not been heard for seconds
)

func (s sight) String() string { return [...]string{"lost", "there", "absent", "left", "unknown"}[s] }

// A Why is what a verdict follows from, for programs. Null is not known, and empty is
// none.
type Why struct {
	State         path.State     `json:"state"`  // of the path in use; empty: there is none
	Held          bool           `json:"held"`   // payload is held there for a measurement
	Tunnel        string         `json:"tunnel"` // interface of this machine that it leaves by, when that is a tunnel
	InTunnel      bool           `json:"in_tunnel"`
	SilentSince   *time.Time     `json:"silent_since"` // since when no path is alive; null: one is
	OneWay        bool           `json:"one_way"`      // but the peer's own probes arrive
	GivesUp       *time.Time     `json:"gives_up"`     // when the link ends if that goes on
	Signaling     string         `json:"signaling"`    // what it says of the peer: there, absent, left; lost: there is no connection to the server; unknown: it has not been heard for seconds
	RelayOnly     bool           `json:"relay_only"`   // this side's policy
	PeerRelayOnly bool           `json:"peer_relay_only"`
	Attempts      int            `json:"attempts"`     // for a direct path, that have ended
	LastAttempt   string         `json:"last_attempt"` // why the last of them failed
	Candidates    int            `json:"candidates"`   // of the peer, that the last of them tried
	NAT           candidates.NAT `json:"nat"`          // in front of this side
	PeerNAT       candidates.NAT `json:"peer_nat"`     // in front of the peer, as the peer says
	Relay         string         `json:"relay_error"`  // why there is no relay
}

func (f facts) tell() Why {
	moment := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	sentence := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return Why{
		State: f.State, Held: f.Held, Tunnel: f.Tunnel, InTunnel: f.InTunnel,
		SilentSince: moment(f.Silent), OneWay: f.OneWay && !f.Silent.IsZero(), GivesUp: moment(f.GiveUp), Signaling: f.Sight.String(),
		RelayOnly: f.RelayOnly, PeerRelayOnly: f.PeerRelayOnly,
		Attempts: f.Attempts, LastAttempt: sentence(f.LastErr), Candidates: f.Candidates,
		NAT: f.Ours, PeerNAT: f.Peers, Relay: sentence(f.RelayErr),
	}
}

// The words of a path.
const (
	pathDirect  = "direct"
	pathRelayed = "relayed"
	pathNone    = "none"
)

// A verdict is what facts come to, and equal for as long as they are: it keeps
// points in time, and at says how long ago or how soon they are.
type verdict struct {
	path   string // direct, relayed, none
	why    string // behind a colon, unless it begins with a comma
	remedy string

	quiet  string    // how the peer is silent; empty: it is not. why goes on behind it
	silent time.Time // since when
	giveUp time.Time // when the link ends for that; zero: it does not
}

// A judgement is a verdict and what it follows from.
type judgement struct {
	verdict
	facts facts
}

// at is the verdict as it reads at a moment.
func (v verdict) at(now time.Time) trace.Verdict {
	text := v.path
	if v.path == pathNone {
		text = "no path"
	}
	reason := v.reason(now)
	if !strings.HasPrefix(reason, ",") {
		text += ": "
	}
	return trace.Verdict{Path: v.path, Text: text + reason, Remedy: v.remedy}
}

// reason is why the path is what it is, without the word for it.
func (v verdict) reason(now time.Time) string {
	text := v.why
	if v.quiet != "" {
		text = fmt.Sprintf("%s for %s%s", v.quiet, units.Duration(now.Sub(v.silent)), v.why)
	}
	if !v.giveUp.IsZero() {
		text += "; giving up in " + units.Duration(max(0, v.giveUp.Sub(now)))
	}
	return text
}

// outage reports that nothing passes.
func (v verdict) outage() bool { return v.path == pathNone && v.quiet != "" }

// settled reports that the link stays as it is, as far as can be told: what stands
// against a direct path is known. An outage says nothing of that.
func (v verdict) settled() bool {
	return v.path != pathDirect && v.remedy != "" && v.quiet == ""
}

// judge answers "which path, and why", and what to do about it. The first rule
// that the facts satisfy decides.
func judge(f facts) verdict {
	v := verdict{path: string(f.Path)}
	say := func(why, remedy string) verdict {
		v.why, v.remedy = why, remedy
		return v
	}
	if f.Path == "" || f.State == path.Dead {
		v.path = pathNone
		if f.Session && !f.Silent.IsZero() {
			return judgeSilence(f)
		}
	}
	if v.path != pathNone && f.State == path.Suspect {
		v.quiet, v.silent = "no answer", f.Answered
		if f.Another {
			return say(", so everything goes over a second path too", "")
		}
		return say(", and no other path works", "")
	}
	if v.path == pathDirect && f.InTunnel {
		return say(inTunnel(f.Tunnel), "end that VPN if its way is not wanted; or, for a path beside it, forward a UDP port on one router and give it with --udp-port")
	}
	if v.path == pathDirect {
		return say("packets go from peer to peer; no server sees or carries them", "")
	}
	if f.Held && !f.RelayOnly && !f.PeerRelayOnly {
		return say("held there while the link is being measured", "")
	}
	if v.path == pathNone && f.RelayErr != nil && (f.Attempts > 0 || f.RelayOnly || f.PeerRelayOnly) {
		return say(whyNoPath(f))
	}
	usual := "forward a UDP port on one router and give it with --udp-port, or use IPv6"
	switch {
	case f.RelayOnly:
		return say("this side was told to use the relay only", "leave out --relay-only")
	case f.PeerRelayOnly:
		return say("the peer was told to use the relay only", "leave out --relay-only there")
	}
	if why, remedy := judgeUDP(f); why != "" {
		return say(why, remedy)
	}
	switch {
	case varies(f.Ours) && varies(f.Peers):
		return say("both NATs give every destination another port (address-and-port-dependent mapping, \"symmetric\"), so neither side can know where to send", usual)
	case varies(f.Ours) && (f.LastErr != nil || f.Peers.Filtering == candidates.AddressAndPortDependent):
		return say(symmetricAgainst("this side's NAT", "the peer's", f.Peers.Filtering), usual)
	case varies(f.Peers) && (f.LastErr != nil || f.Ours.Filtering == candidates.AddressAndPortDependent):
		return say(symmetricAgainst("the peer's NAT", "this side's", f.Ours.Filtering), usual)
	case f.Attempts == 0:
		return say("no attempt for a direct path has ended yet", "")
	case f.LastErr == nil:
		return say("a direct pair was found and is being proved, or was lost and is being tried again", "")
	case f.Candidates == 0:
		return say("the peer announced no address that could be tried", "")
	}
	return say(lastAttempt(f.LastErr), usual)
}

// inTunnel says that the direct path is inside of a tunnel, of this machine's if
// it has a name.
func inTunnel(name string) string {
	whose := "a tunnel of the peer's"
	if name != "" {
		whose = "the tunnel " + name + " of this machine"
	}
	return ", but inside " + whose + ": a VPN carries the packets, by a way that is its own"
}

// judgeSilence is the verdict on a link through which nothing passes any more.
func judgeSilence(f facts) verdict {
	v := verdict{path: pathNone, quiet: "silent", silent: f.Silent, giveUp: f.GiveUp}
	if f.OneWay {
		v.quiet, v.why = "no answer", ", though the peer is heard: packets pass one way only"
	}
	const look = "see whether the other machine is up, and p2pagent running there"
	switch f.Sight {
	case sightLost:
		v.why += "; no connection to the signaling server either"
		v.remedy = "check this machine's own network"
	case sightOld:
		v.why += "; not known whether it is at the signaling server, which has not answered for seconds"
		v.remedy = "check this machine's own network"
	case sightLeft:
		v.why += "; it left the signaling server"
		v.remedy = look
	case sightAbsent:
		v.why += "; it is not at the signaling server"
		v.remedy = look
	case sightThere:
		v.why += "; it is at the signaling server"
		v.remedy = "see whether p2pagent hangs there, or a firewall drops the packets between the two"
	}
	if f.OneWay {
		v.remedy = "see what drops the packets that leave this machine: its own firewall, or its network's"
	}
	if f.RelayErr != nil && f.Sight == sightThere {
		v.why += fmt.Sprintf("; no relay (%v)", f.RelayErr)
		v.remedy = relayRemedy(f.RelayErr, f.Minted)
	}
	return v
}

// varies reports a mapping that is known to differ between destinations.
func varies(n candidates.NAT) bool {
	return n.Mapping == candidates.AddressAndPortDependent || n.Mapping == candidates.AddressDependent ||
		n.Varies != nil && *n.Varies
}

func symmetricAgainst(hard, other string, filtering candidates.Dependence) string {
	text := hard + " gives every destination another port (address-and-port-dependent mapping, \"symmetric\"), and " + other + " "
	switch filtering {
	case candidates.AddressAndPortDependent:
		return text + "admits only packets from an address and port it has sent to (address-and-port-dependent filtering): the port cannot be known beforehand"
	case "":
		return text + "filtering was not measured; no packet got through it"
	}
	return text + "should have admitted the packets (" + string(filtering) + " filtering), but none got through"
}

// lastAttempt puts the counts of a failed attempt into a sentence that places
// the loss.
func lastAttempt(err error) string {
	var none *punch.NoPathError
	if !errors.As(err, &none) {
		return fmt.Sprintf("the last attempt for a direct path failed: %v", err)
	}
	switch {
	case none.ChecksReceived == 0:
		return fmt.Sprintf("%d checks were sent to the peer (%d of its addresses), and none of the peer's arrived here: a router or firewall drops them", none.ChecksSent, none.Candidates)
	case none.AnswersReceived == 0:
		return fmt.Sprintf("%d checks of the peer arrived here, but no answer to ours came back: packets pass in one direction only", none.ChecksReceived)
	}
	return "checks and answers crossed, but no pair was selected on both sides in time"
}
