package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/punch"
)

// everyMessage has one of each kind.
func everyMessage() []*message {
	list := []candidates.Candidate{{Type: candidates.Host, Addr: netip.MustParseAddrPort("10.0.0.1:5000")}}
	return []*message{
		{Offer: &offer{Link: linkID{1}, Key: make([]byte, keyBytes)}},
		{Offer: &offer{Link: linkID{1}, Resume: true}},
		{Answer: &answer{Link: linkID{1}, Resumed: true}},
		{Candidates: &announcement{Generation: 1, List: list, NAT: &natFacts{Mapping: candidates.EndpointIndependent}}},
		{Relay: &relayedAt{netip.MustParseAddrPort("192.0.2.1:50000")}},
		{Attempt: &attemptMessage{ID: "a", ICE: punch.NewCredentials(), Candidates: list}},
		{Opened: &attemptRef{ID: "a"}}, {Selected: &attemptRef{ID: "a"}}, {Failed: &attemptRef{ID: "a", Why: "why"}},
		{Want: &want{punch.TriggerNetwork}}, {Bind: &bindRequest{"r0", "127.0.0.1:80"}}, {Bound: &bindAnswer{ID: "r0", Addr: "127.0.0.1:80"}},
		{Targets: &targetsQuestion{"t1", []string{"localhost:22"}}}, {Denied: &targetsAnswer{"t1", []string{"localhost:22"}}},
		{Rival: &rival{}}, {Awake: &awake{SleptMS: 200_000}}, {Bye: &bye{"bye"}},
	}
}

func TestMessageRoundTrip(t *testing.T) {
	names := make(map[string]bool)
	for i, m := range everyMessage() {
		m.Seq = uint64(i + 1)
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeMessage(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: got %+v %v, want %+v", b, got, err, m)
		}
		names[m.name()] = true
	}
	// One name for each pointer of the union.
	if want := reflect.TypeFor[message]().NumField() - 1; len(names) != want || names[""] {
		t.Errorf("%d names for %d kinds of messages: %v", len(names), want, names)
	}
}

func TestDecodeMessageRefuses(t *testing.T) {
	many := `{"seq":1,"candidates":{"generation":1,"list":[` + strings.TrimSuffix(strings.Repeat(`{"type":"host","addr":"10.0.0.1:5"},`, 200), ",") + `]}}`
	for name, in := range map[string]string{
		"not JSON":             `{`,
		"another type":         `[]`,
		"short key":            `{"seq":1,"offer":{"link":"00000000000000000000000000000000","key":"AAAA"}}`,
		"no key":               `{"seq":1,"offer":{"link":"00000000000000000000000000000000"}}`,
		"short link id":        `{"seq":1,"answer":{"link":"00"}}`,
		"relay without port":   `{"seq":1,"relay":{"addr":"192.0.2.1:0"}}`,
		"relay without addr":   `{"seq":1,"relay":{}}`,
		"attempt without id":   `{"seq":1,"attempt":{"ice":{"ufrag":"abcd","pwd":"abcdefghijklmnopqrstuv"}}}`,
		"attempt, short pwd":   `{"seq":1,"attempt":{"id":"x","ice":{"ufrag":"abcd","pwd":"short"}}}`,
		"attempt, no ufrag":    `{"seq":1,"attempt":{"id":"x","ice":{"pwd":"abcdefghijklmnopqrstuv"}}}`,
		"unusable candidate":   `{"seq":1,"candidates":{"generation":1,"list":[{"type":"host","addr":"nonsense"}]}}`,
		"targets without id":   `{"seq":1,"targets":{"targets":["localhost:22"]}}`,
		"too many targets":     `{"seq":1,"targets":{"id":"x","targets":[` + strings.Repeat(`"a:1",`, maxTargets) + `"a:1"]}}`,
		"a long target":        `{"seq":1,"targets":{"id":"x","targets":["` + strings.Repeat("a", maxTargetText+1) + `"]}}`,
		"two members":          `{"seq":1,"bye":{"why":"x"},"want":{"trigger":"x"}}`,
		"larger than the most": `{"seq":1,"bye":{"why":"` + strings.Repeat("a", maxMessage) + `"}}`,
	} {
		if _, err := decodeMessage([]byte(in)); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	m, err := decodeMessage([]byte(many))
	if err != nil || len(m.Candidates.List) != maxCandidates {
		t.Errorf("200 candidates: %v, want the first %d", err, maxCandidates)
	}
	if m, err := decodeMessage([]byte(`{"seq":1,"from_the_future":{"x":1}}`)); err != nil || m.name() != "" {
		t.Errorf("unknown message: %+v %v, want it ignored", m, err)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for i, m := range everyMessage() {
		m.Seq = uint64(i)
		b, _ := json.Marshal(m)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err != nil {
			return
		}
		if m.Candidates != nil && len(m.Candidates.List) > maxCandidates || m.Attempt != nil && len(m.Attempt.Candidates) > maxCandidates {
			t.Error("more candidates than are kept")
		}
	})
}

func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []uint64
		want string // y for new, n for seen
	}{
		{"in order", []uint64{1, 2, 3}, "yyy"},
		{"copies", []uint64{1, 1, 2, 1, 2}, "ynynn"},
		{"out of order", []uint64{3, 1, 2, 3, 2}, "yyynn"},
		{"gap", []uint64{1, 100, 50, 100, 1}, "yyynn"},
		{"zero is never valid", []uint64{0, 1, 0}, "nyn"},
		{"too far behind", []uint64{1000, 1000 - seenWindow, 1000 - seenWindow + 1}, "yny"},
		{"far ahead", []uint64{1, 1 << 60, 1, 1<<60 - 5, 1<<60 - 5}, "yynyn"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var w window
			var got strings.Builder
			for _, n := range tt.in {
				got.WriteByte(map[bool]byte{true: 'y', false: 'n'}[w.add(n)])
			}
			if got.String() != tt.want {
				t.Errorf("%v: %s, want %s", tt.in, got.String(), tt.want)
			}
		})
	}
}

// What is sent by two ways arrives once; what is sent by none waits; a way that
// breaks hands over; and a way that is stuck holds up nobody.
func TestPost(t *testing.T) {
	a, b := newPost(nil), newPost(nil)
	defer a.shut()
	got := make(chan string, 100)
	deliver := func(via string) func(context.Context, []byte) error {
		return func(_ context.Context, body []byte) error {
			if m, fresh := b.receive(via, body); fresh {
				got <- m.name()
			}
			return nil
		}
	}
	expect := func(want ...string) {
		t.Helper()
		seen := make(map[string]bool)
		for range want {
			select {
			case name := <-got:
				seen[name] = true
			case <-time.After(patience):
				t.Fatalf("only %v of %v arrived", seen, want)
			}
		}
		for _, w := range want {
			if !seen[w] {
				t.Errorf("%s did not arrive, but %v", w, seen)
			}
		}
	}
	a.send(&message{Bye: &bye{}})
	a.send(&message{Want: &want{}})
	a.open(viaSignaling, deliver(viaSignaling))
	expect("bye", "want")
	a.open(viaControl, deliver(viaControl))
	a.send(&message{Relay: &relayedAt{netip.MustParseAddrPort("192.0.2.1:5")}})
	expect("relay")
	a.alive.Store(true)
	a.open(viaControl, func(context.Context, []byte) error { return errors.New("broken") })
	a.send(&message{Opened: &attemptRef{ID: "x"}})
	expect("opened")
	a.alive.Store(false)
	a.open(viaControl, func(ctx context.Context, _ []byte) error { <-ctx.Done(); return ctx.Err() })
	for range 3 * wayQueue {
		a.send(&message{Selected: &attemptRef{ID: "x"}})
		expect("selected")
	}
	if len(got) != 0 {
		t.Errorf("%d copies too many", len(got))
	}
}

func TestBackoffs(t *testing.T) {
	for name, f := range map[string]func(int) int64{
		"link":       func(n int) int64 { return linkBackoff(n).Milliseconds() },
		"heal":       func(n int) int64 { return healBackoff(n, false).Milliseconds() },
		"allocation": func(n int) int64 { return allocationBackoff(n).Milliseconds() },
	} {
		last := int64(0)
		for n := 1; n < 100; n++ {
			d := f(n)
			if d < last || d < 100 || d > 30_000 {
				t.Errorf("%s backoff %d is %d ms after %d ms", name, n, d, last)
			}
			last = d
		}
	}
}

func TestRelayPeers(t *testing.T) {
	list := []candidates.Candidate{}
	for _, a := range []string{"10.0.0.1:5", "198.51.100.2:5", "198.51.100.2:6", "127.0.0.1:5", "169.254.1.1:5", "[2001:db8::1]:5"} {
		list = append(list, candidates.Candidate{Type: candidates.Host, Addr: netip.MustParseAddrPort(a)})
	}
	got := relayPeers(list, netip.MustParseAddr("192.0.2.1"))
	if fmt.Sprint(got) != "[192.0.2.1 198.51.100.2]" {
		t.Errorf("permits %v: the relay itself and the public address, once each", got)
	}
}
