package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
)

// A nameServer answers with records, after a while each.
type nameServer map[string]struct {
	addrs string
	after time.Duration
}

func (n nameServer) find(u candidates.URI, ctx context.Context, network string) (out []netip.AddrPort, err error) {
	r := n[u.Host+" "+network]
	select {
	case <-time.After(r.after):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for _, a := range strings.Fields(r.addrs) {
		out = append(out, netip.AddrPortFrom(netip.MustParseAddr(a), u.Port))
	}
	if len(out) == 0 {
		err = errors.New("no such host")
	}
	return out, err
}

// Every record of a name is used: for STUN those of each family, for TURN both
// families in turn; and no record that does not come holds up the others.
func TestServersOfNames(t *testing.T) {
	const never = time.Hour
	for _, tt := range []struct {
		name       string
		stun, turn []string
		records    nameServer
		wantSTUN   string
		wantTURN   string // address and transport
		unresolved string
		takes      time.Duration
	}{
		{
			name: "every record", stun: []string{"stun:s.example"}, turn: []string{"turn:t.example", "turn:t.example?transport=tcp"},
			records: nameServer{
				"s.example ip4": {"192.0.2.1 192.0.2.2", 0}, "s.example ip6": {"2001:db8::1 2001:db8::2", 0},
				"t.example ip4": {"192.0.2.3 192.0.2.4", 0}, "t.example ip6": {"2001:db8::3", 0},
			},
			wantSTUN: "192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2",
			wantTURN: "192.0.2.3/udp 2001:db8::3/udp 192.0.2.4/udp 192.0.2.3/tcp 2001:db8::3/tcp 192.0.2.4/tcp",
		},
		{
			name: "no name keeps the others out", stun: []string{"stun:a.example", "stun:b.example"}, turn: []string{"turn:a.example", "turn:b.example"},
			records: nameServer{
				"a.example ip4": {"192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 192.0.2.8 192.0.2.9", 0},
				"b.example ip4": {"192.0.2.20", 0},
			},
			wantSTUN: "192.0.2.1 192.0.2.20 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7",
			wantTURN: "192.0.2.1/udp 192.0.2.20/udp 192.0.2.2/udp 192.0.2.3/udp 192.0.2.4/udp 192.0.2.5/udp 192.0.2.6/udp 192.0.2.7/udp",
		},
		{
			name: "IPv6 alone", turn: []string{"turn:t.example"}, records: nameServer{"t.example ip6": {"64:ff9b::1", 0}},
			wantTURN: "64:ff9b::1/udp",
		},
		{
			name: "no answer to AAAA", turn: []string{"turn:t.example"},
			records:  nameServer{"t.example ip4": {"192.0.2.1", 100 * time.Millisecond}, "t.example ip6": {"", never}},
			wantTURN: "192.0.2.1/udp", takes: 100*time.Millisecond + resolveGrace,
		},
		{
			name: "a name that leads nowhere", turn: []string{"turn:t.example", "turn:nowhere.example"}, records: nameServer{"t.example ip4": {"192.0.2.1", 0}},
			wantTURN: "192.0.2.1/udp", unresolved: "nowhere.example:3478: no such host",
		},
		{
			name: "no DNS", turn: []string{"turn:t.example"}, records: nameServer{"t.example ip4": {"", never}, "t.example ip6": {"", never}},
			unresolved: "t.example:3478: its name was looked up in vain: no answer from DNS", takes: resolveTimeout,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				s := tt.records.resolve(t, servers{stunURIs: uris(t, tt.stun), turnURIs: uris(t, tt.turn)}, nil)
				var stun, turn []string
				for _, a := range s.stun {
					stun = append(stun, a.Addr().String())
				}
				for _, e := range s.turn {
					turn = append(turn, e.addr.Addr().String()+"/"+e.uri.Transport)
				}
				if got := strings.Join(stun, " "); got != tt.wantSTUN {
					t.Errorf("STUN: %s\n want: %s", got, tt.wantSTUN)
				}
				if got := strings.Join(turn, " "); got != tt.wantTURN {
					t.Errorf("TURN: %s\n want: %s", got, tt.wantTURN)
				}
				if got := (&noRelayError{s.unresolved}).Error(); got != tt.unresolved {
					t.Errorf("unresolved: %q, want %q", got, tt.unresolved)
				}
				if took := time.Since(began); took != tt.takes {
					t.Errorf("took %v, want %v", took, tt.takes)
				}
			})
		})
	}
}

// resolve looks the names of servers up.
func (n nameServer) resolve(t *testing.T, s servers, known map[candidates.URI]addresses) servers {
	return s.at(lookUp(t.Context(), slices.Concat(s.stunURIs, s.turnURIs), n.find, known))
}

// What was known of a name stays when nothing is heard of it for a while, and is
// not waited for.
func TestServersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := servers{stunURIs: uris(t, []string{"stun:t.example"}), turnURIs: uris(t, []string{"turn:t.example"})}
		known := make(map[candidates.URI]addresses)
		for _, u := range slices.Concat(s.stunURIs, s.turnURIs) {
			known[u] = addresses{v4: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), u.Port)}}
		}
		for _, tt := range []struct {
			name    string
			records nameServer
			want    string
			takes   time.Duration
		}{
			{"no such name", nameServer{}, "192.0.2.1", 0},
			{"no answer", nameServer{"t.example ip4": {"", time.Hour}, "t.example ip6": {"", time.Hour}}, "192.0.2.1", resolveGrace},
			{"moved", nameServer{"t.example ip4": {"192.0.2.2", time.Millisecond}}, "192.0.2.2", time.Millisecond},
		} {
			began := time.Now()
			got := tt.records.resolve(t, s, known)
			if len(got.turn) != 1 || got.turn[0].addr.Addr().String() != tt.want || len(got.stun) != 1 || got.unresolved != nil {
				t.Errorf("%s: %+v", tt.name, got)
			}
			if took := time.Since(began); took != tt.takes {
				t.Errorf("%s: took %v, want %v", tt.name, took, tt.takes)
			}
		}
	})
}

func uris(t *testing.T, texts []string) (out []candidates.URI) {
	t.Helper()
	for _, text := range texts {
		u, err := candidates.ParseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}
