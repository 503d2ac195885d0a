package measure

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Targets of streams.
const (
	targetControl = "control"
	targetEcho    = "echo"
	targetSend    = "send/"
	targetReceive = "receive/"
)

// maxFrame holds the intervals of the longest round.
const maxFrame = 256 << 10

// What one side may ask of the other.
const (
	MaxStreams = 64
	MaxSeconds = 60.0 // of one round
	MaxMbps    = 100_000.0
	minSeconds = 0.2
)

// request has exactly one member.
type request struct {
	Hello  *End       `json:"hello,omitempty"`
	Hold   *string    `json:"hold,omitempty"`
	Look   bool       `json:"look,omitempty"`
	Start  *roundSpec `json:"start,omitempty"`
	Finish string     `json:"finish,omitempty"`
}

type response struct {
	Error string `json:"error,omitempty"`
	Hello *End   `json:"hello,omitempty"`
	Look  *Look  `json:"look,omitempty"`
	Half  *half  `json:"half,omitempty"`
}

// roundSpec is what a round is to be. On the wire, Send and Receive are the
// measuring side's.
type roundSpec struct {
	ID      string  `json:"id"`
	Path    string  `json:"path"`
	Seconds float64 `json:"seconds"`
	Skip    float64 `json:"skip_s"`
	Streams int     `json:"streams"`
	Send    bool    `json:"send"`
	Receive bool    `json:"receive"`
	UDPMbps float64 `json:"udp_mbps,omitempty"`
}

func (r *roundSpec) validate() error {
	switch {
	case len(r.ID) == 0 || len(r.ID) > 64 || strings.Contains(r.ID, "/"):
		return errors.New("round without a proper id")
	case r.Path != Direct && r.Path != Relayed:
		return fmt.Errorf("path %q", clip(r.Path))
	case !(r.Seconds >= minSeconds && r.Seconds <= MaxSeconds):
		return fmt.Errorf("round of %v s, %v to %v allowed", r.Seconds, minSeconds, MaxSeconds)
	case !(r.Skip >= 0 && r.Skip < r.Seconds):
		return fmt.Errorf("%v s of %v s skipped", r.Skip, r.Seconds)
	case r.Streams < 1 || r.Streams > MaxStreams:
		return fmt.Errorf("%d streams, 1 to %d allowed", r.Streams, MaxStreams)
	case !(r.UDPMbps >= 0 && r.UDPMbps <= MaxMbps):
		return fmt.Errorf("%v Mbit/s", r.UDPMbps)
	case !r.Send && !r.Receive:
		return errors.New("round in no direction")
	}
	return nil
}

// mirrored is the round as the other side sees it.
func (r roundSpec) mirrored() roundSpec {
	r.Send, r.Receive = r.Receive, r.Send
	return r
}

func (r *roundSpec) span() time.Duration { return seconds(r.Seconds) }
func (r *roundSpec) skip() time.Duration { return seconds(r.Skip) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// half is what one side saw of a round.
type half struct {
	Received  uint64   `json:"received"`  // bytes of payload, all of the round
	Counted   uint64   `json:"counted"`   // of these, what arrived in the time that counts
	Intervals []uint64 `json:"intervals"` // bytes that arrived in each tenth of a second
	CPU       float64  `json:"cpu_s"`     // of this process, in the time that counts; negative: not known

	Sent     uint64   `json:"datagrams_sent"` // with --udp
	Arrived  uint64   `json:"datagrams_arrived"`
	JitterMS *float64 `json:"jitter_ms,omitempty"`

	Before Look `json:"before"` // at the beginning of the time that counts
	After  Look `json:"after"`  // at its end

	Relay    RelayWord `json:"relay,omitempty"`
	RelayIn  uint64    `json:"relay_in"` // while the round ran
	RelayOut uint64    `json:"relay_out"`

	RSS *uint64 `json:"rss,omitempty"`
}

// maxBytes is more than any counter of a link can honestly have reached.
const maxBytes = 1 << 50

// check refuses what no honest side reports and arithmetic could trip over.
// wrote is the payload that this side sent to it.
func (h *half) check(wrote uint64) error {
	switch {
	case !(h.CPU >= -1 && h.CPU < 1e9), h.JitterMS != nil && !(*h.JitterMS >= 0 && *h.JitterMS < 1e9):
		return errors.New("numbers that are none")
	case h.Received > wrote || wrote > maxBytes:
		return fmt.Errorf("%d bytes received of %d that were sent", h.Received, wrote)
	case h.Counted > h.Received:
		return fmt.Errorf("%d of %d bytes counted", h.Counted, h.Received)
	case len(h.Intervals) > int(MaxSeconds*10):
		return fmt.Errorf("%d intervals", len(h.Intervals))
	case h.Relay != RelayNone && h.Relay != RelaySilent && h.Relay != RelayTold:
		return fmt.Errorf("a relay that is %q", clip(string(h.Relay)))
	case h.RelayIn > maxBytes || h.RelayOut > maxBytes:
		return fmt.Errorf("%d and %d bytes on the relay", h.RelayIn, h.RelayOut)
	}
	left := h.Received
	for _, n := range h.Intervals {
		if n > left {
			return errors.New("more bytes in the intervals than received")
		}
		left -= n
	}
	return errors.Join(h.Before.check(), h.After.check())
}

func (l *Look) check() error {
	if len(l.Out) > 8 {
		return fmt.Errorf("%d kinds of path", len(l.Out))
	}
	for _, c := range l.Out {
		if max(c.Payload, c.Fragments, c.Replays, c.Probes) > maxBytes {
			return fmt.Errorf("%d bytes on one path", max(c.Payload, c.Fragments, c.Replays, c.Probes))
		}
	}
	return nil
}

// introduced is what is taken from the other side's word about itself: texts,
// and no figures.
func (e *End) introduced() End {
	m := e.Machine
	return End{Name: clip(e.Name), Version: clip(e.Version), Machine: Machine{
		OS: clip(m.OS), Arch: clip(m.Arch), CPUs: max(0, m.CPUs), CPU: clip(m.CPU), Kernel: clip(m.Kernel),
	}}
}

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d allowed", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d allowed", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return nil
}

// clip is the other side's text, shortened and without what could steer a
// terminal.
func clip(s string) string {
	const most = 200
	printable := func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}
	return strings.Map(printable, strings.ToValidUTF8(s[:min(len(s), most)], ""))
}
