package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A Stream is one bidirectional stream after its header.
//
// Read and Write may be used by one goroutine each at the same time. After an
// error from either, Reset frees what is left.
type Stream struct {
	qs    *quic.Stream
	local bool

	answered sync.Once // the peer's status, on streams that we opened
	answer   error

	written  atomic.Bool // a Write has returned, so what was written has left
	finished atomic.Bool // CloseWrite was called: this side's direction needs no reset
}

// ID is unique among the streams of a session.
func (s *Stream) ID() int64 { return int64(s.qs.StreamID()) }

// Local reports whether this side opened the stream.
func (s *Stream) Local() bool { return s.local }

// Accepted waits for the peer's answer to a stream that this side opened: nil,
// a *[RefusedError], or the reason why no answer came. Read does it by itself;
// call it to tell a refusal from an early end.
func (s *Stream) Accepted() error {
	if !s.local {
		return nil
	}
	s.answered.Do(func() {
		tag, text, err := readRecord(s.qs)
		switch {
		case err != nil:
			s.answer = streamError(err)
		case Code(tag) != CodeAccepted:
			s.answer = &RefusedError{Code(tag), text}
		}
	})
	return s.answer
}

// Read reads payload; io.EOF only after the peer's clean end.
func (s *Stream) Read(b []byte) (int, error) {
	if err := s.Accepted(); err != nil {
		return 0, err
	}
	n, err := s.qs.Read(b)
	return n, streamError(err)
}

// Write writes payload. It returns when all of it is in packets: what quic-go
// would keep in a buffer of its own may be more than the peer has granted, and a
// reset that counts it would end the session with a flow control error.
func (s *Stream) Write(b []byte) (int, error) {
	n, err := s.qs.WriteWithLimit(b, func(most int) int { return most })
	if err == nil && n > 0 {
		s.written.Store(true)
	}
	return n, streamError(err)
}

// CloseWrite ends this side's direction cleanly.
func (s *Stream) CloseWrite() error {
	s.finished.Store(true)
	if s.qs.Close() != nil {
		return streamError(context.Cause(s.qs.Context())) // the peer had stopped reading
	}
	return nil
}

// Reset ends both directions, as far as they are still open, and tells the peer
// why. What [Stream.Write] has taken still arrives, and then the reset; unless
// the peer is of a version without RESET_STREAM_AT, which may lose what is on its
// way, and its reader is told so. A direction that CloseWrite has ended stays
// ended cleanly.
func (s *Stream) Reset(c Code) {
	s.qs.CancelRead(quic.StreamErrorCode(c))
	if s.finished.Load() {
		return
	}
	if s.written.Load() {
		s.qs.SetReliableBoundary()
	}
	s.qs.CancelWrite(quic.StreamErrorCode(c))
}

// StopReading tells the peer that what it still sends is not wanted.
func (s *Stream) StopReading(c Code) { s.qs.CancelRead(quic.StreamErrorCode(c)) }

// Stopped is closed when nothing more can be written: the peer stopped reading,
// the session ended, or this side ended its direction.
func (s *Stream) Stopped() <-chan struct{} { return s.qs.Context().Done() }

// SetDeadline bounds both directions; the zero time lifts it.
func (s *Stream) SetDeadline(t time.Time) error { return s.qs.SetDeadline(t) }

// Accept answers a stream that the peer opened with "accepted".
func (s *Stream) Accept() error {
	_, err := s.Write(appendRecord(nil, byte(CodeAccepted), ""))
	return err
}

// Refuse answers a stream that the peer opened with a reason, and ends it.
func (s *Stream) Refuse(c Code, reason string) {
	s.qs.CancelRead(quic.StreamErrorCode(c))
	if _, err := s.qs.Write(appendRecord(nil, byte(c), clip(reason))); err != nil {
		s.qs.CancelWrite(quic.StreamErrorCode(c))
		return
	}
	s.qs.Close()
}

// openRecord is the header as it goes out, or why it cannot.
func openRecord(h Header) ([]byte, error) {
	if len(h.Target) > maxText {
		return nil, fmt.Errorf("open %s stream: target of %d bytes, at most %d allowed", h.Kind, len(h.Target), maxText)
	}
	return appendRecord(nil, byte(h.Kind), h.Target), nil
}
