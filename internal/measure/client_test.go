package measure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// both are a good direct path and a poorer relayed one.
func both() map[string]*line {
	return map[string]*line{
		Direct:  {mbps: 80, delay: 5 * time.Millisecond, mtu: 1452},
		Relayed: {mbps: 20, delay: 20 * time.Millisecond, mtu: 1380},
	}
}

func relayedOnly() map[string]*line {
	lines := both()
	delete(lines, Direct)
	return lines
}

// short is a plan that shows everything in little time.
func short() Plan {
	return Plan{
		Options: Options{Seconds: 0.5, Skip: 0.1, Rounds: 1, Streams: 1, Direction: "send"},
		Wait:    2 * time.Second,
	}
}

var alice = End{Name: "alice", Version: "v1", Machine: Machine{OS: "linux", CPUs: 2}}

// near reports whether v is within a tenth of want.
func near(v, want float64) bool { return math.Abs(v-want) <= want/10 }

// wellFormed fails where a report says what cannot be.
func wellFormed(t *testing.T, r *Report) {
	t.Helper()
	for i, round := range r.Rounds {
		if round.Error != "" {
			t.Errorf("round %d: %s", i, round.Error)
		}
		if len(round.Intervals) == 0 || len(round.RTTs) != idlePings || len(round.LoadedRTTs) == 0 {
			t.Errorf("round %d: %d intervals, %d and %d pings", i, len(round.Intervals), len(round.RTTs), len(round.LoadedRTTs))
		}
		if round.Bytes == 0 || !near(round.Goodput, megabits(round.Bytes, round.Seconds)) {
			t.Errorf("round %d: %d bytes in %v s are not %v Mbit/s", i, round.Bytes, round.Seconds, round.Goodput)
		}
		if e := round.Elsewhere; e.Payload+e.Fragments+e.Replays > 0 {
			t.Errorf("round %d: %+v crossed the other path", i, e)
		}
		if !near(float64(round.Here.Payload), float64(round.Bytes)) && round.Loss != nil && *round.Loss == 0 {
			t.Errorf("round %d: %d bytes counted, %d on the path", i, round.Bytes, round.Here.Payload)
		}
		if round.CPUPerGB == nil && round.Bytes > 0 {
			t.Errorf("round %d: no CPU time", i)
		}
	}
}

func TestCompare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		plan := short()
		plan.Compare, plan.Rounds = true, 3
		r, err := Run(t.Context(), n.a, alice, plan)
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, r)
		var order []string
		for _, round := range r.Rounds {
			order = append(order, round.Path)
		}
		if want := []string{Direct, Relayed, Direct, Relayed, Direct, Relayed}; !slices.Equal(order, want) {
			t.Errorf("rounds of %v, want them in turn", order)
		}
		for i := 1; i < len(r.Rounds); i++ {
			if last := r.Rounds[i-1]; r.Rounds[i].Start < last.Start+0.5 {
				t.Errorf("round %d begins at %v, the last one at %v", i, r.Rounds[i].Start, last.Start)
			}
		}
		if !near(r.Direct.Goodput, 80) || !near(r.Relayed.Goodput, 20) {
			t.Errorf("%v and %v Mbit/s, want about 80 and 20", r.Direct.Goodput, r.Relayed.Goodput)
		}
		if !near(*r.Direct.RTT50, 10) || !near(*r.Relayed.RTT50, 40) {
			t.Errorf("round trips of %v and %v ms, want about 10 and 40", *r.Direct.RTT50, *r.Relayed.RTT50)
		}
		if *r.Direct.MTU != 1452 || *r.Relayed.MTU != 1380 {
			t.Errorf("MTU %d and %d", *r.Direct.MTU, *r.Relayed.MTU)
		}
		if r.Sender.Name != "alice" || r.Receiver.Name != "bob" || r.Receiver.Machine.CPUs != 3 {
			t.Errorf("from %+v to %+v", r.Sender, r.Receiver)
		}
		if r.Sender.CPUDirect == nil || r.Sender.CPURelayed == nil || r.Receiver.CPUDirect == nil {
			t.Error("no CPU time of the ends")
		}
		time.Sleep(time.Second)
		if held := n.held(); held != [2]string{} {
			t.Errorf("still held on %q", held)
		}
		if open := n.open(); open > 0 {
			t.Errorf("%d streams are open after all", open)
		}
	})
}

// What is on its way at the end of a round is payload that the relay still has
// to carry: its counters are read before the first byte and after the last.
func TestRelayCountsAllPayload(t *testing.T) {
	for _, direction := range []string{"send", "receive", "both"} {
		for _, owner := range []string{"alice", "bob"} {
			t.Run(direction+" over a relay of "+owner, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { relayCountsAllPayload(t, direction, owner) })
			})
		}
	}
}

func relayCountsAllPayload(t *testing.T, direction, owner string) {
	lines := relayedOnly()
	lines[Relayed].delay = 300 * time.Millisecond
	n := newNetwork(t, lines)
	n.relayLeg = 250 * time.Millisecond
	if owner == "alice" {
		n.relay = n.a
	}
	plan := short()
	plan.Path, plan.Direction = Relayed, direction
	r, err := Run(t.Context(), n.a, alice, plan)
	if err != nil {
		t.Fatal(err)
	}
	f := r.Relayed
	if f.PayloadBytes == 0 || *f.RelayBytesIn < f.PayloadBytes || !near(float64(*f.RelayBytesIn), float64(f.PayloadBytes)) {
		t.Errorf("%d bytes of payload, %d into the relay", f.PayloadBytes, *f.RelayBytesIn)
	}
}

func TestDirectionsAndStreams(t *testing.T) {
	for _, tt := range []struct {
		direction string
		streams   int
		goodput   float64
		sender    string
	}{
		{"send", 1, 80, "alice"},
		{"send", 8, 80, "alice"},
		{"receive", 1, 80, "bob"},
		{"receive", 8, 80, "bob"},
		{"both", 1, 160, "alice"},
		{"both", 4, 160, "alice"},
	} {
		t.Run(fmt.Sprintf("%s -P %d", tt.direction, tt.streams), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				plan := short()
				plan.Direction, plan.Streams, plan.Path = tt.direction, tt.streams, Direct
				r, err := Run(t.Context(), n.a, alice, plan)
				if err != nil {
					t.Fatal(err)
				}
				wellFormed(t, r)
				if !near(r.Direct.Goodput, tt.goodput) {
					t.Errorf("%v Mbit/s, want about %v", r.Direct.Goodput, tt.goodput)
				}
				if r.Relayed != nil {
					t.Error("figures of a path that nobody asked for")
				}
				if r.Sender.Name != tt.sender {
					t.Errorf("sender is %q, want %q", r.Sender.Name, tt.sender)
				}
				time.Sleep(time.Second)
				if open := n.open(); open > 0 {
					t.Errorf("%d streams are open after all", open)
				}
			})
		})
	}
}

func TestPathInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, relayedOnly())
		n.a.settled = true
		r, err := Run(t.Context(), n.a, alice, short())
		if err != nil {
			t.Fatal(err)
		}
		if r.Direct != nil || r.Relayed == nil || r.Rounds[0].Path != Relayed {
			t.Errorf("direct %v, relayed %v: want the path in use", r.Direct, r.Relayed)
		}
	})
}

// A link that ends, or never works, before a path was chosen.
func TestNoPathInUse(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*network)
		want error
		by   time.Duration
	}{
		{"the session ends", func(n *network) { n.drop(Relayed); n.end(errGone) }, errGone, time.Second},
		{"no path works", func(n *network) { n.drop(Relayed) }, ErrNotMeasured, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, relayedOnly())
				n.beside = true
				time.AfterFunc(500*time.Millisecond, func() { tt.end(n) })
				began := time.Now()
				r, err := Run(t.Context(), n.a, alice, short())
				if !errors.Is(err, tt.want) || r == nil || len(r.Rounds) > 0 {
					t.Errorf("report %v, error %v, want %v", r, err, tt.want)
				}
				if took := time.Since(began); took > tt.by {
					t.Errorf("took %v", took)
				}
				n.end(errGone)
			})
		})
	}
}

// What a slow line has not taken at the end of a round was not sent, and does
// not make the round longer.
func TestSlowLine(t *testing.T) {
	for _, tt := range []struct {
		mbps    float64
		streams int
	}{{0.1, 1}, {1, 16}, {8, 64}} {
		for _, direction := range []string{"send", "receive"} {
			t.Run(fmt.Sprintf("%d streams %s over %v Mbit/s", tt.streams, direction, tt.mbps), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t, map[string]*line{Direct: {mbps: tt.mbps, delay: 30 * time.Millisecond, mtu: 1400}})
					plan := short()
					plan.Seconds, plan.Skip, plan.Streams, plan.Direction = 2, 0.5, tt.streams, direction
					began := time.Now()
					r, err := Run(t.Context(), n.a, alice, plan)
					if err != nil {
						t.Fatal(err)
					}
					if took := time.Since(began); took > 12*time.Second {
						t.Errorf("took %v for one round of 2 s", took)
					}
					if got := r.Direct.Goodput; math.Abs(got-tt.mbps) > tt.mbps/4 {
						t.Errorf("%v Mbit/s, want about %v", got, tt.mbps)
					}
				})
			})
		}
	}
}

// On a line with a long delay all arrives, and nothing is taken for lost or for
// the next round's.
func TestLongDelay(t *testing.T) {
	for _, udp := range []float64{0, 1} {
		for _, direction := range []string{"send", "receive", "both"} {
			for _, rtt := range []time.Duration{600 * time.Millisecond, 2400 * time.Millisecond} {
				t.Run(fmt.Sprintf("%v Mbit/s of datagrams, %s, %v", udp, direction, rtt), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := newNetwork(t, map[string]*line{Direct: {mbps: 1, delay: rtt / 2, mtu: 1400}})
						plan := short()
						plan.Seconds, plan.Skip, plan.UDPMbps, plan.Direction, plan.Rounds = 2, 0.5, udp, direction, 2
						plan.Wait = 20 * time.Second
						r, err := Run(t.Context(), n.a, alice, plan)
						if err != nil {
							t.Fatal(err)
						}
						want := 1.0
						if direction == "both" {
							want = 2
							if r.Direct.Sent == nil || r.Direct.Received == nil || !near(*r.Direct.Sent, 1) || !near(*r.Direct.Received, 1) {
								t.Errorf("%v and %v Mbit/s, want 1 each", show(r.Direct.Sent), show(r.Direct.Received))
							}
						}
						for i, round := range r.Rounds {
							if !near(round.Goodput, want) || udp > 0 && (*round.Loss != 0 || *round.Jitter > 2) {
								t.Errorf("round %d: %v Mbit/s, want %v; loss %v, jitter %v", i, round.Goodput, want, show(round.Loss), show(round.Jitter))
							}
						}
					})
				})
			}
		}
	}
}

// The peer is free for the next measurement when one has returned.
func TestOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		for i := range 3 {
			if _, err := Run(t.Context(), n.a, alice, short()); err != nil {
				t.Errorf("measurement %d: %v", i+1, err)
			}
		}
	})
}

func TestDatagrams(t *testing.T) {
	for _, tt := range []struct {
		name      string
		direction string
		mbps      float64
		lose      int
		most      int
		loss      float64
		goodput   float64
	}{
		{"all arrive", "send", 10, 0, 1200, 0, 10},
		{"one in four is lost", "send", 10, 4, 1200, 0.25, 7.5},
		{"received", "receive", 10, 4, 1200, 0.25, 7.5},
		{"both ways", "both", 10, 5, 1200, 0.2, 16},
		{"small packets", "send", 10, 0, 550, 0, 5}, // the rate is of whole datagrams
		{"more than the line takes", "send", 1000, 0, 1200, 0, 80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lines := both()
				lines[Direct].lose = tt.lose
				n := newNetwork(t, lines)
				n.a.maxDatagram, n.b.maxDatagram = tt.most, tt.most
				plan := short()
				plan.UDPMbps, plan.Direction, plan.Path = tt.mbps, tt.direction, Direct
				r, err := Run(t.Context(), n.a, alice, plan)
				if err != nil {
					t.Fatal(err)
				}
				wellFormed(t, r)
				if !near(r.Direct.Goodput, tt.goodput) {
					t.Errorf("%v Mbit/s, want about %v", r.Direct.Goodput, tt.goodput)
				}
				if r.Direct.Loss == nil || math.Abs(*r.Direct.Loss-tt.loss) > 0.01 {
					t.Errorf("loss %v, want %v", show(r.Direct.Loss), tt.loss)
				}
				if r.Direct.Jitter == nil || *r.Direct.Jitter > 5 {
					t.Errorf("jitter of %v ms", show(r.Direct.Jitter))
				}
			})
		})
	}
}

func show(v *float64) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprint(*v)
}

func TestNoDirectPath(t *testing.T) {
	for _, settled := range []bool{true, false} {
		t.Run(fmt.Sprintf("settled %v", settled), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, relayedOnly())
				n.a.settled = settled
				plan := short()
				plan.Compare, plan.Rounds, plan.Wait = true, 2, 20*time.Second
				began := time.Now()
				r, err := Run(t.Context(), n.a, alice, plan)
				if !errors.Is(err, ErrNotMeasured) || !strings.Contains(fmt.Sprint(err), "direct path") {
					t.Fatalf("got %v, want that the direct path was not measured", err)
				}
				if r.Direct != nil || r.Relayed == nil || len(r.Rounds) != 2 {
					t.Fatalf("direct %v, relayed %v, %d rounds", r.Direct, r.Relayed, len(r.Rounds))
				}
				if !near(r.Relayed.Goodput, 20) || r.Verdict != (trace.Verdict{Path: "relayed", Text: "relayed: no direct path", Remedy: "open a port"}) {
					t.Errorf("%v Mbit/s, %+v", r.Relayed.Goodput, r.Verdict)
				}
				if took := time.Since(began); settled && took > 10*time.Second {
					t.Errorf("took %v, with a verdict from the start", took)
				}
			})
		})
	}
}

// The direct path may come about at any moment of looking for it.
func TestDirectPathComes(t *testing.T) {
	for at := 20 * time.Millisecond; at < 400*time.Millisecond; at += 10 * time.Millisecond {
		t.Run(at.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, relayedOnly())
				time.AfterFunc(at, func() { n.give(Direct, both()[Direct]) })
				plan := short()
				plan.Compare = true
				r, err := Run(t.Context(), n.a, alice, plan)
				if err != nil || r.Direct == nil || r.Relayed == nil {
					t.Errorf("direct %v, relayed %v, error %v", r.Direct, r.Relayed, err)
				}
			})
		})
	}
}

func TestForbiddenPath(t *testing.T) {
	for _, side := range []string{"measuring", "other"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				n.a.forbidden = Relayed
				if side == "other" {
					n.a.forbidden, n.b.forbidden = "", Relayed
				}
				plan := short()
				plan.Compare = true
				r, err := Run(t.Context(), n.a, alice, plan)
				if !errors.Is(err, ErrNotMeasured) || !strings.Contains(fmt.Sprint(err), "not permitted") {
					t.Errorf("got %v, want that the relayed path is not permitted", err)
				}
				if r.Direct == nil || r.Relayed != nil {
					t.Errorf("direct %v, relayed %v", r.Direct, r.Relayed)
				}
			})
		})
	}
}

// A path that goes away in the middle spoils a round, and is not measured in
// the next; the other one's figures stay.
func TestPathLostMidRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		plan := short()
		plan.Compare, plan.Seconds = true, 2
		time.AfterFunc(1500*time.Millisecond, func() { n.drop(Direct) })
		plan.Rounds = 10
		began := time.Now()
		r, err := Run(t.Context(), n.a, alice, plan)
		if !errors.Is(err, ErrNotMeasured) || !strings.Contains(r.Missing[Direct], "no round had a result") {
			t.Errorf("got %v, %q, want that the direct path was not measured", err, r.Missing)
		}
		if len(r.Rounds) != maxFailing+10 || r.Rounds[0].Error == "" || r.Direct != nil {
			t.Errorf("direct figures %v from %d rounds", r.Direct, len(r.Rounds))
		}
		if took := time.Since(began); took > 70*time.Second {
			t.Errorf("took %v", took)
		}
		if r.Relayed == nil || !near(r.Relayed.Goodput, 20) {
			t.Errorf("relayed figures %+v", r.Relayed)
		}
	})
}

func TestCancelled(t *testing.T) {
	why := errors.New("the user has seen enough")
	for _, tt := range []struct {
		name   string
		silent bool // the peer says nothing more meanwhile
		udp    float64
	}{{"streams", false, 0}, {"datagrams", false, 10}, {"streams, silent peer", true, 0}, {"datagrams, silent peer", true, 10}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				plan := short()
				plan.Compare, plan.Rounds, plan.Seconds, plan.UDPMbps = true, 2, 5, tt.udp
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(15*time.Second, func() {
					if tt.silent {
						n.hush()
					}
				})
				time.AfterFunc(16*time.Second, func() { cancel(why) })
				began := time.Now()
				r, err := Run(ctx, n.a, alice, plan)
				if !errors.Is(err, why) {
					t.Errorf("got %v, want %v", err, why)
				}
				if took := time.Since(began); took > 16100*time.Millisecond {
					t.Errorf("took %v to end after 16 s", took)
				}
				if len(r.Rounds) != 2 || r.Direct == nil || r.Relayed == nil {
					t.Errorf("%d rounds, direct %v, relayed %v: want what was measured before", len(r.Rounds), r.Direct, r.Relayed)
				}
				if r.Cut != why.Error() || len(r.Missing) > 0 {
					t.Errorf("cut by %q, missing %q", r.Cut, r.Missing)
				}
				n.end(errGone)
			})
		})
	}
}

// A path that no round was measured of has the reason in the report, and the page of it
// says that it is not whole.
func TestCancelledBeforeTheSecondPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		plan := short()
		plan.Compare, plan.Rounds, plan.Seconds = true, 2, 5
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(9*time.Second, func() { cancel(errors.New("interrupted")) })
		r, err := Run(ctx, n.a, alice, plan)
		if err == nil || r.Direct == nil || r.Relayed != nil {
			t.Fatalf("%v, direct %v, relayed %v", err, r.Direct, r.Relayed)
		}
		if got := r.Missing[Relayed]; got != "it ended before a round of it did: interrupted" {
			t.Errorf("the relayed path is missing because %q", got)
		}
		tells(t, r, "The relayed path was not measured. It ended early, after 1 round: interrupted.", r.Missing[Relayed])
		n.end(errGone)
	})
}

// Whenever a comparison ends, its verdict is on the link, and not on where payload was
// held to measure.
func TestVerdictIsNotOnTheMeasurement(t *testing.T) {
	ends := []time.Duration{time.Hour}
	for at := 100 * time.Millisecond; at < 14*time.Second; at += 130 * time.Millisecond {
		ends = append(ends, at)
	}
	for _, at := range ends {
		t.Run(at.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				plan := short()
				plan.Compare, plan.Rounds, plan.Seconds = true, 2, 2
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(at, cancel)
				r, err := Run(ctx, n.a, alice, plan)
				if r == nil {
					t.Skipf("nothing to report: %v", err)
				}
				if want := (trace.Verdict{Path: "direct", Text: "direct: punched"}); r.Verdict != want {
					t.Errorf("%+v after %d rounds, want %+v", r.Verdict, len(r.Rounds), want)
				}
				cancel()
				n.end(errGone)
			})
		})
	}
}

// A peer that vanishes ends the measurement; the rounds before it are told.
func TestPeerVanishes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		vanish func(*network)
		within time.Duration
	}{
		{"the session ends", func(n *network) { n.end(errGone) }, 100 * time.Millisecond},
		{"silence", (*network).hush, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				plan := short()
				plan.Compare, plan.Rounds, plan.Seconds = true, 5, 5
				time.AfterFunc(16*time.Second, func() { tt.vanish(n) })
				began := time.Now()
				r, err := Run(t.Context(), n.a, alice, plan)
				if err == nil || errors.Is(err, ErrNotMeasured) {
					t.Errorf("got %v, want the reason", err)
				}
				if took := time.Since(began) - 16*time.Second; took > tt.within {
					t.Errorf("noticed after %v, want %v at most", took, tt.within)
				}
				if len(r.Rounds) != 2 || r.Direct == nil || r.Relayed == nil {
					t.Errorf("%d rounds, direct %v, relayed %v: want what was measured before", len(r.Rounds), r.Direct, r.Relayed)
				}
				n.end(errGone)
			})
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		var mu sync.Mutex
		rates := map[string][]float64{}
		var last Progress
		plan := short()
		plan.Compare, plan.Seconds = true, 3
		plan.Progress = func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			rates[p.Path] = append(rates[p.Path], p.Mbps)
			last = p
		}
		if _, err := Run(t.Context(), n.a, alice, plan); err != nil {
			t.Fatal(err)
		}
		if kinds := slices.Sorted(maps.Keys(rates)); !slices.Equal(kinds, []string{Direct, Relayed}) {
			t.Fatalf("progress of %v", kinds)
		}
		if len(rates[Direct]) < 2 || !near(rates[Direct][1], 80) {
			t.Errorf("progress of %v Mbit/s, want about 80 each second", rates[Direct])
		}
		if last.Round != 2 || last.Rounds != 2 || last.Remaining > time.Second {
			t.Errorf("ends with %+v", last)
		}
	})
}
