package lab

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestProofPath(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name              string
		relay, nata, natb int64
		want              Path
	}{
		{"direct", 320, mib + 50000, mib + 50000, Direct},
		{"relayed", 2 * mib, 400, 400, Relayed},
		{"relayed one way only", mib, mib, mib, Relayed},
		{"one per cent over the relay", mib / 100, 2 * mib, 2 * mib, Direct},
		{"more than one per cent", mib/100 + 1, 2 * mib, 2 * mib, Unproven},
		{"one router saw nothing", 0, mib, 0, Unproven},
		{"nobody saw anything", 0, 0, 0, Unproven},
	} {
		if got := (Proof{mib, tt.relay, tt.nata, tt.natb}).Path(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestTrafficWith(t *testing.T) {
	const list = `ipv4     2 udp      17 118 src=10.1.0.2 dst=203.0.113.2 sport=20001 dport=30001 packets=900 bytes=1100000 src=203.0.113.2 dst=198.51.100.2 sport=30001 dport=20001 packets=800 bytes=1050000 [ASSURED] mark=0 use=1
ipv4     2 udp      17 20 src=203.0.113.2 dst=198.51.100.2 sport=30002 dport=20001 packets=1 bytes=100 [UNREPLIED] src=10.1.0.2 dst=203.0.113.2 sport=20001 dport=30002 packets=0 bytes=0 mark=0 use=1
ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.2 dst=192.0.2.2 sport=30000 dport=8080 packets=9 bytes=7777 src=192.0.2.2 dst=198.51.100.2 sport=8080 dport=30000 packets=9 bytes=8888 [ASSURED] mark=0 use=1
`
	got, err := trafficWith(list, netip.MustParseAddr("203.0.113.2"))
	if want := (traffic{out: 1100000, in: 1050100}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	got, err = trafficWith(list, netip.MustParseAddr("203.0.113.130"))
	if err != nil || got != (traffic{}) {
		t.Errorf("a stranger: %+v, %v", got, err)
	}
	// Without accounting there is nothing to prove with; that is no zero.
	bare := strings.NewReplacer("bytes=1100000", "", "bytes=1050000", "").Replace(list)
	if _, err := trafficWith(bare, netip.MustParseAddr("203.0.113.2")); err == nil || !strings.Contains(err.Error(), "nf_conntrack_acct") {
		t.Errorf("no counts: %v", err)
	}
}

func TestProofCountsTheLesserDirection(t *testing.T) {
	before := counters{relay: 1000, sites: [2]traffic{{5, 5}, {0, 0}}}
	after := counters{relay: 1300, sites: [2]traffic{{105, 65}, {70, 90}}}
	if got, want := after.since(before, 50), (Proof{50, 300, 60, 70}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseLinkTraffic(t *testing.T) {
	const out = `[{"ifname":"lan-peer-a","stats64":{"rx":{"bytes":111,"packets":2},"tx":{"bytes":222,"packets":3}}}]`
	if got, err := parseLinkTraffic(out); err != nil || got != (traffic{out: 111, in: 222}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", "{}"} {
		if _, err := parseLinkTraffic(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestSettled(t *testing.T) {
	changed := func(kind Path) trace.Record {
		return trace.Record{Event: trace.PathChanged{To: &trace.Path{Kind: string(kind)}}}
	}
	failed, worked := trace.Record{Event: trace.AttemptEnded{}}, trace.Record{Event: trace.AttemptEnded{OK: true}}
	gone := trace.Record{Event: trace.PathChanged{}}
	for _, tt := range []struct {
		name     string
		events   []trace.Record
		expected Path
		want     bool
	}{
		{"nothing yet", nil, Direct, false},
		{"on the relay, more to come", []trace.Record{changed(Relayed)}, Relayed, false},
		{"direct", []trace.Record{changed(Relayed), changed(Direct)}, Direct, true},
		{"direct against expectation", []trace.Record{changed(Relayed), changed(Direct)}, Relayed, true},
		{"direct and lost again", []trace.Record{changed(Direct), gone}, Direct, false},
		{"attempt failed as it had to", []trace.Record{changed(Relayed), failed}, Relayed, true},
		{"attempt failed, the next will do", []trace.Record{changed(Relayed), failed}, Direct, false},
		{"attempt worked, not moved yet", []trace.Record{changed(Relayed), worked}, Relayed, false},
	} {
		if got := settled(tt.events, tt.expected); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
