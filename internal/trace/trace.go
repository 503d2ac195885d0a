// Package trace is the record of what a run did: typed events, one JSON object
// a line, each with the time, the node and the peer it belongs to.
//
// Logs are for people at a terminal; the trace is what tests, reports and the
// viewer read. If a test has to look at a log line, an event is missing here.
// Keys, pairing codes and TURN passwords never appear in an event that [Recorder.Emit]
// records.
//
// A [Recorder] stamps events and hands them to its [Sink]s. A nil *Recorder is
// valid and records nothing, so no caller checks for one. Begin reading at
// events.go, which lists every event there is.
package trace

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// An Event is one fact worth keeping. Its type is the schema, its EventName
// the word in the file, for example "path.changed".
type Event interface{ EventName() string }

// A Record is an event with its circumstances.
type Record struct {
	Time  time.Time     // wall clock, for people and for merging two files
	Since time.Duration // monotonic, since the Recorder was made
	Node  string        // who recorded it
	Peer  string        // the known peer it concerns; empty when none
	Event Event
}

// A Sink takes records. Record is called by one goroutine at a time and must
// not block for long: it runs inside whatever emitted the event.
type Sink interface{ Record(Record) }

// SinkFunc makes a Sink of a function.
type SinkFunc func(Record)

// Record calls f.
func (f SinkFunc) Record(r Record) { f(r) }

// A Recorder stamps events and passes them to its sinks, in order.
type Recorder struct {
	node, peer string
	hub        *hub
}

type hub struct {
	start time.Time

	mu    sync.Mutex
	sinks []Sink
}

// New returns a Recorder for the named node.
func New(node string, sinks ...Sink) *Recorder {
	return &Recorder{node: node, hub: &hub{start: time.Now(), sinks: sinks}}
}

// ForPeer returns a Recorder that shares r's sinks and marks its events with
// the peer's name.
func (r *Recorder) ForPeer(peer string) *Recorder {
	if r == nil {
		return nil
	}
	return &Recorder{node: r.node, peer: peer, hub: r.hub}
}

// Emit records e now. It is safe for concurrent use, and a no-op on nil.
func (r *Recorder) Emit(e Event) {
	if r != nil {
		r.emit(e, r.hub.sinks)
	}
}

// EmitTo records e now in one sink alone, which may be one of r's: for what must not be
// in every file. It is in order among the events there.
func (r *Recorder) EmitTo(s Sink, e Event) {
	if r != nil {
		r.emit(e, []Sink{s})
	}
}

func (r *Recorder) emit(e Event, sinks []Sink) {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	now := time.Now() // under the lock, so that files are in order of time
	rec := Record{Time: now, Since: now.Sub(r.hub.start), Node: r.node, Peer: r.peer, Event: e}
	for _, s := range sinks {
		s.Record(rec)
	}
}

// wire is the shape of one line.
type wire struct {
	Time  time.Time       `json:"time"`
	Since int64           `json:"since_ns"`
	Node  string          `json:"node"`
	Peer  string          `json:"peer,omitempty"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// MarshalJSON writes {"time","since_ns","node","peer","event","data"}.
func (r Record) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(r.Event)
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", r.Event.EventName(), err)
	}
	return json.Marshal(wire{r.Time, int64(r.Since), r.Node, r.Peer, r.Event.EventName(), data})
}

// UnmarshalJSON reads what MarshalJSON wrote. An event that this version does
// not know becomes an [Unknown], so that old tools read new files.
func (r *Record) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	e, err := decode(w.Event, w.Data)
	if err != nil {
		return fmt.Errorf("event %s: %w", w.Event, err)
	}
	*r = Record{w.Time, time.Duration(w.Since), w.Node, w.Peer, e}
	return nil
}
