package path

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var relayedKey2 = key{2, netip.MustParseAddrPort("203.0.113.9:3")}

// relayedBench is one whose payload flows over a relayed path.
func relayedBench(t *testing.T) *bench {
	b := newBench(t)
	b.addCarrier(2, reach{relay: true})
	b.own = make(map[key]bool)
	b.try(relayedKey2)
	b.run(10 * time.Second)
	if b.cur.primary != 1 || len(b.pauses) != 0 {
		t.Fatalf("path %d in use, payload waited %v", b.cur.primary, b.pauses)
	}
	b.flow = true
	b.log = nil
	return b
}

func (b *bench) logged(what string) (n int) {
	for _, a := range b.log {
		if strings.Contains(a, what) {
			n++
		}
	}
	return n
}

func (b *bench) pausedFor() (d time.Duration) {
	for _, h := range b.pauses {
		d += h
	}
	return d
}

// A path that our own payload carries is recognised by the silence in which it
// is not answered, and never used; when something else carries it, it is.
func TestTrialBarsOwnPath(t *testing.T) {
	b := relayedBench(t)
	b.own[testKey] = true
	b.rtt = 4 * msec
	b.try(testKey)
	b.run(10 * time.Second)
	p := b.find(testKey)
	if !p.cleared.barred || p.state != Alive || b.logged("barred") != 1 {
		t.Fatalf("%+v, %q", p.cleared, b.log)
	}
	if len(b.pauses) != failuresToBar || b.pausedFor() > failuresToBar*trialMin+20*msec {
		t.Errorf("payload waited %v", b.pauses)
	}
	if p.rtt > 2*b.rtt {
		t.Errorf("round trip of %v learnt from probes that waited for ourselves", p.rtt)
	}
	b.pauses = nil
	b.run(10 * time.Minute)
	if n := len(b.pauses); n < 4 || n > 7 || slices.Max(b.pauses) > trialMin+10*msec {
		t.Errorf("payload waited %v in ten minutes", b.pauses)
	}
	if b.logged("route") != 0 || b.cur.primary != 1 {
		t.Errorf("moved: %q", b.log)
	}
	b.own[testKey] = false
	b.run(maxBarred + time.Second)
	if b.logged("cleared") != 1 || b.cur.primary != p.id {
		t.Errorf("path %d in use: %q", b.cur.primary, b.log)
	}
}

// Where payload does not flow all the time, it need not wait: the pauses
// are there.
func TestQuietClears(t *testing.T) {
	b := relayedBench(t)
	b.flow = false
	b.try(testKey)
	b.run(time.Minute)
	if len(b.pauses) != 0 || b.cur.primary != 2 {
		t.Errorf("payload waited %v, path %d in use", b.pauses, b.cur.primary)
	}

	// Of a tunnel the first answer tells both: that it is one, and that it is clear.
	b = relayedBench(t)
	b.flow = false
	b.said = probeMark{tunnel: true}
	b.try(testKey)
	b.run(b.rtt)
	if p := b.find(testKey); !p.inTunnel() || !p.clear(b.now) || len(b.pauses) != 0 {
		t.Errorf("%+v, payload waited %v", p.cleared, b.pauses)
	}

	// Nor do they clear a path that our own payload carries: it answers for each
	// probe that something has left.
	b = relayedBench(t)
	b.flow = false
	b.own[testKey] = true
	b.try(testKey)
	b.run(10 * time.Minute)
	if p := b.find(testKey); !p.cleared.barred || b.cur.primary != 1 {
		t.Errorf("%+v, path %d in use", p.cleared, b.cur.primary)
	}
}

// A path that something else carries takes over after one round trip more.
func TestTrialClears(t *testing.T) {
	for _, rtt := range []time.Duration{msec, 40 * msec, 700 * msec} {
		b := relayedBench(t)
		b.rtt = rtt
		b.try(testKey)
		b.run(2*rtt + 10*msec)
		if b.cur.primary != 2 {
			t.Errorf("round trip %v: path %d in use: %q", rtt, b.cur.primary, b.log)
		}
		b.run(10 * time.Minute)
		if len(b.pauses) != 1 || b.pauses[0] > rtt+10*msec || b.logged("barred") > 0 {
			t.Errorf("round trip %v: payload waited %v", rtt, b.pauses)
		}
	}
}

// The proof of a path in a tunnel does not last, as what carries the tunnel may
// change under it.
func TestTrialsOfTunnels(t *testing.T) {
	b := relayedBench(t)
	vpn := "tun0"
	b.tunnelOf = func(k key) string {
		if k == testKey {
			return vpn
		}
		return ""
	}
	b.try(testKey)
	b.run(10 * time.Minute)
	if n := len(b.pauses); n < 18 || n > 21 || slices.Max(b.pauses) > b.rtt {
		t.Errorf("payload waited %d times in ten minutes, at most %v", n, slices.Max(b.pauses))
	}
	b.own[testKey] = true
	b.run(clearFor + 10*time.Second)
	if p := b.find(testKey); !p.cleared.barred {
		t.Errorf("%+v %v after the tunnel went over to us", p.cleared, clearFor+10*time.Second)
	}
	if b.logged("route") != 0 {
		t.Errorf("moved: %q", b.log)
	}

	// Another route makes another path of it.
	b.own[testKey] = false
	vpn = ""
	b.run(routesEvery + probeEvery)
	if b.logged("cleared") != 1 || b.cur.primary != 2 {
		t.Errorf("path %d in use: %q", b.cur.primary, b.log)
	}
}

// Lost probes alone bar no path.
func TestTrialSurvivesLoss(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		b := relayedBench(t)
		b.lose = func(probe) bool { return r.Float64() < 0.3 }
		b.try(testKey)
		b.run(20 * time.Second)
		if b.logged("barred") > 0 {
			t.Errorf("run %d: %q", i, b.log)
		}
	}
}

// A path so slow that no trial would be long enough is not put on trial. A
// moment of silence clears it all the same.
func TestNoTrialOfSlowPath(t *testing.T) {
	b := relayedBench(t)
	b.rtt = trialMax
	b.try(testKey)
	b.run(5 * time.Minute)
	if len(b.pauses) != 0 || b.logged("barred") > 0 || b.cur.primary != 1 {
		t.Errorf("payload waited %v, path %d in use: %q", b.pauses, b.cur.primary, b.log)
	}
	b.flow = false
	b.run(10 * time.Second)
	if b.cur.primary != 2 {
		t.Errorf("path %d in use: %q", b.cur.primary, b.log)
	}
}

// A path alone is not put on trial: what would carry it?
func TestNoTrialAlone(t *testing.T) {
	b := newBench(t)
	b.flow = true
	b.try(testKey)
	b.run(10 * time.Minute)
	if len(b.pauses) != 0 || b.cur.primary != 1 {
		t.Errorf("payload waited %v, path %d in use", b.pauses, b.cur.primary)
	}
}

// When nothing else works any more, a barred path is tried again at once: what
// answers then is not carried by the path that has died.
func TestTrialWhenStranded(t *testing.T) {
	b := relayedBench(t)
	b.own[testKey] = true
	b.try(testKey)
	b.run(5 * time.Minute)
	if !b.find(testKey).cleared.barred {
		t.Fatal("not barred")
	}
	b.own[testKey] = false // it goes another way, and the relay dies
	b.silent = map[key]bool{relayedKey2: true}
	b.run(10 * time.Second)
	if b.cur.primary != 2 {
		t.Errorf("path %d in use: %q", b.cur.primary, b.log)
	}
}

// What silence makes doubtful is put on trial again, and a path in use that
// turns out to carry our own packets is left.
func TestTrialOfPathInUse(t *testing.T) {
	b := relayedBench(t)
	b.tunnelOf = func(k key) string { return "tun0" } // all of them
	b.flow = false
	b.try(testKey)
	b.run(10 * time.Second)
	if b.cur.primary != 2 {
		t.Fatalf("path %d in use", b.cur.primary)
	}
	b.flow = true
	b.own[testKey] = true
	b.log = nil
	b.run(clearFor + 10*time.Second)
	if b.logged("route 1+0 "+whyBarred) != 1 {
		t.Errorf("%q", b.log)
	}
}
