package agent

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/punch"
)

func TestNoUDP(t *testing.T) {
	yes, no := true, false
	nats := func(udp ...*bool) (out []candidates.NAT) {
		for _, u := range udp {
			out = append(out, candidates.NAT{UDP: u})
		}
		return out
	}
	heard := &punch.NoPathError{Counts: punch.Counts{ChecksReceived: 3}}
	for _, tt := range []struct {
		name string
		s    udpSigns
		want bool
	}{
		{"nothing is known", udpSigns{}, false},
		{"STUN is silent", udpSigns{STUN: nats(&no)}, true},
		{"STUN is silent, after an attempt that heard nothing", udpSigns{STUN: nats(&no), LastErr: &punch.NoPathError{}}, true},
		{"STUN answers", udpSigns{STUN: nats(&yes)}, false},
		{"STUN is silent over IPv4 alone", udpSigns{STUN: nats(&no, &yes)}, false},
		{"and IPv6 is not known", udpSigns{STUN: nats(&no, nil)}, true},
		{"over IPv6 alone", udpSigns{STUN: nats(&yes, &no)}, false},
		{"STUN is silent, TURN answers", udpSigns{STUN: nats(&no), Relay: true}, false},
		{"the peer's STUN is silent", udpSigns{STUN: nats(&yes), Relay: true, Peers: candidates.NAT{UDP: &no}}, true},
		{"one STUN server is silent", udpSigns{STUN: []candidates.NAT{{Silent: make([]netip.AddrPort, 1)}}}, true},
		{"one STUN server is silent, TURN answers", udpSigns{STUN: []candidates.NAT{{Silent: make([]netip.AddrPort, 1)}}, Relay: true}, false},
		{"one is silent to the peer", udpSigns{STUN: nats(&yes), Relay: true, Silent: true}, true},
		{"but packets of the peer came", udpSigns{Peers: candidates.NAT{UDP: &no}, LastErr: heard}, false},
		{"in an attempt that the peer ended", udpSigns{STUN: nats(&no), LastErr: errors.Join(punch.ErrPeerFailed, heard)}, false},
	} {
		if got := noUDP(tt.s); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// A relay that answers over UDP is better evidence than STUN servers that are
// silent: neither the verdict nor the peer is told that no UDP leaves.
func TestSilentSTUNServers(t *testing.T) {
	l, _ := bothRelayed(t)
	no := false
	onLoop(l, func() {
		l.newest()[0].nat = candidates.NAT{UDP: &no}
		if n := l.nat(); blocked(n) || noUDP(l.udpSigns()) {
			t.Errorf("with a relay over UDP: %v", *n.UDP)
		}
		alloc := l.relaying.alloc
		l.relaying.alloc = nil
		if n := l.nat(); !blocked(n) || !noUDP(l.udpSigns()) {
			t.Errorf("without: %v", *n.UDP)
		}
		l.relaying.alloc = alloc
	})
}
