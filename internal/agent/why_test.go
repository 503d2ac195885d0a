package agent

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// What is not known is null, and what there is not is empty.
func TestWhy(t *testing.T) {
	yes, at := true, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		f    facts
		want []string
	}{
		{facts{Path: path.Direct, State: path.Alive, Sight: sightThere, OneWay: true}, []string{
			`"state":"alive"`, `"silent_since":null`, `"gives_up":null`, `"one_way":false`, `"signaling":"there"`, `"last_attempt":""`, `"relay_error":""`, `"nat":{"udp":null,"mapping":null`,
		}},
		{facts{State: path.Dead, Silent: at, GiveUp: at.Add(time.Minute), OneWay: true, Sight: sightLeft, LastErr: errors.New("no answer"), RelayErr: errors.New("401"),
			Ours: candidates.NAT{UDP: &yes, Mapping: candidates.EndpointIndependent}}, []string{
			`"state":"dead"`, `"silent_since":"2026-01-02T03:04:05Z"`, `"gives_up":"2026-01-02T03:05:05Z"`, `"one_way":true`, `"signaling":"left"`,
			`"last_attempt":"no answer"`, `"relay_error":"401"`, `"nat":{"udp":true,"mapping":"endpoint-independent"`,
		}},
		{facts{Sight: sightLost}, []string{`"state":""`, `"signaling":"lost"`}},
		{facts{Sight: sightOld}, []string{`"signaling":"unknown"`}},
		{facts{Sight: sightAbsent}, []string{`"signaling":"absent"`}},
	} {
		b, err := json.Marshal(tt.f.tell())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(b), want) {
				t.Errorf("no %s in %s", want, b)
			}
		}
	}
}

// A link that its own bound ends says which one.
func TestTimeoutIsTheReason(t *testing.T) {
	_, a, b, _ := twoMachines(t)
	peer, _ := befriend(t, a, b)
	a.cfg.RequireDirect, a.cfg.Loopback = true, false // of loopback's addresses none is used, so no path is direct
	startListener(t, b)
	c, err := NewConnector(a.cfg, peer, ConnectConfig{DirectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); !errors.Is(err, ErrOnlyRelayed) {
		t.Fatalf("got %v", err)
	}
	if _, _, none := find(a.events, 0, func(e trace.SessionState) bool { return e.State == "dialing" }); none != nil {
		t.Skip("this machine is too slow to begin a link within a second")
	}
	if e, _ := await(t, a.events, 0, func(e trace.SessionState) bool { return e.State == "closed" }); !strings.Contains(e.Why, ErrOnlyRelayed.Error()) {
		t.Errorf("the link ended with %q", e.Why)
	}
}
