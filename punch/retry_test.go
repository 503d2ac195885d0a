package punch

import (
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
)

func TestNextTry(t *testing.T) {
	now := time.Unix(1000, 0)
	failed := func(n int, ago time.Duration, jitter float64) History {
		return History{Failures: n, Ended: now.Add(-ago), Jitter: jitter}
	}
	trap := failed(1, 0, 0)
	trap.Trap = true
	changed := failed(6, 0, 0.9)
	changed.Event = TriggerNetwork
	changed.Trap = true
	silent := func(h History) History { h.NoUDP = true; return h }
	lost := History{Ended: now.Add(-time.Hour), Event: TriggerPathLost}
	for _, tt := range []struct {
		name    string
		h       History
		wait    time.Duration
		trigger string
		fresh   bool
	}{
		{"first", History{}, 0, TriggerFirst, false},
		{"network before the first", History{Event: TriggerNetwork}, 0, TriggerNetwork, false},
		{"one failure", failed(1, 0, 0), 2 * time.Second, TriggerRetry, false},
		{"two", failed(2, 0, 0), 5 * time.Second, TriggerRetry, false},
		{"three", failed(3, 0, 0), 10 * time.Second, TriggerRetry, false},
		{"four", failed(4, 0, 0), 20 * time.Second, TriggerRetry, false},
		{"five", failed(5, 0, 0), 40 * time.Second, TriggerRetry, false},
		{"six", failed(6, 0, 0), 60 * time.Second, TriggerRetry, false},
		{"a thousand", failed(1000, 0, 0), 60 * time.Second, TriggerRetry, false},
		{"ended without a failure", failed(0, 0, 0), 2 * time.Second, TriggerRetry, false},
		{"part of the wait is over", failed(3, 4*time.Second, 0), 6 * time.Second, TriggerRetry, false},
		{"slept through it", failed(3, time.Hour, 0), 0, TriggerRetry, false},
		{"jitter", failed(6, 0, 0.5), 52500 * time.Millisecond, TriggerRetry, false},
		{"jitter out of range", failed(6, 0, 9), 45 * time.Second, TriggerRetry, false},
		{"no UDP", silent(failed(1, 0, 0)), time.Minute, TriggerRetry, false},
		{"no UDP, jitter", silent(failed(1, 0, 1)), 45 * time.Second, TriggerRetry, false},
		{"no UDP, but nothing has been tried", silent(History{}), 0, TriggerFirst, false},
		{"UDP passes again", silent(History{Failures: 3, Ended: now, Event: TriggerNetwork}), 0, TriggerNetwork, false},
		{"trap", trap, 2 * time.Second, TriggerRetry, true},
		{"network change", changed, 0, TriggerNetwork, false},
		{"path lost", lost, 0, TriggerPathLost, false},
	} {
		p := NextTry(tt.h, now)
		if p.At.Sub(now) != tt.wait || p.Trigger != tt.trigger || p.FreshPort != tt.fresh {
			t.Errorf("%s: in %s, %s, fresh %v; want in %s, %s, fresh %v", tt.name,
				p.At.Sub(now), p.Trigger, p.FreshPort, tt.wait, tt.trigger, tt.fresh)
		}
	}
}

func TestSuspectTrap(t *testing.T) {
	yes, no := true, false
	easy := candidates.NAT{UDP: &yes, Mapping: candidates.EndpointIndependent}
	hard := candidates.NAT{UDP: &yes, Mapping: candidates.AddressAndPortDependent}
	silent := &NoPathError{Candidates: 1, Counts: Counts{ChecksSent: 200}}
	heard := &NoPathError{Candidates: 1, Counts: Counts{ChecksSent: 200, ChecksReceived: 9}}
	for _, tt := range []struct {
		name        string
		ours, peers candidates.NAT
		e           *NoPathError
		want        bool
	}{
		{"both easy, silence", easy, easy, silent, true},
		{"both easy, one direction", easy, easy, heard, true},
		{"both easy, answers came", easy, easy, &NoPathError{Candidates: 1, Counts: Counts{AnswersReceived: 1}}, false},
		{"no candidate to reach", easy, easy, &NoPathError{}, false},
		{"ours is hard", hard, easy, silent, false},
		{"peer's is hard", easy, hard, silent, false},
		{"peer's unknown", easy, candidates.NAT{}, silent, false},
		{"peer's UDP blocked", easy, candidates.NAT{UDP: &no, Mapping: candidates.EndpointIndependent}, silent, false},
		{"another error", easy, easy, nil, false},
	} {
		if got := SuspectTrap(tt.ours, tt.peers, tt.e); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestOpenerTTL(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		name       string
		translated *bool
		nats, want int
	}{
		{"no NAT", &no, 0, 0},
		{"no NAT, however many", &no, 2, 0},
		{"unknown", nil, 0, 0},
		{"one, not counted", &yes, 0, 2},
		{"one", &yes, 1, 2},
		{"two in a row", &yes, 2, 3},
	} {
		if got := OpenerTTL(candidates.NAT{Translated: tt.translated}, tt.nats); got != tt.want {
			t.Errorf("%s: ttl %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestFallback(t *testing.T) {
	for rtt, want := range map[time.Duration]time.Duration{
		0:                      150 * time.Millisecond,
		100 * time.Millisecond: 150 * time.Millisecond,
		400 * time.Millisecond: 600 * time.Millisecond,
		20 * time.Second:       2 * time.Second,
	} {
		if got := Fallback(rtt); got != want {
			t.Errorf("rtt %s: %s, want %s", rtt, got, want)
		}
	}
}
