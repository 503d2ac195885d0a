package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/punch"
)

// A server that is silent alone may be down: a network is called blocked only where
// something else shows it.
func TestJudgeUDP(t *testing.T) {
	yes, no := true, false
	passing, cut := candidates.NAT{UDP: &yes}, candidates.NAT{UDP: &no}
	mute := candidates.NAT{Silent: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:3478")}}
	failed, arrived := &punch.NoPathError{}, &punch.NoPathError{Counts: punch.Counts{ChecksReceived: 1}}
	for _, tt := range []struct {
		name string
		f    facts
		why  string // its beginning; empty: nothing of UDP
	}{
		{"nothing is known", facts{Attempts: 1, LastErr: failed}, ""},
		{"blocked here", facts{Ours: cut, Peers: passing}, "no UDP leaves this network: no STUN server answered"},
		{"but the relay answers over UDP", facts{Ours: cut, Peers: passing, RelayedBy: "udp"}, ""},
		{"blocked there", facts{Ours: passing, Peers: cut}, "no UDP leaves the peer's network"},
		{"blocked on both sides", facts{Ours: cut, Peers: cut}, "no UDP leaves either network"},
		{"but packets arrive", facts{Ours: cut, Peers: cut, Attempts: 1, LastErr: arrived}, ""},
		{"one silent server", facts{Ours: mute, Attempts: 1, LastErr: failed}, "no STUN server answers here: it is down, or no UDP leaves this network"},
		{"before an attempt", facts{Ours: mute}, ""},
		{"which answers over TCP", facts{Ours: mute, Attempts: 1, LastErr: failed, RelayedBy: "tls"}, "no STUN server answers here, while the relay does over TCP: UDP is blocked, in this network or at the server"},
		{"whose relay answers over UDP", facts{Ours: mute, Attempts: 1, LastErr: failed, RelayedBy: "udp"}, ""},
		{"which answers the peer", facts{Ours: mute, Peers: passing}, "no UDP leaves this network: the STUN server that answers the peer does not answer here"},
		{"while the peer asks another one", facts{Ours: mute, Peers: passing, PeersOwnSTUN: true, Attempts: 1}, "no STUN server answers here: it is down, or"},
		{"of the user's own", facts{Ours: mute, Peers: passing, OwnSTUN: true, Attempts: 1}, "no STUN server answers here: it is down, or"},
		{"of the user's own, before an attempt", facts{Ours: mute, Peers: passing, OwnSTUN: true}, ""},
		{"silent to the peer alone", facts{Ours: passing, PeersSilent: true}, "no UDP leaves the peer's network: the STUN server that answers here"},
		{"silent to the peer, another one", facts{Ours: passing, PeersSilent: true, PeersOwnSTUN: true, Attempts: 1}, "no STUN server answers the peer: it is down, or"},
		{"silent to both", facts{Ours: mute, PeersSilent: true, Attempts: 1}, "no STUN server answers either side: it is down, or"},
	} {
		why, remedy := judgeUDP(tt.f)
		if !strings.HasPrefix(why, tt.why) || (why == "") != (tt.why == "") || (why == "") != (remedy == "") {
			t.Errorf("%s: %q, try %q; want %q", tt.name, why, remedy, tt.why)
		}
		tt.f.Path, tt.f.State = path.Relayed, path.Alive
		if v := judge(tt.f); tt.why != "" && v.why != why {
			t.Errorf("%s: the verdict is %q", tt.name, v.why)
		}
	}
	if heard(errors.New("x")) || heard(failed) || !heard(errors.Join(punch.ErrPeerFailed, arrived)) {
		t.Error("what counts as heard")
	}
}
