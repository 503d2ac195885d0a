package path

import (
	"slices"
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	const ms = time.Millisecond
	alive := func(id, hops int, rtt time.Duration) fact {
		return fact{id: id, hops: hops, rtt: rtt, state: Alive, trusted: true}
	}
	in := func(f fact, s State) fact { f.state = s; return f }
	wary := func(f fact) fact { f.trusted = false; return f }
	answered := func(f fact, at time.Duration) fact { f.answered = at; return f }
	stream := func(f fact) fact { f.stream = true; return f }
	tunnelled := func(f fact) fact { f.tunnel = true; return f }
	tunnel := tunnelled(alive(7, 0, 4*ms))
	relay, twoRelays, direct := alive(1, 1, 20*ms), alive(2, 2, 10*ms), alive(3, 0, 100*ms)
	overTCP, twoOverTCP := stream(alive(4, 1, 5*ms)), stream(alive(5, 2, 5*ms))

	for _, tt := range []struct {
		name  string
		pol   policy
		facts []fact
		now   time.Duration
		cur   choice
		want  choice
		why   string
	}{
		{name: "nothing"},
		{name: "nothing yet", facts: []fact{in(relay, Probing)}},
		{name: "first", facts: []fact{relay}, want: choice{primary: 1}, why: "first path"},
		{name: "stays", facts: []fact{relay}, cur: choice{primary: 1}, want: choice{primary: 1}},
		{name: "direct over relay, whatever the round trip", facts: []fact{relay, direct}, cur: choice{primary: 1}, want: choice{primary: 3}, why: "direct path"},
		{name: "first is the best", facts: []fact{relay, twoRelays, direct}, want: choice{primary: 3}, why: "first path"},
		{name: "one relay over two", facts: []fact{relay, twoRelays}, cur: choice{primary: 2}, want: choice{primary: 1}, why: "fewer relays"},
		{name: "not back to more relays", facts: []fact{relay, twoRelays}, cur: choice{primary: 1}, want: choice{primary: 1}},
		{name: "UDP over TCP, though it has to last", facts: []fact{overTCP, relay}, now: 1000 * ms, cur: choice{primary: 4}, want: choice{primary: 4, challenger: 1, since: 1000 * ms}},
		{name: "not long enough", facts: []fact{overTCP, relay}, now: 3900 * ms, cur: choice{primary: 4, challenger: 1, since: 1000 * ms}, want: choice{primary: 4, challenger: 1, since: 1000 * ms}},
		{name: "UDP over TCP", facts: []fact{overTCP, relay}, now: 4000 * ms, cur: choice{primary: 4, challenger: 1, since: 1000 * ms}, want: choice{primary: 1}, why: "relay over UDP"},
		{name: "even with another relay", facts: []fact{overTCP, twoRelays}, now: 4000 * ms, cur: choice{primary: 4, challenger: 2, since: 1000 * ms}, want: choice{primary: 2}, why: "relay over UDP"},
		{name: "and fewer relays, at once", facts: []fact{twoOverTCP, relay}, cur: choice{primary: 5}, want: choice{primary: 1}, why: "relay over UDP"},
		{name: "one relay over two, over TCP", facts: []fact{twoOverTCP, overTCP}, cur: choice{primary: 5}, want: choice{primary: 4}, why: "fewer relays"},
		{name: "not to TCP for a relay less", facts: []fact{twoRelays, overTCP}, cur: choice{primary: 2}, want: choice{primary: 2}},
		{name: "nor for its round trip", facts: []fact{relay, overTCP}, now: 4000 * ms, cur: choice{primary: 1, challenger: 4, since: 1000 * ms}, want: choice{primary: 1}},
		{name: "UDP is the first choice", facts: []fact{overTCP, twoRelays}, want: choice{primary: 2}, why: "first path"},
		{name: "UDP that died before", facts: []fact{overTCP, wary(relay)}, now: 9000 * ms, cur: choice{primary: 4, challenger: 1, since: 1000 * ms}, want: choice{primary: 4}},
		{name: "TCP is better than nothing", facts: []fact{in(relay, Dead), overTCP}, cur: choice{primary: 1}, want: choice{primary: 4}, why: "path dead"},
		{name: "direct over TCP, at once", facts: []fact{overTCP, direct}, cur: choice{primary: 4}, want: choice{primary: 3}, why: "direct path"},
		{name: "all gone", cur: choice{primary: 1}, want: choice{}, why: "no path left"},
		{name: "closed", facts: []fact{twoRelays}, cur: choice{primary: 1}, want: choice{primary: 2}, why: "path closed"},

		{name: "suspect is doubled", facts: []fact{in(direct, Suspect), relay}, cur: choice{primary: 3}, want: choice{primary: 3, duplicate: 1}},
		{name: "by the best other", facts: []fact{in(direct, Suspect), twoRelays, relay}, cur: choice{primary: 3}, want: choice{primary: 3, duplicate: 1}},
		{name: "by a suspect one", facts: []fact{in(direct, Suspect), in(relay, Suspect)}, cur: choice{primary: 3}, want: choice{primary: 3, duplicate: 1}},
		{name: "not by a dead one", facts: []fact{in(direct, Suspect), in(relay, Dead)}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "not by one unproved", facts: []fact{in(direct, Suspect), in(relay, Probing)}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "alone", facts: []fact{in(direct, Suspect)}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "recovered", facts: []fact{direct, relay}, cur: choice{primary: 3, duplicate: 1}, want: choice{primary: 3}},
		{name: "suspect relay leaves for direct", facts: []fact{in(relay, Suspect), direct}, cur: choice{primary: 1}, want: choice{primary: 3}, why: "direct path"},

		{name: "dead", facts: []fact{in(direct, Dead), relay}, cur: choice{primary: 3, duplicate: 1}, want: choice{primary: 1}, why: "path dead"},
		{name: "dead to quarantined", facts: []fact{in(direct, Dead), wary(relay)}, cur: choice{primary: 3}, want: choice{primary: 1}, why: "path dead"},
		{name: "dead to suspect", facts: []fact{in(direct, Dead), in(relay, Suspect)}, cur: choice{primary: 3}, want: choice{primary: 1}, why: "path dead"},
		{name: "all dead", facts: []fact{in(direct, Dead), in(relay, Dead)}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "of the dead the last that lived", facts: []fact{answered(in(direct, Dead), 1), answered(in(relay, Dead), 2)}, want: choice{primary: 1}, why: "first path"},

		{name: "quarantine", facts: []fact{relay, wary(direct)}, cur: choice{primary: 1}, want: choice{primary: 1}},
		{name: "quarantine of the one in use does not move it", facts: []fact{relay, wary(direct)}, cur: choice{primary: 3}, want: choice{primary: 3}},

		{name: "shorter, at first", facts: []fact{alive(1, 0, 50*ms), alive(2, 0, 30*ms)}, now: 1000 * ms, cur: choice{primary: 1}, want: choice{primary: 1, challenger: 2, since: 1000 * ms}},
		{name: "shorter, for a while", facts: []fact{alive(1, 0, 50*ms), alive(2, 0, 30*ms)}, now: 3900 * ms, cur: choice{primary: 1, challenger: 2, since: 1000 * ms}, want: choice{primary: 1, challenger: 2, since: 1000 * ms}},
		{name: "shorter, long enough", facts: []fact{alive(1, 0, 50*ms), alive(2, 0, 30*ms)}, now: 4000 * ms, cur: choice{primary: 1, challenger: 2, since: 1000 * ms}, want: choice{primary: 2}, why: "shorter round trip"},
		{name: "not any more", facts: []fact{alive(1, 0, 50*ms), alive(2, 0, 45*ms)}, now: 4000 * ms, cur: choice{primary: 1, challenger: 2, since: 1000 * ms}, want: choice{primary: 1}},
		{name: "another challenger", facts: []fact{alive(1, 0, 50*ms), alive(2, 0, 30*ms), alive(4, 0, 20*ms)}, now: 4000 * ms, cur: choice{primary: 1, challenger: 2, since: 1000 * ms}, want: choice{primary: 1, challenger: 4, since: 4000 * ms}},
		{name: "a fifth of little is not enough", facts: []fact{alive(1, 0, 6*ms), alive(2, 0, 2*ms)}, cur: choice{primary: 1}, want: choice{primary: 1}},
		{name: "5 ms of much are not enough", facts: []fact{alive(1, 0, 100*ms), alive(2, 0, 90*ms)}, cur: choice{primary: 1}, want: choice{primary: 1}},

		{name: "a relay over a tunnel, whatever the round trip", facts: []fact{relay, tunnel}, cur: choice{primary: 1}, want: choice{primary: 1}},
		{name: "two relays over a tunnel, at first", facts: []fact{tunnel, twoRelays}, now: 1000 * ms, cur: choice{primary: 7}, want: choice{primary: 7, challenger: 2, since: 1000 * ms}},
		{name: "two relays over a tunnel, long enough", facts: []fact{tunnel, twoRelays}, now: 4000 * ms, cur: choice{primary: 7, challenger: 2, since: 1000 * ms}, want: choice{primary: 2}, why: "not in a tunnel"},
		{name: "direct over a tunnel, at first", facts: []fact{tunnel, relay, direct}, now: 1000 * ms, cur: choice{primary: 7}, want: choice{primary: 7, challenger: 3, since: 1000 * ms}},
		{name: "direct over a tunnel, long enough", facts: []fact{tunnel, relay, direct}, now: 4000 * ms, cur: choice{primary: 7, challenger: 3, since: 1000 * ms}, want: choice{primary: 3}, why: "not in a tunnel"},
		{name: "direct over a relay in a tunnel, at once", facts: []fact{tunnelled(relay), direct}, cur: choice{primary: 1}, want: choice{primary: 3}, why: "direct path"},
		{name: "TCP to a relay over a tunnel", facts: []fact{tunnel, twoOverTCP}, want: choice{primary: 5}, why: "first path"},
		{name: "not before its quarantine is over", facts: []fact{tunnel, wary(direct)}, cur: choice{primary: 7}, want: choice{primary: 7}},
		{name: "not back into the tunnel", facts: []fact{tunnel, direct}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "a tunnel before nothing", facts: []fact{tunnel, in(relay, Dead)}, want: choice{primary: 7}, why: "first path"},
		{name: "a tunnel when the relay has died", facts: []fact{tunnel, in(relay, Dead)}, cur: choice{primary: 1}, want: choice{primary: 7}, why: "path dead"},
		{name: "all in a tunnel: direct over relay", facts: []fact{tunnel, tunnelled(relay)}, cur: choice{primary: 1}, want: choice{primary: 7}, why: "direct path"},
		{name: "all in a tunnel: one relay over two", facts: []fact{tunnelled(relay), tunnelled(twoRelays)}, cur: choice{primary: 2}, want: choice{primary: 1}, why: "fewer relays"},
		{name: "a tunnel when direct is required", pol: policy{requireDirect: true}, facts: []fact{tunnel, relay}, want: choice{primary: 7}, why: "first path"},

		{name: "require direct", pol: policy{requireDirect: true}, facts: []fact{relay}},
		{name: "require direct, lost", pol: policy{requireDirect: true}, facts: []fact{in(direct, Suspect), relay}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "require direct, dead", pol: policy{requireDirect: true}, facts: []fact{in(direct, Dead), relay}, cur: choice{primary: 3}, want: choice{primary: 3}},
		{name: "turned out relayed", pol: policy{requireDirect: true}, facts: []fact{relay}, cur: choice{primary: 1}, want: choice{}, why: "no path left"},
		{name: "relay only", pol: policy{relayOnly: true}, facts: []fact{relay, direct}, cur: choice{primary: 1}, want: choice{primary: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := choose(tt.pol, tt.facts, tt.now, tt.cur)
			if got != tt.want || why != tt.why {
				t.Errorf("got %+v %q, want %+v %q", got, why, tt.want, tt.why)
			}
		})
	}
}

func TestHeldTo(t *testing.T) {
	direct, relayed := fact{id: 1, state: Alive}, fact{id: 2, hops: 1, state: Alive}
	in := func(f fact, s State) fact { f.state = s; return f }
	for _, tt := range []struct {
		name  string
		kind  Kind
		pol   policy
		facts []fact
		want  []int
		held  bool
	}{
		{name: "to nothing", facts: []fact{direct, relayed}, want: []int{1, 2}},
		{name: "direct", kind: Direct, facts: []fact{direct, relayed}, want: []int{1}, held: true},
		{name: "relayed", kind: Relayed, facts: []fact{direct, relayed, {id: 3, hops: 2, state: Dead}}, want: []int{2, 3}, held: true},
		{name: "suspect is good enough", kind: Relayed, facts: []fact{direct, in(relayed, Suspect)}, want: []int{2}, held: true},
		{name: "dead is not", kind: Relayed, facts: []fact{direct, in(relayed, Dead)}, want: []int{1, 2}},
		{name: "unproved is not", kind: Direct, facts: []fact{in(direct, Probing), relayed}, want: []int{1, 2}},
		{name: "not permitted", kind: Direct, pol: policy{relayOnly: true}, facts: []fact{direct, relayed}, want: []int{1, 2}},
		{name: "none", kind: Direct, facts: []fact{relayed}, want: []int{2}},
	} {
		left, held := heldTo(tt.kind, tt.pol, tt.facts)
		var ids []int
		for _, f := range left {
			ids = append(ids, f.id)
		}
		if !slices.Equal(ids, tt.want) || held != tt.held {
			t.Errorf("%s: %v %v, want %v %v", tt.name, ids, held, tt.want, tt.held)
		}
	}
}
