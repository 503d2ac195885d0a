package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/p2pagent/p2pagent/internal/session"
)

func TestNotBegun(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(ctx context.Context, target string, st Accepting)
		want  string
	}{
		{"refused", func(_ context.Context, _ string, st Accepting) { st.Refuse(session.CodeUnsupported, "too old") }, "too old"},
		{"no hello", func(_ context.Context, _ string, st Accepting) {
			readFrame(st, new(request))
			writeFrame(st, response{})
		}, "did not say hello"},
		{"not a frame", func(_ context.Context, _ string, st Accepting) { st.Write([]byte("HTTP/1.1 400 Bad Request")) }, "frame of"},
		{"not JSON", func(_ context.Context, _ string, st Accepting) { st.Write([]byte{0, 0, 0, 2, '{', '"'}) }, "frame: "},
		{"an error", func(_ context.Context, _ string, st Accepting) {
			readFrame(st, new(request))
			writeFrame(st, response{Error: strings.Repeat("no ", 1000)})
		}, "the peer says"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				n.b.serve = tt.serve
				r, err := Run(t.Context(), n.a, alice, short())
				if r != nil || err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 500 {
					t.Errorf("report %v, error %v, want %q", r, err, tt.want)
				}
				n.end(errGone)
			})
		})
	}
}

// What a peer reports is not believed where it cannot be.
func TestHostileReports(t *testing.T) {
	huge := Classes{Payload: math.MaxUint64}
	for name, tamper := range map[string]func(*half){
		"more than was sent":      func(h *half) { h.Received = 1 << 49; h.Counted = 1 << 48 },
		"more counted than came":  func(h *half) { h.Counted = h.Received + 1 },
		"many intervals":          func(h *half) { h.Intervals = make([]uint64, 10_000) },
		"intervals that overflow": func(h *half) { h.Intervals = []uint64{math.MaxUint64, math.MaxUint64} },
		"CPU time":                func(h *half) { h.CPU = 1e300 },
		"jitter":                  func(h *half) { v := -1.0; h.JitterMS = &v },
		"relay":                   func(h *half) { h.Relay, h.RelayIn = RelayTold, math.MaxUint64 },
		"counters":                func(h *half) { h.After.Out = map[string]Classes{Relayed: huge} },
		"kinds of path": func(h *half) {
			for i := range 1000 {
				h.After.Out[fmt.Sprint(i)] = Classes{}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				n.b.tampered(func(res *response) {
					if res.Half != nil {
						tamper(res.Half)
					}
				})
				plan := short()
				plan.Path = Direct
				r, err := Run(t.Context(), n.a, alice, plan)
				if err == nil || errors.Is(err, ErrNotMeasured) {
					t.Errorf("got %v, want what the peer reported", err)
				}
				if len(r.Rounds) != 1 || !strings.Contains(r.Rounds[0].Error, "the peer reported") || r.Direct != nil {
					t.Errorf("direct %v, rounds %+v", r.Direct, r.Rounds)
				}
			})
		})
	}
}

func TestHostileIntroduction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		n.b.tampered(func(res *response) {
			if res.Hello != nil {
				one, drops := 1.0, uint64(1)
				res.Hello = &End{
					Name: "\x1b[2Jbob\u202e\n" + strings.Repeat("x", 5000), Version: "v\x00", CPUDirect: &one, SocketDrops: &drops,
					Machine: Machine{CPU: strings.Repeat("\u00e4", 5000), CPUs: -5},
				}
			}
		})
		plan := short()
		plan.Path = Relayed
		r, err := Run(t.Context(), n.a, alice, plan)
		if err != nil {
			t.Fatal(err)
		}
		e := r.Receiver
		if !strings.HasPrefix(e.Name, "[2Jbobxxx") || len(e.Name) > 200 || e.Version != "v" || len(e.Machine.CPU) > 200 || e.Machine.CPUs != 0 {
			t.Errorf("taken from the peer: %+v", e)
		}
		if e.CPUDirect != nil || *e.SocketDrops != 0 {
			t.Errorf("figures from the peer's hello: %+v", e)
		}
	})
}

// tampered answers requests as a server would, and then not quite.
func (t *twin) tampered(tamper func(*response)) {
	honest := t.serve
	t.serve = func(ctx context.Context, target string, st Accepting) {
		if target != targetControl {
			honest(ctx, target, st)
			return
		}
		defer t.server.stopRound()
		for {
			var req request
			if readFrame(st, &req) != nil {
				st.CloseWrite()
				return
			}
			res, err := t.server.answer(ctx, &req)
			if err != nil {
				res.Error = err.Error()
			}
			tamper(&res)
			writeFrame(st, res)
		}
	}
}

// A peer cannot answer pings that have not come yet.
func TestPingsAnsweredBeforehand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		honest := n.b.serve
		n.b.serve = func(ctx context.Context, target string, st Accepting) {
			if target == targetEcho {
				var b [pingSize]byte
				for i := range uint64(2 * idlePings) {
					binary.BigEndian.PutUint64(b[:], i)
					st.Write(b[:])
				}
			}
			honest(ctx, target, st)
		}
		r, err := Run(t.Context(), n.a, alice, short())
		if err != nil {
			t.Fatal(err)
		}
		if least := slices.Min(r.Rounds[0].RTTs); least < 9.9 {
			t.Errorf("a round trip of %v ms on a line of 10", least)
		}
	})
}
