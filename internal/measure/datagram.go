package measure

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

const (
	// datagramSize is the payload of one datagram, with its header: what fits
	// into QUIC's packets on every path.
	datagramSize = 1100

	// datagramHeader is the round's tag, the sequence number, and the sender's
	// clock.
	datagramHeader = 24

	// pace is how often the sender looks what is due.
	pace = time.Millisecond

	// quietFor is how long nothing may come after the end of a round until
	// what is missing is lost.
	quietFor = time.Second
)

// datagrams is a side's part in a round with datagrams.
type datagrams struct {
	mu      sync.Mutex
	sent    uint64
	arrived uint64
	last    time.Time // when the last one came
	seen    window
	jitter  jitter
}

// tag tells the datagrams of a round from those that come late from the one before.
func (r *roundSpec) tag() (tag [8]byte) {
	copy(tag[:], r.ID)
	return tag
}

// runDatagrams sends and takes datagrams until the round is over, as the round
// asks for.
func (s *side) runDatagrams(ctx context.Context) {
	if s.spec.Receive {
		s.streams.Add(1)
		go func() {
			defer s.streams.Done()
			if err := s.takeDatagrams(ctx); err != nil {
				s.fail(err)
			}
		}()
	}
	if s.spec.Send {
		s.streams.Add(1)
		go func() {
			defer s.streams.Done()
			if err := s.sendDatagrams(ctx); err != nil {
				s.fail(err)
			}
		}()
	}
}

// takeDatagrams takes what comes until the round is over and nothing has come
// for a while: a line that was given too much takes long to deliver it.
func (s *side) takeDatagrams(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.awaitQuiet(ctx)
		cancel(errOver)
	}()
	err := s.link.ReceiveDatagrams(ctx, s.takeDatagram)
	cancel(nil)
	<-watched
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

// awaitQuiet waits until no datagram of the round is to be expected.
func (s *side) awaitQuiet(ctx context.Context) {
	end := s.start.Add(s.spec.span())
	for until := end.Add(quietFor); time.Now().Before(until); {
		if pause(ctx, time.Until(until)) != nil {
			return
		}
		s.dgrams.mu.Lock()
		quiet := s.dgrams.last.Add(quietFor)
		s.dgrams.mu.Unlock()
		if latest := end.Add(drainFor); quiet.After(until) && until.Before(latest) {
			until = quiet
		}
	}
}

var errOver = errors.New("the round is over")

// sendDatagrams sends at the rate that is asked for, or as fast as the session
// takes them.
func (s *side) sendDatagrams(ctx context.Context) error {
	size := datagramSize
	perSecond := s.spec.UDPMbps * 1e6 / 8 / datagramSize
	b := make([]byte, datagramSize)
	tag := s.spec.tag()
	copy(b, tag[:])
	tick := time.NewTicker(pace)
	defer tick.Stop()
	start := s.moves()
	var seq uint64
	for {
		at := time.Since(start)
		if at >= s.spec.span() {
			break
		}
		for due := uint64(at.Seconds() * perSecond); seq < due && time.Since(start) < s.spec.span(); seq++ {
			binary.BigEndian.PutUint64(b[8:], seq)
			binary.BigEndian.PutUint64(b[16:], uint64(time.Since(start)))
			err := s.link.SendDatagram(b[:size])
			var large *session.TooLargeError
			if errors.As(err, &large) && large.Most >= datagramHeader {
				size = min(size, large.Most)
				err = s.link.SendDatagram(b[:size])
			}
			if err != nil {
				return err
			}
			s.wrote.Add(uint64(size))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.dgrams.mu.Lock()
	defer s.dgrams.mu.Unlock()
	s.dgrams.sent = seq
	return nil
}

func (s *side) takeDatagram(b []byte) {
	if tag := s.spec.tag(); len(b) < datagramHeader || !bytes.HasPrefix(b, tag[:]) {
		return
	}
	now := time.Now()
	at := now.Sub(s.start)
	d := &s.dgrams
	d.mu.Lock()
	fresh := d.seen.add(binary.BigEndian.Uint64(b[8:]))
	if fresh {
		d.arrived++
		d.last = now
		d.jitter.add(at, time.Duration(binary.BigEndian.Uint64(b[16:])))
	}
	d.mu.Unlock()
	if fresh {
		s.arrived(len(b))
	}
}

// A window knows the last sequence numbers: what is older counts as seen
// (RFC 6479 has the shape).
type window struct {
	next uint64 // one more than the highest number
	bits [windowSize / 64]uint64
}

const windowSize = 1 << 16

// add reports whether n is new.
func (w *window) add(n uint64) bool {
	if n == math.MaxUint64 {
		return false
	}
	if n >= w.next {
		// The words after that of the highest number begin anew.
		for word, steps := (w.next+63)/64, 0; word <= n/64 && steps < len(w.bits); word, steps = word+1, steps+1 {
			w.bits[word%uint64(len(w.bits))] = 0
		}
		w.next = n + 1
	} else if w.next-n > windowSize-64 {
		return false
	}
	word, bit := &w.bits[n/64%uint64(len(w.bits))], uint64(1)<<(n%64)
	fresh := *word&bit == 0
	*word |= bit
	return fresh
}

func (d *datagrams) report(h *half, spec roundSpec) {
	if spec.UDPMbps == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h.Sent, h.Arrived = d.sent, d.arrived
	if d.jitter.n > 1 {
		ms := d.jitter.value * 1000
		h.JitterMS = &ms
	}
}

// jitter is the interarrival jitter of RFC 3550, section 6.4.1, in seconds.
type jitter struct {
	value float64
	last  float64 // transit time, off by the difference of the clocks
	n     int
}

func (j *jitter) add(arrived, sent time.Duration) {
	transit := arrived.Seconds() - sent.Seconds()
	if j.n++; j.n > 1 && !math.IsNaN(transit) {
		j.value += (math.Abs(transit-j.last) - j.value) / 16
	}
	j.last = transit
}
