package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

// A hand is a measuring side that does as the test says.
type hand struct {
	t       *testing.T
	link    *twin
	control Stream
}

// byHand greets b's server from a.
func byHand(t *testing.T, n *network) *hand {
	h := &hand{t: t, link: n.a, control: n.a.open(t, targetControl)}
	if res := h.ask(request{Hello: &End{Version: "v1"}}); res.Hello == nil || res.Hello.Name != "bob" {
		t.Fatalf("hello is answered with %+v", res)
	}
	return h
}

func (t *twin) open(tb testing.TB, target string) Stream {
	tb.Helper()
	st, err := t.Open(context.Background(), target)
	if err != nil {
		tb.Fatal(err)
	}
	st.SetDeadline(time.Now().Add(time.Minute))
	return st
}

func (h *hand) ask(req request) (res response) {
	h.t.Helper()
	h.control.SetDeadline(time.Now().Add(time.Minute))
	if err := writeFrame(h.control, req); err != nil {
		h.t.Fatal(err)
	}
	if err := readFrame(h.control, &res); err != nil {
		h.t.Fatal(err)
	}
	return res
}

func (h *hand) end() {
	h.control.CloseWrite()
	if _, err := h.control.Read(make([]byte, 1)); err != io.EOF {
		h.t.Errorf("control ends with %v, want its end", err)
	}
}

// good is a round that is in order.
func good() roundSpec {
	return roundSpec{ID: "round", Path: Direct, Seconds: 0.5, Skip: 0.1, Streams: 1, Send: true}
}

func TestBadRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		h := byHand(t, n)
		defer h.end()
		other, bad := "carrier pigeon", good()
		bad.Seconds = 1e9
		for name, tt := range map[string]struct {
			req  request
			want string
		}{
			"nothing":                 {request{}, "not known"},
			"path of an unknown kind": {request{Hold: &other}, "carrier pigeon"},
			"endless round":           {request{Start: &bad}, "allowed"},
			"finish of no round":      {request{Finish: "round"}, "no such round"},
		} {
			if res := h.ask(tt.req); !strings.Contains(res.Error, tt.want) {
				t.Errorf("%s: %+v, want %q", name, res, tt.want)
			}
		}
		if res := h.ask(request{Look: true}); res.Look == nil || res.Look.Active != Direct {
			t.Errorf("after all that a look is %+v", res)
		}
	})
}

// What is no request ends the control stream, and what was held is let go.
func TestBadFrames(t *testing.T) {
	for name, frame := range map[string][]byte{
		"oversized":  binary.BigEndian.AppendUint32(nil, maxFrame+1),
		"enormous":   {0xff, 0xff, 0xff, 0xff, '{'},
		"not JSON":   append(binary.BigEndian.AppendUint32(nil, 3), "{{{"...),
		"wrong type": append(binary.BigEndian.AppendUint32(nil, 14), `{"look":"yes"}`...),
		"empty":      {0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				h := byHand(t, n)
				kind := Relayed
				h.ask(request{Hold: &kind})
				h.control.Write(frame)
				_, err := h.control.Read(make([]byte, 1))
				var reset *session.ResetError
				if !errors.As(err, &reset) || reset.Code != session.CodeProtocol {
					t.Errorf("ends with %v, want a protocol error", err)
				}
				synctest.Wait()
				if held := n.held(); held[1] != "" {
					t.Errorf("still held on %q", held[1])
				}
			})
		})
	}
}

func TestOneMeasurementAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		h := byHand(t, n)
		second := n.a.open(t, targetControl)
		var refused *session.RefusedError
		if _, err := second.Read(make([]byte, 1)); !errors.As(err, &refused) || refused.Code != session.CodeLimit {
			t.Errorf("a second measurement is answered with %v, want a limit", err)
		}
		h.end()
		byHand(t, n).end()
	})
}

func TestStreamsOfNoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		h := byHand(t, n)
		defer h.end()
		refused := func(target string) {
			t.Helper()
			var refused *session.RefusedError
			if _, err := n.a.open(t, target).Read(make([]byte, 1)); !errors.As(err, &refused) {
				t.Errorf("%s is answered with %v, want a refusal", target, err)
			}
		}
		refused("shell")
		refused(targetSend + "round") // none runs
		spec := good()
		if res := h.ask(request{Start: &spec}); res.Error != "" {
			t.Fatal(res.Error)
		}
		refused(targetReceive + "other")
		refused(targetReceive)
		time.Sleep(2 * time.Second)
		refused(targetReceive + "round") // is over
		if res := h.ask(request{Finish: "other"}); res.Error == "" {
			t.Error("another round than the one that ran was finished")
		}
		spec.UDPMbps = 1
		h.ask(request{Start: &spec})
		refused(targetReceive + "round") // has datagrams
		if res := h.ask(request{Finish: "round"}); res.Half == nil {
			t.Errorf("finished with %+v", res)
		}
	})
}

func TestTooManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		h := byHand(t, n)
		defer h.end()
		spec := good()
		h.ask(request{Start: &spec})
		ends := make(chan error, 3*MaxStreams)
		for range cap(ends) {
			st := n.a.open(t, targetReceive+"round")
			go func() {
				st.CloseWrite()
				ends <- awaitEnd(st)
			}()
		}
		refused := 0
		for range cap(ends) {
			if err := <-ends; err != nil {
				refused++
			}
		}
		if refused != MaxStreams {
			t.Errorf("%d of %d streams refused, want all beyond %d", refused, cap(ends), 2*MaxStreams)
		}
		if res := h.ask(request{Finish: "round"}); res.Half == nil || res.Half.Received != 0 {
			t.Errorf("finished with %+v", res)
		}
	})
}

// A measuring side that begins round after round, and never ends a stream,
// holds no more than one round's.
func TestRoundsThatAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		h := byHand(t, n)
		spec := good()
		for i := range 200 {
			spec.ID = fmt.Sprint(i)
			if res := h.ask(request{Start: &spec}); res.Error != "" {
				t.Fatal(res.Error)
			}
			n.a.open(t, targetReceive+spec.ID)
		}
		time.Sleep(50 * time.Millisecond)
		if open := n.open(); open > 2 { // this and control
			t.Errorf("%d streams are open", open)
		}
		h.end()
		time.Sleep(50 * time.Millisecond)
		if open := n.open(); open > 0 {
			t.Errorf("%d streams are open after the measuring side has left", open)
		}
	})
}

// A measuring side that says nothing more loses its place.
func TestSilentMeasuringSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		h := byHand(t, n)
		kind, spec := Relayed, good()
		h.ask(request{Hold: &kind})
		h.ask(request{Start: &spec})
		st := n.a.open(t, targetSend+"round")
		go io.Copy(io.Discard, st)
		time.Sleep(requestWithin + time.Second)
		if held := n.held(); held[1] != "" || n.open() > 0 {
			t.Errorf("held on %q, %d streams open", held[1], n.open())
		}
		st.Reset(session.CodeReset)
		byHand(t, n).end()
	})
}

// The end of a server's context ends what it serves.
func TestServerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		ctx, cancel := context.WithCancel(t.Context())
		n.b.serve = func(_ context.Context, target string, st Accepting) { n.b.server.Serve(ctx, target, st) }
		h := byHand(t, n)
		spec := good()
		h.ask(request{Start: &spec})
		n.a.open(t, targetReceive+"round")
		n.a.open(t, targetEcho)
		time.Sleep(10 * time.Millisecond)
		cancel()
		synctest.Wait()
		if open := n.open(); open > 0 {
			t.Errorf("%d streams are open", open)
		}
	})
}

// A peer that allows no further streams costs a round, or the measurement, and
// no more time than these.
func TestPeerAllowsNoStreams(t *testing.T) {
	for target, want := range map[string]string{
		targetControl: "begin to measure", targetEcho: "deadline", targetSend: "deadline", targetReceive: "deadline",
	} {
		t.Run(target, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, both())
				n.a.denied = target
				plan := short()
				plan.Path, plan.Direction = Direct, "both"
				began := time.Now()
				r, err := Run(t.Context(), n.a, alice, plan)
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("took %v", took)
				}
				if r != nil && len(r.Rounds) == 1 {
					err = errors.Join(err, errors.New(r.Rounds[0].Error))
				}
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("report %+v, error %v, want %q", r, err, want)
				}
			})
		})
	}
}

func TestPayloadWhereNoneBelongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, both())
		honest := n.b.serve
		n.b.serve = func(ctx context.Context, target string, st Accepting) {
			if strings.HasPrefix(target, targetReceive) {
				st.Write([]byte("surprise"))
				io.Copy(io.Discard, st)
				return
			}
			honest(ctx, target, st)
		}
		plan := short()
		plan.Path = Direct
		r, err := Run(t.Context(), n.a, alice, plan)
		if err == nil || len(r.Rounds) != 1 || !strings.Contains(r.Rounds[0].Error, "payload from the side that takes it") {
			t.Errorf("rounds %+v, error %v", r, err)
		}
		n.end(errGone)
	})
}
