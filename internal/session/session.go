package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/quic-go/quic-go"
)

// headerDeadline is how long a stream may take to say what it is for.
const headerDeadline = 10 * time.Second

// Config is what a session needs.
type Config struct {
	Conn        net.PacketConn  // carries the packets; the caller closes it after the session
	Peer        net.Addr        // the one address that Conn uses for the peer; needed by Dial
	TLS         *tls.Config     // both sides' certificates pinned, see internal/identity
	IdleTimeout time.Duration   // 0: [IdleTimeout]; the smaller of both sides' counts
	Trace       *trace.Recorder // may be nil
}

// Session is one QUIC connection with its control stream.
type Session struct {
	transport *quic.Transport
	conn      *quic.Conn
	control   *Control
	trace     *trace.Recorder

	closing sync.Once
}

// Dial opens a session as the connecting side and returns when the peer has
// accepted it.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	s := newSession(cfg)
	conn, err := s.transport.Dial(ctx, cfg.Peer, cfg.TLS, quicConfig(cfg.IdleTimeout))
	if err != nil {
		s.transport.Close()
		return nil, fmt.Errorf("dial session: %w", sessionError(err))
	}
	s.conn = conn
	stream, err := s.Open(ctx, Header{Kind: KindControl})
	if err == nil {
		err = s.start(ctx, stream)
	}
	if err != nil {
		s.Close(CodeProtocol, "session did not start")
		return nil, fmt.Errorf("dial session: %w", err)
	}
	return s, nil
}

// Accept waits for the peer's session as the listening side. A connection
// that fails its handshake (a wrong certificate, say) is not the end: it goes
// on waiting, until ctx ends.
func Accept(ctx context.Context, cfg Config) (*Session, error) {
	s := newSession(cfg)
	ln, err := s.transport.Listen(cfg.TLS, quicConfig(cfg.IdleTimeout))
	if err != nil {
		s.transport.Close()
		return nil, fmt.Errorf("accept session: %w", err)
	}
	// Closing the listener leaves accepted connections alone; one link has
	// one session.
	defer ln.Close()
	s.conn, err = ln.Accept(ctx)
	if err != nil {
		s.transport.Close()
		return nil, fmt.Errorf("accept session: %w", sessionError(err))
	}
	if err := s.acceptControl(ctx); err != nil {
		s.Close(CodeProtocol, "session did not start")
		return nil, fmt.Errorf("accept session: %w", err)
	}
	return s, nil
}

// acceptControl takes the first stream, which must be the control stream.
func (s *Session) acceptControl(ctx context.Context) error {
	qs, err := s.conn.AcceptStream(ctx)
	if err != nil {
		return sessionError(err)
	}
	h, stream, ok := receive(qs)
	if !ok || h.Kind != KindControl {
		return fmt.Errorf("%w: first stream is not the control stream", errMalformed)
	}
	if err := stream.Accept(); err != nil {
		return err
	}
	return s.start(ctx, stream)
}

func newSession(cfg Config) *Session {
	return &Session{transport: &quic.Transport{Conn: cfg.Conn, ConnectionIDLength: 8}, trace: cfg.Trace}
}

func (s *Session) start(ctx context.Context, control *Stream) error {
	s.control = &Control{s: control}
	if err := s.control.greet(ctx); err != nil {
		return err
	}
	s.trace.Emit(trace.SessionState{State: "up"})
	return nil
}

// Control returns the control stream.
func (s *Session) Control() *Control { return s.control }

// Open opens a stream and writes its header. It waits, within ctx, while the
// peer allows no further streams. Whether the peer accepts it, [Stream.Read]
// or [Stream.Accepted] tell.
func (s *Session) Open(ctx context.Context, h Header) (*Stream, error) {
	record, err := openRecord(h)
	if err != nil {
		return nil, err
	}
	qs, err := s.conn.OpenStreamSync(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("open %s stream: %w", h.Kind, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("open %s stream: %w", h.Kind, sessionError(err))
	}
	stream := &Stream{qs: qs, local: true}
	if _, err := stream.Write(record); err != nil {
		stream.Reset(CodeReset)
		return nil, fmt.Errorf("open %s stream: %w", h.Kind, err)
	}
	return stream, nil
}

// Serve calls handle in a goroutine of its own for each stream that the peer
// opens, until the session or ctx ends, and returns the reason when all calls
// have returned. handle answers the stream with [Stream.Accept] or
// [Stream.Refuse], and ends it. A stream with a bad header is refused without
// a call.
func (s *Session) Serve(ctx context.Context, handle func(context.Context, Header, *Stream)) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		qs, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return sessionError(err)
		}
		running.Go(func() {
			if h, stream, ok := receive(qs); ok {
				handle(ctx, h, stream)
			}
		})
	}
}

// receive reads a header, and answers a bad one.
func receive(qs *quic.Stream) (Header, *Stream, bool) {
	stream := &Stream{qs: qs}
	if err := qs.SetReadDeadline(time.Now().Add(headerDeadline)); err != nil {
		stream.Reset(CodeProtocol)
		return Header{}, nil, false
	}
	tag, target, err := readRecord(qs)
	if err != nil {
		stream.Refuse(CodeProtocol, err.Error())
		return Header{}, nil, false
	}
	if err := qs.SetReadDeadline(time.Time{}); err != nil {
		stream.Reset(CodeProtocol)
		return Header{}, nil, false
	}
	return Header{Kind(tag), target}, stream, true
}

// Stats are what QUIC knows of the session, whatever path it takes.
type Stats struct {
	RTT         time.Duration // smoothed
	PacketsSent uint64
	PacketsLost uint64 // as the sender sees it

	PacketsReceived uint64
}

// Stats returns the session's counters.
func (s *Session) Stats() Stats {
	c := s.conn.ConnectionStats()
	return Stats{RTT: c.SmoothedRTT, PacketsSent: c.PacketsSent, PacketsLost: c.PacketsLost, PacketsReceived: c.PacketsReceived}
}

// Done is closed when the session has ended, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.conn.Context().Done() }

// Err is why the session ended; nil while it lives.
func (s *Session) Err() error {
	if s.conn.Context().Err() == nil {
		return nil
	}
	return sessionError(context.Cause(s.conn.Context()))
}

// Close ends the session, tells the peer why, and releases the packet conn.
// It is idempotent. The order matters: closing the transport first would send
// nothing, and the peer would wait for its idle timeout.
func (s *Session) Close(code Code, reason string) error {
	var err error
	s.closing.Do(func() {
		if s.conn != nil {
			err = s.conn.CloseWithError(quic.ApplicationErrorCode(code), clip(reason))
		}
		err = errors.Join(err, s.transport.Close())
	})
	return err
}
