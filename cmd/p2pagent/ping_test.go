package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// A round trip that was not measured is null, not nought.
func TestPong(t *testing.T) {
	for rtt, want := range map[time.Duration]string{1500 * time.Microsecond: `"rtt_ms":1.5,`, 0: `"rtt_ms":null,`} {
		b, err := json.Marshal(pongOf(agent.Ping{Path: path.Status{Kind: path.Direct}, RTT: rtt}))
		if err != nil || !strings.Contains(string(b), want) || !strings.Contains(string(b), `"path":"direct"`) {
			t.Errorf("%v: %s, %v", rtt, b, err)
		}
	}
}

// Nobody has required a direct path of ping.
func TestOnlyRelayed(t *testing.T) {
	err := onlyRelayed{10 * time.Second, trace.Verdict{Path: "relayed", Text: "relayed: this side was told to use the relay only", Remedy: "leave out --relay-only"}}
	if exitCode(err) != exitRelayed || err.Error() != "no direct path within 10 s; relayed: this side was told to use the relay only" || err.Hint() != "leave out --relay-only" {
		t.Errorf("%d, %q, %q", exitCode(err), err, err.Hint())
	}
}

// A path is measured when payload takes another one, and not for any change.
func TestMoved(t *testing.T) {
	on := func(session bool, p *path.Status) agent.Status {
		return agent.Status{Links: []agent.LinkStatus{{Session: session, Path: p}}}
	}
	relayed, direct := path.Status{ID: 1, Kind: path.Relayed}, path.Status{ID: 2, Kind: path.Direct}
	for _, tt := range []struct {
		name     string
		st       agent.Status
		measured path.Status
		want     bool
	}{
		{"no link", agent.Status{}, path.Status{}, false},
		{"no session", on(false, &relayed), path.Status{}, false},
		{"no path", on(true, nil), relayed, false},
		{"the first", on(true, &relayed), path.Status{}, true},
		{"the same", on(true, &relayed), relayed, false},
		{"another", on(true, &direct), relayed, true},
	} {
		if got := moved(tt.st, tt.measured); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
