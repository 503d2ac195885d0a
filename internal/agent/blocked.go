package agent

import (
	"errors"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/punch"
)

// blocked reports a network that no UDP leaves: servers at different addresses
// were asked from it, and none has answered.
func blocked(n candidates.NAT) bool { return n.UDP != nil && !*n.UDP }

// heard reports a failed attempt in which packets of the peer arrived.
func heard(err error) bool {
	var none *punch.NoPathError
	return errors.As(err, &none) && none.ChecksReceived > 0
}

// judgeUDP says whether it is UDP that does not pass, and on whose side; empty where
// nothing says so. A server that is silent alone proves nothing: it may be down. What
// shows more is where else it answers: the other side, or this one over TCP.
func judgeUDP(f facts) (why, remedy string) {
	if heard(f.LastErr) {
		return "", ""
	}
	byUDP, byTCP := f.RelayedBy == "udp", f.RelayedBy != "" && f.RelayedBy != "udp"
	here, there := blocked(f.Ours) && !byUDP, blocked(f.Peers)
	mute, peerMute := f.Ours.Unanswered() && !byUDP, f.PeersSilent
	same := !f.OwnSTUN && !f.PeersOwnSTUN // those that signaling names
	passes := func(n candidates.NAT) bool { return n.UDP != nil && *n.UDP }
	const (
		openHere   = "allow outgoing UDP in this network's firewall"
		openThere  = "allow outgoing UDP in the peer's firewall"
		openServer = "open UDP 3478 and 3479 at the server"
	)
	switch {
	case here && there:
		return "no UDP leaves either network", "allow outgoing UDP on one side at least; both would be best"
	case here:
		return "no UDP leaves this network: no STUN server answered", openHere
	case there:
		return "no UDP leaves the peer's network: no STUN server answered there", openThere
	case mute && same && passes(f.Peers):
		return "no UDP leaves this network: the STUN server that answers the peer does not answer here", openHere
	case peerMute && same && passes(f.Ours):
		return "no UDP leaves the peer's network: the STUN server that answers here does not answer the peer", openThere
	case f.Attempts == 0: // which may show that there is nothing to explain
	case mute && byTCP:
		return "no STUN server answers here, while the relay does over TCP: UDP is blocked, in this network or at the server", openHere + ", or " + openServer
	case mute && peerMute:
		return "no STUN server answers either side: it is down, or no UDP leaves the two networks", openServer + ", or allow outgoing UDP in both networks"
	case mute:
		return "no STUN server answers here: it is down, or no UDP leaves this network", openServer + ", or " + openHere
	case peerMute:
		return "no STUN server answers the peer: it is down, or no UDP leaves the peer's network", openServer + ", or " + openThere
	}
	return "", ""
}
