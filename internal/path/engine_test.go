package path

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const msec = time.Millisecond

// A bench runs an engine through simulated time against a peer that answers,
// or does not.
type bench struct {
	*engine
	t       *testing.T
	now     time.Duration
	rtt     time.Duration
	deaf    bool               // nothing is answered
	lose    func(s probe) bool // these are not
	silent  map[key]bool       // nothing over these is
	said    probeMark          // in the peer's answers
	mtu     int                // this host refuses longer ones; 0: none
	flow    bool               // payload leaves all the time, while it may
	own     map[key]bool       // our own payload carries what goes over these
	paused  bool               // payload waits
	pauses  []time.Duration    // for how long it did
	since   time.Duration
	waiting []pending // probes that wait with it
	answers []pending
	log     []string  // actions other than probes, with their times
	probes  []sentAct // probes, with theirs
}

type pending struct {
	at  time.Duration
	key key
	seq uint64
}

type sentAct struct {
	at     time.Duration
	id     int
	size   int
	needed bool
}

var testKey = key{1, netip.MustParseAddrPort("192.0.2.2:2")}

func newBench(t *testing.T) *bench {
	b := &bench{engine: newEngine(policy{}, 1452, func(time.Duration) time.Duration { return 0 }), t: t, now: time.Second, rtt: 20 * msec}
	b.addCarrier(1, reach{})
	return b
}

func (b *bench) try(k key) {
	b.t.Helper()
	if err := b.engine.try(b.now, k, false); err != nil {
		b.t.Fatal(err)
	}
	b.settle()
}

// settle carries out what the engine asks for.
func (b *bench) settle() {
	actions := b.take()
	for _, a := range actions {
		switch a := a.(type) {
		case sendProbe:
			b.probes = append(b.probes, sentAct{b.now, a.id, a.size, a.needed})
			if b.mtu > 0 && a.size > b.mtu {
				b.refused(b.now, a.id, a.size)
				continue
			}
			if b.deaf || b.lose != nil && b.lose(probe{seq: a.seq, size: a.size}) {
				continue
			}
			p := b.byID(a.id)
			switch {
			case p == nil || b.silent[p.key]:
			case b.own[p.key] && b.paused:
				b.waiting = append(b.waiting, pending{key: p.key, seq: a.seq})
			case b.own[p.key]:
				b.sentAt = b.now + 1 // what carries it leaves after it
				fallthrough
			default:
				b.answers = append(b.answers, pending{b.now + b.rtt, p.key, a.seq})
			}
		case pausePayload:
			b.pause(a.on)
		case trust, consent:
		default:
			b.log = append(b.log, fmt.Sprintf("%v %s", b.now, describe(a)))
		}
	}
	if len(actions) > 0 {
		b.settle() // what came of it
	}
}

func (b *bench) pause(on bool) {
	if on == b.paused {
		b.t.Errorf("payload is paused: %v, and again", on)
	}
	b.paused = on
	if on {
		b.since = b.now
		return
	}
	b.pauses = append(b.pauses, b.now-b.since)
	for _, a := range b.waiting {
		b.sentAt = b.now + 1
		b.answers = append(b.answers, pending{b.now + b.rtt, a.key, a.seq})
	}
	b.waiting = nil
}

func describe(a action) string {
	switch a := a.(type) {
	case openPath:
		return "open"
	case closePath:
		return "close: " + a.why
	case setSize:
		return fmt.Sprintf("size %d", a.to)
	case setRoute:
		return fmt.Sprintf("route %d+%d %s", a.to.primary, a.to.duplicate, a.why)
	case replay:
		if a.until != math.MaxInt64 {
			return fmt.Sprintf("replay %d from %v to %v", a.id, a.since, a.until)
		}
		return fmt.Sprintf("replay %d since %v", a.id, a.since)
	case becameUsable:
		return "usable"
	case becameSuspect:
		return "suspect"
	case becameAlive:
		return "alive"
	case becameDead:
		return "dead"
	case becameBarred:
		return "barred"
	case becameCleared:
		return "cleared"
	}
	return fmt.Sprintf("%T", a)
}

// run lets time pass.
func (b *bench) run(d time.Duration) {
	end := b.now + d
	for {
		next := b.wake()
		for _, a := range b.answers {
			next = min(next, a.at)
		}
		if next > end {
			b.now = end
			return
		}
		b.now = max(b.now, next)
		if b.flow && !b.paused {
			b.sentAt = max(b.sentAt, b.now-time.Millisecond)
		}
		if i := slices.IndexFunc(b.answers, func(a pending) bool { return a.at <= b.now }); i >= 0 {
			a := b.answers[i]
			b.answers = slices.Delete(b.answers, i, i+1)
			b.answer(b.now, a.key, a.seq, b.said)
		} else {
			b.tick(b.now)
		}
		b.settle()
	}
}

func (b *bench) expectLog(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.log, want) {
		b.t.Errorf("actions:\n%q\nwant:\n%q", b.log, want)
	}
	b.log = nil
}

// small returns when small probes were sent.
func (b *bench) small() (at []time.Duration) {
	for _, p := range b.probes {
		if p.size == 0 {
			at = append(at, p.at)
		}
	}
	b.probes = nil
	return at
}

func TestEngineFirstPath(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(10 * time.Second)
	b.expectLog(
		"1s open",
		"1.02s size 1200", "1.02s usable", "1.02s route 1+0 first path", "1.02s replay 1 since 0s",
		"1.04s size 1280", "1.04s size 1360", "1.04s size 1400", "1.04s size 1444", "1.04s size 1452",
	)
	if at := b.small(); !slices.Equal(at[:2], []time.Duration{time.Second, 1020 * msec}) || len(at) > 13 {
		t.Errorf("probes at %v", at)
	}
}

func TestEngineRetriesUntilAnswered(t *testing.T) {
	b := newBench(t)
	b.deaf = true
	b.try(testKey)
	b.run(4 * time.Second)
	want := []time.Duration{0, 20, 60, 140, 300, 620, 1260, 2260, 3260}
	for i := range want {
		want[i] = want[i]*msec + time.Second
	}
	if at := b.small(); !slices.Equal(at, want) {
		t.Errorf("probes at %v, want %v", at, want)
	}
	b.run(tryFor)
	b.expectLog("1s open", "31s close: no answer")
	if b.wake() != 1<<63-1 {
		t.Error("there is something left to do")
	}
}

func TestEngineSuspectsAndBuries(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rtt     time.Duration
		data    bool
		suspect time.Duration // at the latest, after the last answer
		dead    time.Duration
	}{
		{"idle", 20 * msec, false, 1700 * msec, 5 * time.Second},
		{"payload comes in", 20 * msec, true, 1800 * msec, 5 * time.Second},
		{"long round trip", 600 * msec, false, 3 * time.Second, 5 * time.Second},
		{"satellite and a full queue", 2 * time.Second, false, 6500 * msec, 8 * time.Second},
		{"a queue that nothing leaves", 8 * time.Second, false, 9100 * msec, 15 * time.Second},
		{"and payload comes in", 8 * time.Second, true, 9300 * msec, 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.rtt = tt.rtt
			b.try(testKey)
			b.run(60 * time.Second)
			b.log = nil
			b.deaf = true
			b.answers = nil
			p := b.byID(1)
			last := p.answeredAt
			for p.state == Alive {
				b.run(10 * msec)
				if tt.data {
					b.carried(1, b.now, true)
				}
				if b.now-last > tt.suspect {
					t.Fatalf("not suspect %v after the last answer", b.now-last)
				}
			}
			if b.now-last < minTimeout {
				t.Errorf("suspect after %v", b.now-last)
			}
			for p.state == Suspect {
				b.run(10 * msec)
			}
			if d := b.now - last; d < tt.dead || d > tt.dead+100*msec {
				t.Errorf("dead after %v, want %v", d, tt.dead)
			}
			b.run(10 * time.Minute) // the last path is never given up
			if b.byID(1) == nil || b.cur.primary != 1 {
				t.Error("the last path was closed")
			}
		})
	}
}

func TestEngineLossIsNotDeath(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(10 * time.Second)
	b.log = nil
	r := rand.New(rand.NewPCG(1, 1))
	b.lose = func(s probe) bool { return r.Float64() < 0.2 }
	b.run(10 * time.Minute)
	for _, a := range b.log {
		if strings.HasSuffix(a, "suspect") || strings.HasSuffix(a, "dead") {
			t.Errorf("with a fifth of the probes lost: %s", a)
		}
	}
}

func TestEngineLateAnswersKeepAlive(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(10 * time.Second)
	b.log = nil
	b.rtt = 900 * msec // a queue has filled up
	b.run(5 * time.Second)
	b.log = nil // suspect for a moment, until the round trip is learnt
	b.run(5 * time.Minute)
	b.expectLog()
	if p := b.byID(1); p.rtt < 800*msec {
		t.Errorf("round trip %v", p.rtt)
	}
}

// A path that is slow and answers is left alone, however slow it is.
func TestEngineSlowIsNotDead(t *testing.T) {
	for _, rtt := range []time.Duration{2 * time.Second, 5 * time.Second, 7500 * msec} {
		b := newBench(t)
		b.rtt = rtt
		b.try(testKey)
		b.run(30 * time.Second)
		b.log = nil
		b.run(10 * time.Minute)
		b.expectLog()
	}
}

func TestEngineHeals(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(9990 * msec)
	crossed := b.byID(1).answeredSent
	b.log = nil
	b.deaf = true
	b.answers = nil
	b.run(30 * time.Second)
	b.log = nil
	b.deaf = false
	b.run(2 * time.Second)
	if len(b.log) != 2 || !strings.HasSuffix(b.log[0], "alive") || !strings.HasSuffix(b.log[1], fmt.Sprintf("replay 1 since %v", crossed)) {
		t.Errorf("actions %q", b.log)
	}
}

// Only a loss of large probes alone says something about the size.
func TestEngineOutageDoesNotShrink(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(10 * time.Second)
	for range 5 {
		b.deaf = true
		for range 30 {
			b.carried(1, 0, true)
			b.run(time.Second)
		}
		b.deaf = false
		b.run(3 * time.Second)
	}
	if p := b.byID(1); p.state != Alive || p.size.proven != 1452 {
		t.Errorf("%s, size %d", p.state, p.size.proven)
	}
}

func TestEngineQuarantineGrows(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(time.Second)
	p := b.byID(1)
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		b.deaf = true
		for p.state != Dead {
			b.run(50 * msec)
		}
		b.deaf = false
		for p.state != Alive {
			b.run(msec)
		}
		if got := p.waryUntil - b.now; got != want*time.Second {
			t.Errorf("death %d: quarantine of %v", i+1, got)
		}
		b.run(time.Second)
	}
	b.run(forgiveAfter)
	b.deaf = true
	b.run(10 * time.Second)
	if p.state != Dead || p.deaths != 0 {
		t.Errorf("%s, %d deaths after a long life", p.state, p.deaths)
	}
}

func TestEngineNudge(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(10500 * msec)
	b.small()
	b.deaf = true
	b.nudge(b.now)
	start := b.now
	b.settle()
	b.run(400 * msec)
	if at := b.small(); at[0] != start || len(at) < 5 {
		t.Errorf("nudged at %v, probes at %v", start, at)
	}
	if s := b.byID(1).state; s != Suspect {
		t.Errorf("%s 400 ms after a nudge that nobody answered", s)
	}
}

// Each switch and heal has its replay: one that comes too soon after another is
// late, not left out.
func TestEngineReplayIsHeld(t *testing.T) {
	b := newBench(t)
	b.replay(b.now, 1, 7)
	b.settle()
	b.expectLog("1s replay 1 since 7ns")
	b.run(100 * msec)
	b.replay(b.now, 2, 9)
	b.replay(b.now, 3, 8)
	b.run(10 * time.Second)
	b.expectLog("1.5s replay 3 from 8ns to 1.1s")
	if b.wake() != 1<<63-1 {
		t.Error("there is something left to do")
	}
}

// A probe that this host itself refuses is no missing answer, and lowers the
// size at once.
func TestEngineRefused(t *testing.T) {
	b := newBench(t)
	b.try(testKey)
	b.run(10 * time.Second)
	b.log = nil
	b.mtu = 1300
	b.carried(1, 0, true) // the next probe is a full one
	b.run(probeEvery)
	p := b.byID(1)
	if p.size.proven != 1280 {
		t.Errorf("size %d after the first refusal", p.size.proven)
	}
	b.run(10 * time.Minute) // larger ones are tried again and again
	if p.state != Alive || p.size.proven != 1280 || p.size.misses != 0 || p.misses != 0 {
		t.Errorf("%s, size %d, %d and %d misses", p.state, p.size.proven, p.size.misses, p.misses)
	}
	b.mtu = 0
	b.run(time.Minute)
	if p.size.proven != 1452 {
		t.Errorf("size %d a minute after the host takes more", p.size.proven)
	}
}

func TestEngineBounds(t *testing.T) {
	b := newBench(t)
	b.deaf = true
	remote := func(i int) netip.AddrPort { return netip.AddrPortFrom(testKey.remote.Addr(), uint16(1000+i)) }
	for i := range 100 {
		b.run(time.Millisecond)
		if err := b.engine.try(b.now, key{1, remote(i)}, false); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.paths) != maxPaths || b.find(key{1, remote(99)}) == nil {
		t.Errorf("%d paths", len(b.paths))
	}
	for _, p := range b.paths {
		p.state = Alive
	}
	if err := b.engine.try(b.now, testKey, false); !errors.Is(err, errTooManyPaths) {
		t.Errorf("one more than fit: %v", err)
	}
	if err := b.engine.try(b.now, key{9, testKey.remote}, false); !errors.Is(err, errNoCarrier) {
		t.Errorf("unknown carrier: %v", err)
	}
	b.run(time.Minute)
	for _, p := range b.paths {
		if len(p.sent) > maxOutstanding {
			t.Fatalf("%d probes are remembered", len(p.sent))
		}
	}
}

func TestEnginePolicy(t *testing.T) {
	relay := netip.MustParseAddrPort("203.0.113.1:7")
	b := newBench(t)
	b.policy = policy{requireDirect: true}
	b.addCarrier(2, reach{relay: true})
	b.expect(b.now, []netip.AddrPort{relay})
	for name, k := range map[string]key{"from a relay": {2, testKey.remote}, "to a relay": {1, relay}} {
		if err := b.engine.try(b.now, k, false); !errors.Is(err, ErrNotPermitted) {
			t.Errorf("%s: %v", name, err)
		}
		if b.request(b.now, k, probeMark{needed: true}) {
			t.Errorf("%s: a request is answered", name)
		}
	}
	if b.request(b.now, testKey, probeMark{relay: true, needed: true}) {
		t.Error("a request that says it comes from a relay is answered")
	}

	// A path that turns out to be relayed is closed and not answered any more.
	b.try(testKey)
	b.run(time.Second)
	if !b.request(b.now, testKey, probeMark{needed: true}) {
		t.Error("a request over a direct path is not answered")
	}
	b.settle()
	if b.request(b.now, testKey, probeMark{relay: true, needed: true}) {
		t.Error("a request that says it is relayed after all is answered")
	}
	if b.settle(); len(b.paths) != 0 || b.cur.primary != 0 {
		t.Errorf("the path is still there: %q", b.log)
	}
	b.try(testKey)
	b.expect(b.now, []netip.AddrPort{testKey.remote})
	if b.settle(); len(b.paths) != 0 {
		t.Errorf("the path is still there: %q", b.log)
	}
}
