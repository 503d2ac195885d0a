package agent

import (
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/punch"
)

// udpSigns is what tells whether UDP leaves the two networks.
type udpSigns struct {
	STUN    []candidates.NAT // ours, one for each socket
	Relay   bool             // our relay is reached over UDP
	Peers   candidates.NAT   // as the peer told
	Silent  bool             // no STUN server has answered the peer
	LastErr error            // of the last attempt
}

// noUDP reports that no UDP leaves one of the two networks, as far as is known:
// its STUN servers are silent, and nothing else has come back either.
func noUDP(s udpSigns) bool {
	if heard(s.LastErr) {
		return false
	}
	ours := false
	for _, n := range s.STUN {
		if n.UDP != nil && *n.UDP {
			ours = false
			break
		}
		ours = ours || blocked(n) || n.Unanswered()
	}
	return ours && !s.Relay || blocked(s.Peers) || s.Silent
}

func (l *link) udpSigns() udpSigns {
	s := udpSigns{Relay: l.relaying.overUDP(), Peers: l.remote.nat, Silent: l.remote.silent, LastErr: l.attempts.lastErr}
	for _, sock := range l.newest() {
		s.STUN = append(s.STUN, sock.nat)
	}
	return s
}

// whileUDP runs what may bring news of UDP, and tries for a direct path at once
// when it has brought a sign that UDP passes where none seemed to.
func (l *link) whileUDP(learn func()) {
	before := noUDP(l.udpSigns())
	learn()
	if before && !noUDP(l.udpSigns()) {
		l.schedule(punch.TriggerNetwork)
	}
}

// attemptTime is how long an attempt may take.
func (l *link) attemptTime(trigger string) time.Duration {
	if trigger == punch.TriggerRetry && noUDP(l.udpSigns()) {
		return silentAttempt
	}
	return attemptTimeout
}
