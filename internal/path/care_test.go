package path

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestCares(t *testing.T) {
	path := func(id, hops int, rtt time.Duration) fact {
		return fact{id: id, hops: hops, rtt: rtt, state: Alive, trusted: true}
	}
	in := func(f fact, s State) fact { f.state = s; return f }
	given := func(f fact, c care) fact { f.care = c; return f }
	direct, near, far := path(1, 0, 10*msec), path(2, 0, 20*msec), path(3, 0, 90*msec)
	relay, slow, double := path(4, 1, 30*msec), path(5, 1, 50*msec), path(6, 2, 20*msec)

	for _, tt := range []struct {
		name  string
		pol   policy
		facts []fact
		cur   choice
		want  []care
	}{
		{name: "nothing", want: []care{}},
		{name: "nothing in use yet", facts: []fact{in(direct, Probing), in(relay, Probing)}, want: []care{watched, watched}},
		{name: "one of each kind", facts: []fact{direct, relay}, cur: choice{primary: 1}, want: []care{active, warm}},
		{name: "direct: the best relayed and the next direct one",
			facts: []fact{direct, near, far, relay, slow, double}, cur: choice{primary: 1},
			want: []care{active, warm, cold, warm, cold, cold}},
		{name: "relayed: the next relayed and the best direct one",
			facts: []fact{near, far, relay, slow, double}, cur: choice{primary: 4},
			want: []care{warm, cold, active, warm, cold}},
		{name: "one relay before two, whatever the round trip",
			facts: []fact{direct, slow, double}, cur: choice{primary: 1},
			want: []care{active, warm, cold}},
		{name: "two relays when there is nothing better",
			facts: []fact{direct, double}, cur: choice{primary: 1},
			want: []care{active, warm}},
		{name: "a living one before one that was closer",
			facts: []fact{direct, in(relay, Suspect), slow}, cur: choice{primary: 1},
			want: []care{active, cold, warm}},
		{name: "a dead one when there is no other",
			facts: []fact{in(near, Dead), relay}, cur: choice{primary: 4},
			want: []care{warm, active}},
		{name: "not one that is unproved",
			facts: []fact{direct, in(near, Probing), in(relay, Probing)}, cur: choice{primary: 1},
			want: []care{active, cold, cold}},
		{name: "a few milliseconds do not change who is warm",
			facts: []fact{direct, relay, given(path(7, 1, 33*msec), warm)}, cur: choice{primary: 1},
			want: []care{active, cold, warm}},
		{name: "many do",
			facts: []fact{direct, relay, given(slow, warm)}, cur: choice{primary: 1},
			want: []care{active, warm, cold}},
		{name: "in doubt: both in use, the rest watched",
			facts: []fact{in(direct, Suspect), near, far, relay, slow, double}, cur: choice{primary: 1, duplicate: 2},
			want: []care{active, active, warm, warm, watched, watched}},
		{name: "all dead",
			facts: []fact{in(direct, Dead), in(near, Dead), in(far, Dead)}, cur: choice{primary: 1},
			want: []care{active, warm, watched}},
		{name: "direct required",
			pol: policy{requireDirect: true}, facts: []fact{direct, near, relay}, cur: choice{primary: 1},
			want: []care{active, warm, cold}},
		{name: "relay only",
			pol: policy{relayOnly: true}, facts: []fact{direct, relay, slow}, cur: choice{primary: 4},
			want: []care{cold, active, warm}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := cares(tt.pol, tt.facts, tt.cur); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPause(t *testing.T) {
	for _, tt := range []struct {
		state State
		care  care
		forSo time.Duration
		alone bool // no path is alive
		want  time.Duration
	}{
		{state: Alive, care: active, want: probeEvery},
		{state: Alive, care: warm, want: probeEvery},
		{state: Alive, care: watched, want: probeEvery},
		{state: Alive, care: cold, want: coldEvery},
		{state: Probing, care: cold, want: probeEvery},
		{state: Suspect, care: cold, want: probeEvery}, // soon it is either alive or dead
		{state: Dead, care: warm, forSo: restAfter, want: probeEvery},
		{state: Dead, care: warm, forSo: restAfter + 1, want: restEvery},
		{state: Dead, care: cold, want: coldEvery},
		{state: Dead, care: active, alone: true, want: lonelyEvery},
		{state: Dead, care: watched, forSo: time.Hour, alone: true, want: lonelyEvery},
	} {
		if got := pause(tt.state, tt.care, tt.forSo, !tt.alone); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestSurplus(t *testing.T) {
	const now = time.Hour
	// Six cold paths that nobody has needed for long, the first the best.
	facts := func(change ...func([]fact)) []fact {
		var out []fact
		for id := 1; id <= 6; id++ {
			out = append(out, fact{id: id, rtt: time.Duration(id) * msec, state: Alive, trusted: true})
		}
		for _, f := range change {
			f(out)
		}
		return out
	}
	for _, tt := range []struct {
		name  string
		facts []fact
		want  []int
	}{
		{"all but the best four", facts(), []int{5, 6}},
		{"four are kept", facts()[:keepCold], nil},
		{"dead ones first", facts(func(f []fact) { f[1].state = Dead }), []int{6, 2}},
		{"not what was needed lately", facts(func(f []fact) { f[5].neededAt = now - unneededFor + 1 }), []int{5}},
		{"not what is warm", facts(func(f []fact) { f[5].care = warm }), []int{5}},
		{"not what is watched", facts(func(f []fact) {
			for i := range f {
				f[i].care = watched
			}
		}), nil},
		{"not what is still being tried", facts(func(f []fact) { f[4].state, f[5].state = Probing, Probing }), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := surplus(tt.facts, now); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// relayedKey is the i-th path over the relay that newCrowdBench knows.
func relayedKey(i int) key {
	return key{2, netip.AddrPortFrom(testKey.remote.Addr(), uint16(100+i))}
}

// newCrowdBench returns a bench with a direct path in use (1), a relayed one
// that is warm (2), and n cold relayed ones (3 and up), at rest.
func newCrowdBench(t *testing.T, n int) *bench {
	b := newBench(t)
	b.addCarrier(2, reach{relay: true})
	b.try(testKey)
	for i := range n + 1 {
		b.try(relayedKey(i))
		b.run(msec)
	}
	b.run(20500 * msec)
	for i, p := range b.paths {
		if want := [...]care{active, warm, cold}[min(i, 2)]; p.care != want || p.state != Alive {
			t.Fatalf("path %d is %s and %v", p.id, p.state, p.care)
		}
	}
	b.log, b.probes = nil, nil
	return b
}

// askedAt returns when small probes were sent over a path.
func (b *bench) askedAt(id int) (at []time.Duration) {
	for _, p := range b.probes {
		if p.id == id && p.size == 0 {
			at = append(at, p.at)
		}
	}
	return at
}

func TestEngineProbesByCare(t *testing.T) {
	b := newCrowdBench(t, 2)
	b.run(time.Minute)
	for id, want := range map[int]int{1: 60, 2: 60, 3: 6, 4: 6} {
		if got := len(b.askedAt(id)); got < want || got > want+1 {
			t.Errorf("path %d: %d probes in a minute, want %d", id, got, want)
		}
	}
}

// Every pause between periodic probes is shorter than its nominal length, by
// at most a twentieth, and they differ.
func TestEngineJitter(t *testing.T) {
	b := newCrowdBench(t, 2)
	turn := 0
	b.jitter = func(d time.Duration) time.Duration {
		turn++
		return d * time.Duration(turn%10) / 10
	}
	b.run(20 * time.Second)
	b.probes = nil
	b.run(5 * time.Minute)
	for id, nominal := range map[int]time.Duration{1: probeEvery, 2: probeEvery, 3: coldEvery} {
		at := b.askedAt(id)
		different := map[time.Duration]bool{}
		for i := 1; i < len(at); i++ {
			d := at[i] - at[i-1]
			different[d] = true
			if d > nominal || d < nominal-nominal/jitterShare {
				t.Errorf("path %d: a pause of %v", id, d)
			}
		}
		if len(different) < 5 {
			t.Errorf("path %d: only %d different pauses", id, len(different))
		}
	}
	for range 1000 {
		if d := randomly(50 * msec); d < 0 || d >= 50*msec {
			t.Fatalf("random duration %v", d)
		}
	}
	if d := randomly(0); d != 0 {
		t.Errorf("random duration %v", d)
	}
}

// What is in use and what is warm die together: the payload is doubled over a
// path that was cold as soon as the one in use is suspect.
func TestEngineColdTakesOver(t *testing.T) {
	b := newCrowdBench(t, 6)
	dead := map[key]bool{testKey: true}
	for i := range 6 {
		dead[relayedKey(i)] = true // all but the last
	}
	b.silent, b.answers = dead, nil
	last := b.byID(1).answeredAt
	for b.cur.duplicate != 8 {
		if b.run(10 * msec); b.now-last > 3*time.Second {
			t.Fatalf("3 s after the last answer payload goes to %+v: %q", b.cur, b.log)
		}
	}
	t.Logf("doubled %v after the last answer", b.now-last)
	for b.cur.primary != 8 {
		if b.run(10 * msec); b.now-last > 5100*msec {
			t.Fatalf("%v after the last answer payload goes to %+v: %q", b.now-last, b.cur, b.log)
		}
	}
}

// A path in use is closed, and what takes over has been cold: it is asked and
// measured at once.
func TestEngineColdIsAskedWhenNeeded(t *testing.T) {
	b := newBench(t)
	b.addCarrier(2, reach{relay: true})
	b.addCarrier(3, reach{relay: true})
	b.try(relayedKey(0))
	other := key{3, testKey.remote}
	b.try(other)
	b.try(testKey) // takes over; path 1 stays warm
	b.run(25500 * msec)
	if c := b.byID(2).care; c != cold {
		t.Fatalf("path 2 is %v", c)
	}
	if n := b.byID(2).size.proven; n != sizeBase {
		t.Errorf("a cold path was measured up to %d", n)
	}
	b.probes, b.rtt = nil, 30*msec
	b.removeCarrier(b.now, 1, "gone")
	b.removeCarrier(b.now, 2, "gone")
	start := b.now
	b.run(100 * msec)
	if at := b.askedAt(2); b.cur.primary != 2 || len(at) < 2 || at[0] != start || at[1] != start+fastRetries[0] {
		t.Errorf("at %v payload goes to %d, probes at %v", start, b.cur.primary, at)
	}
	if n := b.byID(2).size.proven; n != 1452 {
		t.Errorf("size %d after 100 ms in use", n)
	}
}

// A cold path was not silent while it was not asked.
func TestEngineColdDiesSlowly(t *testing.T) {
	b := newCrowdBench(t, 1)
	p := b.byID(3)
	b.silent, b.answers = map[key]bool{p.key: true}, nil
	for p.misses == 0 {
		b.run(10 * msec)
	}
	asked := b.askedAt(3)
	first := asked[len(asked)-1]
	for _, a := range asked {
		if a > p.answeredAt {
			first = min(first, a)
		}
	}
	for p.state != Dead {
		b.run(10 * msec)
	}
	if d := b.now - first; d < minDead-probeEvery || d > minDead {
		t.Errorf("dead %v after it was asked", d)
	}

	b.silent = nil
	for p.state != Alive {
		b.run(10 * msec)
	}
	if d := b.now - p.since; d > coldEvery {
		t.Errorf("alive after %v", d)
	}
}

// The size of a warm path is found by few probes, long after it became usable,
// and that of a cold one not at all.
func TestEngineSizesByCare(t *testing.T) {
	for _, tt := range []struct {
		mtu   int
		tried []int // over the warm path, in half a minute
		want  int
	}{
		{9000, []int{1452}, 1452},
		{1450, []int{1452, 1444}, 1444},
		{1300, []int{1452, 1444, 1400, 1360, 1280}, 1280},
		{1200, []int{1452, 1444, 1400, 1360, 1280}, 1200},
	} {
		t.Run(fmt.Sprint(tt.mtu), func(t *testing.T) {
			b := newBench(t)
			b.addCarrier(2, reach{relay: true})
			b.lose = func(s probe) bool { return s.size > tt.mtu }
			b.try(testKey)
			b.run(100 * msec)
			start := b.now
			b.try(relayedKey(0))
			b.try(relayedKey(1))
			b.run(25 * time.Second)
			var tried []int
			var at time.Duration
			for _, s := range b.probes {
				switch {
				case s.size <= sizeBase || s.id == 1:
				case s.id == 3:
					t.Errorf("a probe of %d bytes over a cold path", s.size)
				case at > 0 && s.at-at < sweepPause:
					t.Errorf("a probe of %d bytes after %v", s.size, s.at-at)
				case s.at-start < sweepAfter:
					t.Errorf("a probe of %d bytes %v after the path came", s.size, s.at-start)
				default:
					tried, at = append(tried, s.size), s.at
				}
			}
			if !slices.Equal(tried, tt.tried) {
				t.Errorf("probes of %v, want %v", tried, tt.tried)
			}
			if got := b.byID(2).size.proven; got != tt.want {
				t.Errorf("the warm path's size is %d", got)
			}
			if got := b.byID(3).size.proven; got != sizeBase {
				t.Errorf("the cold path's size is %d", got)
			}
			if got := b.byID(1).size.proven; got != tt.want {
				t.Errorf("the size of the path in use is %d", got)
			}
		})
	}
}

// A warm path that has shrunk is found out, with few bytes.
func TestEngineWarmShrinks(t *testing.T) {
	b := newCrowdBench(t, 0)
	if n := b.byID(2).size.proven; n != 1452 {
		t.Fatalf("size %d", n)
	}
	b.lose = func(s probe) bool { return s.size > 1300 }
	for start := b.now; b.byID(2).size.proven == 1452; b.run(100 * msec) {
		if b.now-start > warmFullEvery+missesToShrink*probeEvery {
			t.Fatalf("not found out in %v", b.now-start)
		}
	}
	if n := b.byID(2).size.proven; n != sizeBase {
		t.Errorf("size %d", n)
	}
	var bytes int
	for _, s := range b.probes {
		if s.id == 2 {
			bytes += s.size
		}
	}
	if bytes > 3*1452+2*(sizeFloor+sizeBase) {
		t.Errorf("%d bytes of padded probes", bytes)
	}
	b.run(time.Minute)
	if n := b.byID(2).size.proven; n != 1280 {
		t.Errorf("size %d a minute later", n)
	}
}

func TestEngineClosesUnneeded(t *testing.T) {
	b := newCrowdBench(t, 10)
	needed := b.byID(12).key
	for range 100 {
		b.run(3 * time.Second)
		b.request(b.now, needed, probeMark{needed: true}) // the peer has it warm
		b.request(b.now, relayedKey(1), probeMark{})
		b.settle()
	}
	b.run(time.Second)
	var left []int
	for _, p := range b.paths {
		left = append(left, p.id)
	}
	if want := []int{1, 2, 3, 4, 5, 6, 12}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}

	// What the peer does not need either is not opened again by its probes,
	// but answered; what it needs is.
	gone := relayedKey(8)
	if !b.request(b.now, gone, probeMark{}) || b.find(gone) != nil {
		t.Error("a path that nobody needs was opened again, or its probe not answered")
	}
	if !b.request(b.now, gone, probeMark{needed: true}) || b.find(gone) == nil {
		t.Error("a path that the peer needs was not opened again")
	}
	b.run(time.Hour)
	if n := len(b.paths); n != 2+keepCold {
		t.Errorf("%d paths an hour later", n)
	}
}

// The peer is told which paths we need.
func TestEngineSaysWhatItNeeds(t *testing.T) {
	b := newCrowdBench(t, 1)
	b.run(20 * time.Second)
	for _, p := range b.probes {
		if p.needed != (p.id < 3) {
			t.Fatalf("path %d, needed %v", p.id, p.needed)
		}
	}
	b.probes = nil
	b.try(relayedKey(9))
	if b.probes[0].id != 4 || !b.probes[0].needed {
		t.Errorf("a new path: %+v", b.probes[0])
	}
}
