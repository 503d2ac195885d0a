package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

const (
	// datagramSize is the payload of one datagram, with its 16 bytes of
	// header: what fits into QUIC's packets on every path.
	datagramSize   = 1100
	datagramHeader = 16

	// pace is how often the sender looks what is due.
	pace = time.Millisecond
)

// datagrams is a side's part in a round with datagrams.
type datagrams struct {
	mu      sync.Mutex
	sent    uint64
	arrived uint64
	seen    map[uint64]bool
	jitter  jitter
}

// runDatagrams sends and takes datagrams until the round is over, as the round
// asks for.
func (s *side) runDatagrams(ctx context.Context) {
	d := &s.dgrams
	d.seen = make(map[uint64]bool)
	if s.takes {
		s.streams.Add(1)
		go func() {
			defer s.streams.Done()
			// A datagram that is still on its way a little after the end is lost.
			ctx, cancel := context.WithDeadlineCause(ctx, s.start.Add(s.spec.span()+time.Second), errOver)
			defer cancel()
			err := s.link.ReceiveDatagrams(ctx, func(b []byte) { s.takeDatagram(b) })
			if !errors.Is(err, errOver) {
				s.fail(err)
			}
		}()
	}
	if s.sends {
		s.streams.Add(1)
		go func() {
			defer s.streams.Done()
			if err := s.sendDatagrams(ctx); err != nil {
				s.fail(err)
			}
		}()
	}
}

var errOver = errors.New("the round is over")

// sendDatagrams sends at the rate that is asked for, or as fast as the session
// takes them.
func (s *side) sendDatagrams(ctx context.Context) error {
	size := datagramSize
	perSecond := s.spec.UDPMbps * 1e6 / 8 / datagramSize
	b := make([]byte, datagramSize)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	var seq uint64
	for {
		at := time.Since(s.start)
		if at >= s.spec.span() {
			break
		}
		for due := uint64(at.Seconds() * perSecond); seq < due && time.Since(s.start) < s.spec.span(); seq++ {
			binary.BigEndian.PutUint64(b, seq)
			binary.BigEndian.PutUint64(b[8:], uint64(time.Since(s.start)))
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
	if len(b) < datagramHeader {
		return
	}
	at := time.Since(s.start)
	d := &s.dgrams
	d.mu.Lock()
	seq := binary.BigEndian.Uint64(b)
	fresh := !d.seen[seq] && len(d.seen) < 1<<24
	if fresh {
		d.seen[seq] = true
		d.arrived++
		d.jitter.add(at, time.Duration(binary.BigEndian.Uint64(b[8:])))
	}
	d.mu.Unlock()
	if fresh {
		s.meter.add(at, len(b))
	}
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
