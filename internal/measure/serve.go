package measure

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

// requestWithin is how long the measuring side may be silent.
const requestWithin = 2 * time.Minute

// An Accepting stream is one that the other side opened.
type Accepting interface {
	Stream
	Accept() error
	Refuse(session.Code, string)
}

// A Server answers the measurements of one link, one at a time.
type Server struct {
	link Link
	end  End

	mu    sync.Mutex
	busy  bool
	round *side
}

// NewServer returns a server; end is what it says of itself.
func NewServer(link Link, end End) *Server { return &Server{link: link, end: end} }

// Serve answers one stream and returns when it has ended.
func (s *Server) Serve(ctx context.Context, target string, st Accepting) {
	stop := context.AfterFunc(ctx, func() { st.Reset(session.CodeShutdown) })
	defer stop()
	switch {
	case target == targetControl:
		s.control(ctx, st)
	case target == targetEcho:
		if st.Accept() == nil {
			echo(st)
		}
	case strings.HasPrefix(target, targetSend):
		s.payload(strings.TrimPrefix(target, targetSend), st, (*side).send)
	case strings.HasPrefix(target, targetReceive):
		s.payload(strings.TrimPrefix(target, targetReceive), st, (*side).take)
	default:
		st.Refuse(session.CodeUnsupported, "no measurement of this kind is known here")
	}
}

// payload moves payload on a stream of the round that runs.
func (s *Server) payload(id string, st Accepting, move func(*side, Stream)) {
	s.mu.Lock()
	r := s.round
	s.mu.Unlock()
	if r == nil || subtle.ConstantTimeCompare([]byte(r.spec.ID), []byte(id)) != 1 || r.spec.UDPMbps > 0 || !r.join() {
		st.Refuse(session.CodeProtocol, "no such round runs here")
		return
	}
	if err := st.Accept(); err != nil {
		r.fail(err)
		r.streams.Done()
		return
	}
	move(r, st)
}

// control answers one measuring side at a time.
func (s *Server) control(ctx context.Context, st Accepting) {
	s.mu.Lock()
	busy := s.busy
	s.busy = true
	s.mu.Unlock()
	if busy {
		st.Refuse(session.CodeLimit, "another measurement of this link is running")
		return
	}
	end := s.converse(ctx, st)
	s.stopRound()
	s.link.Hold("") // fails when the link is gone, and nothing is held then
	s.mu.Lock()
	s.busy = false
	s.mu.Unlock()
	end() // the measuring side may begin anew
}

// converse answers requests until the measuring side ends, and returns how to
// end the stream.
func (s *Server) converse(ctx context.Context, st Accepting) (end func()) {
	reset := func(c session.Code) func() { return func() { st.Reset(c) } }
	if st.Accept() != nil {
		return reset(session.CodeReset)
	}
	for {
		var req request
		st.SetDeadline(time.Now().Add(requestWithin))
		switch err := readFrame(st, &req); {
		case errors.Is(err, io.EOF):
			return func() { st.CloseWrite() }
		case err != nil:
			return reset(session.CodeProtocol)
		}
		res, err := s.answer(ctx, &req)
		if err != nil {
			res = response{Error: err.Error()}
		}
		if err := writeFrame(st, res); err != nil {
			return reset(session.CodeReset)
		}
	}
}

func (s *Server) answer(ctx context.Context, req *request) (res response, err error) {
	switch {
	case req.Hello != nil:
		end := s.end
		res.Hello = &end
	case req.Hold != nil:
		if kind := *req.Hold; kind != "" && kind != Direct && kind != Relayed {
			return res, fmt.Errorf("path %q", clip(kind))
		}
		err = s.link.Hold(*req.Hold)
	case req.Look:
		look := s.link.Look()
		res.Look = &look
	case req.Start != nil:
		err = s.startRound(ctx, *req.Start)
	case req.Finish != "":
		res.Half, err = s.finishRound(ctx, req.Finish)
	default:
		err = errors.New("request that is not known here")
	}
	return res, err
}

func (s *Server) startRound(ctx context.Context, spec roundSpec) error {
	if err := spec.validate(); err != nil {
		return err
	}
	s.stopRound()
	r := begin(ctx, s.link, spec.mirrored(), countRelay(ctx, s.link, spec))
	s.mu.Lock()
	s.round = r
	s.mu.Unlock()
	return nil
}

func (s *Server) finishRound(ctx context.Context, id string) (*half, error) {
	s.mu.Lock()
	r := s.round
	s.round = nil
	s.mu.Unlock()
	if r == nil || r.spec.ID != id {
		if r != nil {
			r.abandon()
		}
		return nil, errors.New("no such round runs here")
	}
	return r.finish(ctx)
}

// stopRound ends a round whose measuring side has left.
func (s *Server) stopRound() {
	s.mu.Lock()
	r := s.round
	s.round = nil
	s.mu.Unlock()
	if r != nil {
		r.abandon()
	}
}
