package udpsock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A Handler takes what a Socket reads. Its methods are called by the goroutine
// that runs Serve, one at a time, and must not block: nothing is read
// meanwhile.
type Handler interface {
	// HandleData takes datagrams whose first byte is at least 4, on a raw socket
	// any; there a Packet without Data is one empty datagram. The Packet is the
	// Handler's from here on, to Release.
	HandleData(p *Packet)

	// HandleSTUN takes one message that passed stunmsg.Check. b is valid only
	// during the call.
	HandleSTUN(b []byte, src netip.AddrPort)
}

var errServing = errors.New("udpsock: Serve is running already")

// Serve reads the socket for h until ctx ends (the error is its cause) or the
// socket is closed (net.ErrClosed). It survives all other errors. It may be
// called again after ctx ended, but not twice at once.
func (s *Socket) Serve(ctx context.Context, h Handler) error {
	if !s.serving.CompareAndSwap(false, true) {
		return errServing
	}
	defer s.serving.Store(false)

	defer s.interruptReads(ctx)()
	r := reader{s: s, h: h, p: getPacket()}
	defer func() { packets.Put(r.p) }()
	for failures := 0; ; {
		err := r.once()
		switch {
		case err == nil:
			failures = 0
			continue
		case s.isClosed() || errors.Is(err, net.ErrClosed):
			return net.ErrClosed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		s.counts.rxErrors.Add(1)
		failures++
		if err := s.pause(ctx, readBackoff(failures)); err != nil {
			return err
		}
	}
}

// interruptReads makes blocked reads return when ctx ends. The returned
// function undoes it.
func (s *Socket) interruptReads(ctx context.Context) (undo func()) {
	s.conn.SetReadDeadline(time.Time{})
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		s.conn.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-fired
		}
	}
}

// readBackoff is the pause after so many failed reads in a row. Errors that
// the network reports through the socket come one per datagram sent and need
// none; a socket that only ever fails must not take a whole core.
func readBackoff(failures int) time.Duration {
	const free = 16
	if failures <= free {
		return 0
	}
	return min(time.Millisecond<<min(failures-free, 10), time.Second)
}

func (s *Socket) pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.closed:
		return net.ErrClosed
	}
}

// A reader is the state of one Serve. It owns p, the Packet to be read into
// next.
type reader struct {
	s *Socket
	h Handler
	p *Packet
}

// once does one read and hands on what it returned.
func (r *reader) once() error {
	n, seg, src, err := r.s.conn.read(r.p.buf)
	if err != nil {
		return err
	}
	r.p.set(n, seg, canonical(src))
	r.s.counts.reads.Add(1)
	r.s.received(r.p)
	switch left := r.s.takeSTUN(r.p, r.h); {
	case !left:
	case len(r.p.Data) <= littleSize:
		r.h.HandleData(NewPacket(r.p.Data, r.p.Seg, r.p.Src))
	default:
		r.h.HandleData(r.p)
		r.p = getPacket()
	}
	return nil
}

// received counts what a read returned.
func (s *Socket) received(p *Packet) {
	s.counts.rxPackets.Add(uint64(max(1, p.Count())))
	s.counts.rxBytes.Add(uint64(len(p.Data)))
	if len(p.Data) == 0 && !s.raw {
		s.counts.malformed.Add(1)
	}
}

// handOn gives h what is in p. It tells whether h has taken p.
func (s *Socket) handOn(p *Packet, h Handler) (taken bool) {
	if !s.takeSTUN(p, h) {
		return false
	}
	h.HandleData(p)
	return true
}

// takeSTUN gives h the STUN messages in p, and tells whether more is left in it.
func (s *Socket) takeSTUN(p *Packet, h Handler) (left bool) {
	if s.raw {
		return true
	}
	p.Data = takeSTUN(p.Data, p.Seg, func(b []byte) { s.handOnSTUN(b, p.Src, h) })
	return len(p.Data) > 0
}

func (s *Socket) handOnSTUN(b []byte, src netip.AddrPort, h Handler) {
	if err := stunmsg.Check(b, stunmsg.AsPeer); err != nil {
		s.counts.malformed.Add(1)
		return
	}
	if s.answer(b, src) {
		return
	}
	h.HandleSTUN(b, src)
}
