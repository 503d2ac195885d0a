package agent

import (
	"errors"
	"fmt"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
)

// facts is all a verdict is made of: recorded, never guessed.
type facts struct {
	Path          string // direct, relayed, none
	InTunnel      bool   // the path goes through a tunnel, here or at the peer
	Tunnel        string // interface of this machine that it leaves by, when that is a tunnel
	Held          bool   // payload is held there for a measurement
	RelayOnly     bool   // this side's policy
	PeerRelayOnly bool
	Attempts      int   // ended so far
	LastErr       error // of the last attempt that failed
	Candidates    int   // remote ones that may be tried
	Ours, Peers   candidates.NAT
	RelayErr      error // why there is no relay
}

// The words of a path.
const (
	pathDirect  = "direct"
	pathRelayed = "relayed"
	pathNone    = "none"
)

// judge answers "which path, and why", and what to do about it. The first rule
// that the facts satisfy decides.
func judge(f facts) trace.Verdict {
	v := trace.Verdict{Path: f.Path}
	say := func(text, remedy string) trace.Verdict {
		v.Text, v.Remedy = f.Path+": "+text, remedy
		return v
	}
	if f.Path == pathDirect && f.InTunnel {
		v.Text, v.Remedy = inTunnel(f.Tunnel), "end that VPN if its way is not wanted; or, for a path beside it, forward a UDP port on one router and give it with --udp-port"
		return v
	}
	if f.Path == pathDirect {
		return say("packets go from peer to peer; no server sees or carries them", "")
	}
	if f.Held && !f.RelayOnly && !f.PeerRelayOnly {
		return say("held there while the link is being measured", "")
	}
	if f.Path == pathNone && f.RelayErr != nil && f.Attempts > 0 {
		return say(fmt.Sprintf("no relay (%v), and no direct path yet", f.RelayErr), "check that the relay's ports are open, 3478 UDP and TCP")
	}
	usual := "forward a UDP port on one router and give it with --udp-port, or use IPv6"
	switch {
	case f.RelayOnly:
		return say("this side was told to use the relay only", "leave out --relay-only")
	case f.PeerRelayOnly:
		return say("the peer was told to use the relay only", "leave out --relay-only there")
	case blocked(f.Ours) && blocked(f.Peers):
		return say("no UDP leaves either network", "allow outgoing UDP on one side at least; both would be best")
	case blocked(f.Ours):
		return say("no UDP leaves this network: no STUN server answered", "allow outgoing UDP in this network's firewall")
	case blocked(f.Peers):
		return say("no UDP leaves the peer's network: no STUN server answered there", "allow outgoing UDP in the peer's firewall")
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
	return "direct, but inside " + whose + ": a VPN carries the packets, by a way that is its own"
}

func blocked(n candidates.NAT) bool { return n.UDP != nil && !*n.UDP }

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
