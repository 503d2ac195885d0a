package trace

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type closer struct{ io.Writer }

func (closer) Close() error { return nil }

// Every event type comes back from a file as what was put in.
func TestRoundTrip(t *testing.T) {
	var out bytes.Buffer
	f := NewFile(closer{&out})
	rec := New("a", f)
	sent := append([]Event{}, schema...)
	sent = append(sent,
		Candidate{Remote: true, Type: "srflx", Addr: netip.MustParseAddrPort("198.51.100.2:5000"), Refused: "loopback"},
		PathChanged{To: &Path{ID: 3, Kind: "direct"}, Why: "direct path proved"})
	for _, e := range sent {
		rec.ForPeer("bob").Emit(e)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var got []Event
	for r, err := range Read(&out) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Node != "a" || r.Peer != "bob" || r.Time.IsZero() || r.Since < 0 {
			t.Errorf("circumstances lost: %+v", r)
		}
		got = append(got, r.Event)
	}
	if !reflect.DeepEqual(got, sent) {
		t.Errorf("got %+v\nwant %+v", got, sent)
	}
}

// What is recorded in one sink has the circumstances that it would have in all.
func TestEmitTo(t *testing.T) {
	var all, one []Record
	first := SinkFunc(func(r Record) { one = append(one, r) })
	rec := New("a", first, SinkFunc(func(r Record) { all = append(all, r) }))
	rec.Emit(PeerState{})
	rec.EmitTo(first, Paired{})
	if len(all) != 1 || len(one) != 2 {
		t.Fatalf("%d records in a sink that was to have one, %d in that of two", len(all), len(one))
	}
	if r := one[1]; r.Event != (Paired{}) || r.Node != "a" || r.Time.IsZero() || r.Since < one[0].Since {
		t.Errorf("%+v, after %+v", r, one[0])
	}
}

func TestReadNewerAndBroken(t *testing.T) {
	in := `{"time":"2026-01-02T03:04:05Z","since_ns":1,"node":"a","event":"from.the.future","data":{"x":1}}` + "\nnot json\n"
	var events []Event
	var errs []string
	for r, err := range Read(strings.NewReader(in)) {
		if err != nil {
			errs = append(errs, err.Error())
			continue
		}
		events = append(events, r.Event)
	}
	if len(events) != 1 || events[0].EventName() != "from.the.future" {
		t.Errorf("events %v", events)
	}
	if len(errs) != 1 || !strings.Contains(errs[0], "line 2") {
		t.Errorf("errors %q, want one that names line 2", errs)
	}
}

type stuck struct{ release chan struct{} }

func (s stuck) Write(b []byte) (int, error) { <-s.release; return len(b), nil }
func (s stuck) Close() error                { return nil }

// A sink that does not move must not hold up the link; what is lost is told.
func TestStuckFileDropsAndSaysSo(t *testing.T) {
	w := stuck{make(chan struct{})}
	f := NewFile(w)
	rec := New("a", f)
	for range 3 * fileQueue {
		rec.Emit(PeerState{})
	}
	close(w.release)
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "dropped") {
		t.Errorf("Close: %v, want a count of dropped events", err)
	}
}

type failing struct{}

var errFull = errors.New("no space left")

func (failing) Write([]byte) (int, error) { return 0, errFull }
func (failing) Close() error              { return nil }

func TestWriteErrorIsReported(t *testing.T) {
	f := NewFile(failing{})
	New("a", f).Emit(PeerState{})
	if err := f.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close: %v, want %v", err, errFull)
	}
}

func TestNilRecorder(t *testing.T) {
	var r *Recorder
	r.ForPeer("x").Emit(PeerState{})
}
