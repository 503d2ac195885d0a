package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
)

func TestTriesTunnels(t *testing.T) {
	for _, tt := range []struct {
		name                     string
		plainPossible, tunnelled bool
		failures                 int
		want                     bool
	}{
		{"the first attempt", true, false, 0, false},
		{"nothing but tunnels", false, false, 0, true},
		{"the others failed", true, false, 1, true},
		{"a path through one is there", true, true, 3, false},
		{"is there, and there are no others", false, true, 0, true},
	} {
		if got := triesTunnels(tt.plainPossible, tt.tunnelled, tt.failures); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestOutsideTunnels(t *testing.T) {
	plain, inside := candidates.Candidate{Type: candidates.ServerReflexive}, candidates.Candidate{Type: candidates.Host, Tunnel: true}
	list := []candidates.Candidate{inside, plain, inside}
	if got := outsideTunnels(list); !slices.Equal(got, []candidates.Candidate{plain}) || !slices.Equal(list, []candidates.Candidate{inside, plain, inside}) {
		t.Errorf("%v of %v", got, list)
	}
}

func TestJudgeTunnels(t *testing.T) {
	for _, tt := range []struct {
		facts facts
		want  string
	}{
		{facts{Path: pathDirect}, "direct: packets go from peer to peer"},
		{facts{Path: pathDirect, InTunnel: true, Tunnel: "wg0"}, "direct, but inside the tunnel wg0 of this machine"},
		{facts{Path: pathDirect, InTunnel: true}, "direct, but inside a tunnel of the peer's"},
	} {
		v := judge(tt.facts).at(time.Now())
		if v.Path != pathDirect || !strings.HasPrefix(v.Text, tt.want) || (v.Remedy != "") != tt.facts.InTunnel {
			t.Errorf("%+v: %+v", tt.facts, v)
		}
	}
}
