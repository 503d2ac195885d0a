package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/punch"
)

func TestJudge(t *testing.T) {
	yes, no := true, false
	symmetric := candidates.NAT{UDP: &yes, Mapping: candidates.AddressAndPortDependent}
	cone := candidates.NAT{UDP: &yes, Mapping: candidates.EndpointIndependent, Filtering: candidates.AddressAndPortDependent}
	cut := candidates.NAT{UDP: &no}
	failed := &punch.NoPathError{Counts: punch.Counts{ChecksSent: 120}, Candidates: 3}
	oneWay := &punch.NoPathError{Counts: punch.Counts{ChecksSent: 120, ChecksReceived: 7}, Candidates: 3}
	for _, tt := range []struct {
		name   string
		f      facts
		text   string // a part of it
		remedy bool
	}{
		{"direct", facts{Path: pathDirect, Ours: symmetric}, "no server sees or carries", false},
		{"told to", facts{Path: pathRelayed, RelayOnly: true}, "this side was told", true},
		{"peer told to", facts{Path: pathRelayed, PeerRelayOnly: true}, "the peer was told", true},
		{"no UDP here", facts{Path: pathRelayed, Ours: cut, Peers: cone}, "no UDP leaves this network", true},
		{"no UDP there", facts{Path: pathRelayed, Ours: cone, Peers: cut}, "no UDP leaves the peer's network", true},
		{"no UDP anywhere", facts{Path: pathRelayed, Ours: cut, Peers: cut}, "no UDP leaves either network", true},
		{"both symmetric", facts{Path: pathRelayed, Ours: symmetric, Peers: symmetric}, "both NATs", true},
		{"symmetric here, filter known", facts{Path: pathRelayed, Ours: symmetric, Peers: cone}, "this side's NAT gives every destination another port", true},
		{"symmetric there, filter known", facts{Path: pathRelayed, Ours: cone, Peers: symmetric}, "the peer's NAT gives every destination another port", true},
		{"symmetric, filter unknown, not tried", facts{Path: pathRelayed, Ours: symmetric}, "no attempt for a direct path has ended", false},
		{"symmetric, filter unknown, failed", facts{Path: pathRelayed, Ours: symmetric, Attempts: 1, LastErr: failed}, "filtering was not measured", true},
		{"not measured is not no", facts{Path: pathRelayed}, "no attempt for a direct path has ended", false},
		{"found, not yet proved", facts{Path: pathRelayed, Attempts: 1, Ours: cone, Peers: cone}, "is being proved", false},
		{"nothing to try", facts{Path: pathRelayed, Attempts: 1, LastErr: failed, Ours: cone, Peers: cone}, "announced no address", false},
		{"nothing arrived", facts{Path: pathRelayed, Attempts: 1, LastErr: failed, Candidates: 3, Ours: cone, Peers: cone}, "120 checks were sent to the peer (3 of", true},
		{"one direction", facts{Path: pathRelayed, Attempts: 1, LastErr: oneWay, Candidates: 3}, "one direction only", true},
		{"another error", facts{Path: pathRelayed, Attempts: 1, LastErr: errors.New("socket closed"), Candidates: 1}, "socket closed", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := judge(tt.f).at(time.Now())
			if !strings.Contains(got.Text, tt.text) || (got.Remedy != "") != tt.remedy || got.Path != string(tt.f.Path) {
				t.Errorf("got %+v, want %q, remedy %v", got, tt.text, tt.remedy)
			}
			if !strings.HasPrefix(got.Text, got.Path+": ") {
				t.Errorf("%q does not begin with the path", got.Text)
			}
		})
	}
}

// A path whose probes are not answered is not called a path, and what is said of
// time is true at the time of reading.
func TestJudgeSilence(t *testing.T) {
	t0 := time.Now()
	silent := func(s sight) facts {
		return facts{
			Path: path.Direct, State: path.Dead, Session: true, Silent: t0, GiveUp: t0.Add(170 * time.Second), Sight: s,
			Attempts: 1, LastErr: errors.New("some try"),
		}
	}
	doubt := facts{Path: path.Direct, State: path.Suspect, Answered: t0, Session: true, Silent: t0, GiveUp: t0.Add(170 * time.Second)}
	with := func(f facts, change func(*facts)) facts { change(&f); return f }
	for _, tt := range []struct {
		name  string
		f     facts
		after time.Duration
		path  string
		text  string
	}{
		{"left", silent(sightLeft), 26 * time.Second, "none", "no path: silent for 26 s; it left the signaling server; giving up in 2.4 min"},
		{"later", silent(sightLeft), 165 * time.Second, "none", "no path: silent for 2.8 min; it left the signaling server; giving up in 5 s"},
		{"too late", silent(sightLeft), 171 * time.Second, "none", "no path: silent for 2.9 min; it left the signaling server; giving up in 0 s"},
		{"absent", silent(sightAbsent), 26 * time.Second, "none", "no path: silent for 26 s; it is not at the signaling server; giving up in 2.4 min"},
		{"alone", silent(sightLost), 26 * time.Second, "none", "no path: silent for 26 s; no connection to the signaling server either; giving up in 2.4 min"},
		{"signaling not heard", silent(sightOld), 26 * time.Second, "none", "no path: silent for 26 s; not known whether it is at the signaling server, which has not answered for seconds; giving up in 2.4 min"},
		{"stuck", silent(sightThere), 26 * time.Second, "none", "no path: silent for 26 s; it is at the signaling server; giving up in 2.4 min"},
		{"no relay", with(silent(sightThere), func(f *facts) { f.RelayErr = errors.New("401 %d") }), 7 * time.Second, "none",
			"no path: silent for 7 s; it is at the signaling server; no relay (401 %d); giving up in 2.7 min"},
		{"one way", with(silent(sightThere), func(f *facts) { f.OneWay = true }), 7 * time.Second, "none",
			"no path: no answer for 7 s, though the peer is heard: packets pass one way only; it is at the signaling server; giving up in 2.7 min"},
		{"relayed before", with(silent(sightLeft), func(f *facts) { f.Path, f.RelayOnly = path.Relayed, true }), 26 * time.Second, "none",
			"no path: silent for 26 s; it left the signaling server; giving up in 2.4 min"},
		{"nothing left to probe", with(silent(sightLeft), func(f *facts) { f.Path, f.State = "", "" }), 26 * time.Second, "none",
			"no path: silent for 26 s; it left the signaling server; giving up in 2.4 min"},
		{"suspect", doubt, 3 * time.Second, "direct", "direct: no answer for 3 s, and no other path works"},
		{"suspect, and another", with(doubt, func(f *facts) { f.Another = true }), 2 * time.Second, "direct",
			"direct: no answer for 2 s, so everything goes over a second path too"},
		{"never had one", facts{Silent: t0, GiveUp: t0.Add(time.Minute)}, time.Second, "none", "no path: no attempt for a direct path has ended yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := judge(tt.f)
			got := v.at(t0.Add(tt.after))
			if got.Path != tt.path || got.Text != tt.text {
				t.Errorf("got %s, %q\nwant %s, %q", got.Path, got.Text, tt.path, tt.text)
			}
			if v != judge(tt.f) {
				t.Error("the same facts make another verdict")
			}
			if out := tt.path == "none" && tt.f.Session; v.outage() != out || out && got.Remedy == "" {
				t.Errorf("outage %v, remedy %q", v.outage(), got.Remedy)
			}
			if v.settled() {
				t.Error("taken for what will stay so")
			}
			if tt.f.OneWay && !strings.Contains(got.Remedy, "packets that leave this machine") {
				t.Errorf("remedy %q of a path that is cut one way", got.Remedy)
			}
		})
	}
}
