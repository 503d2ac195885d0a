package relay

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A streamGuard accepts TURN over TCP or TLS. pion's own listener stops at the
// first failing Accept and its framing can be made to spin and to recurse, so
// it has neither.
type streamGuard struct {
	server    *Server
	listener  int
	transport string // tcp, tls
	ln        net.Listener
	tls       *tls.Config
	at        stunAddr

	conns sync.WaitGroup
}

var errQueueFull = errors.New("write queue full")

const (
	streamQueueBytes   = 256 << 10
	streamWriteTimeout = 10 * time.Second // for each streamWriteBytes, so that slow clients are not cut
	streamWriteBytes   = 16 << 10
)

// serve accepts until the listener is closed, then waits for the connections,
// which end with ctx.
func (g *streamGuard) serve(ctx context.Context) error {
	defer g.conns.Wait()
	for {
		conn, err := g.ln.Accept()
		if err != nil { // it is closed: all others are waited out
			return nil
		}
		g.admit(ctx, conn)
	}
}

// admit starts serving a connection, if its source may have one more.
func (g *streamGuard) admit(ctx context.Context, conn net.Conn) {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		conn.Close()
		return
	}
	client := remote.AddrPort()
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	if !g.server.seats.take(client.Addr()) {
		g.server.count.drop(dropStream, 1)
		conn.Close()
		return
	}
	g.conns.Go(func() {
		defer g.server.seats.leave(client.Addr())
		g.handle(ctx, conn, client)
	})
}

func (g *streamGuard) handle(ctx context.Context, conn net.Conn, client netip.AddrPort) {
	if g.tls != nil {
		secure := tls.Server(conn, g.tls)
		hctx, cancel := context.WithTimeout(ctx, g.server.cfg.Limits.StreamIdle)
		err := secure.HandshakeContext(hctx)
		cancel()
		if err != nil {
			conn.Close()
			g.server.count.drop(dropStream, 1)
			return
		}
		conn = secure
	}
	s := &stream{guard: g, conn: conn, framer: stunmsg.NewFramer(conn), wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.from = source{fiveTuple{g.listener, client}, g.transport, s}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s.run()
}

// A stream is one connection: the sink of one client, and its reader.
type stream struct {
	guard  *streamGuard
	conn   net.Conn
	from   source
	framer *stunmsg.Framer

	wake chan struct{} // there is something to write
	done chan struct{} // the reader has ended

	mu      sync.Mutex
	pending []byte
}

// run reads frames until the connection ends or does not behave, then ends the
// client's allocation as RFC 8656 asks for.
func (s *stream) run() {
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		s.writeLoop()
	}()
	s.readLoop()
	s.guard.server.release(s.from)
	close(s.done)
	s.conn.Close() // the writer may be blocked in it
	<-writer
}

func (s *stream) readLoop() {
	srv := s.guard.server
	idle := newIdleTimer(srv.cfg.Limits.StreamIdle, time.Now())
	for {
		if d, changed := idle.deadline(srv.ledger.find(s.from.fiveTuple), time.Now()); changed {
			s.conn.SetReadDeadline(d)
		}
		frame, err := s.framer.Next()
		// Who has no allocation has no use for a long frame.
		tooLong := errors.Is(err, stunmsg.ErrTooLong)
		if tooLong && srv.ledger.find(s.from.fiveTuple) != nil {
			srv.count.drop(dropTooLong, 1)
			continue
		}
		if err != nil {
			if tooLong || errors.Is(err, stunmsg.ErrFraming) {
				srv.count.drop(dropMalformed, 1)
			}
			return
		}
		if stunmsg.IsChannelData(frame) {
			srv.channelData(frame, len(frame), s.from)
		} else {
			srv.message(frame, s.from, s.guard.at, true)
		}
	}
}

// An idleTimer says how long a connection may be silent: a short time from the
// moment it has no allocation, whatever it says meanwhile, so that bytes
// dripped one by one hold nothing; with an allocation twice its lifetime.
type idleTimer struct {
	idle  time.Duration
	since time.Time // without an allocation; zero: has one
	set   time.Time // deadline in force
}

func newIdleTimer(idle time.Duration, now time.Time) *idleTimer {
	return &idleTimer{idle: idle, since: now}
}

// deadline returns the read deadline, and whether it differs enough from the
// one in force to be worth setting.
func (t *idleTimer) deadline(c *relayConn, now time.Time) (time.Time, bool) {
	var d time.Time
	if c == nil {
		if t.since.IsZero() {
			t.since = now
		}
		d = t.since.Add(t.idle)
	} else {
		t.since = time.Time{}
		d = now.Add(2 * time.Duration(c.granted.Load()))
	}
	if !t.set.IsZero() && d.Sub(t.set).Abs() < time.Second {
		return t.set, false
	}
	t.set = d
	return d, true
}

// write queues b. A client that does not read loses packets, as it would over
// UDP; nobody waits for it.
func (s *stream) write(b []byte, _ int, _ netip.AddrPort) error {
	s.mu.Lock()
	full := len(s.pending)+len(b) > streamQueueBytes
	if !full {
		s.pending = append(s.pending, b...)
	}
	s.mu.Unlock()
	if full {
		return errQueueFull
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// writeLoop writes what is queued, as much at once as there is.
func (s *stream) writeLoop() {
	var batch []byte
	for {
		select {
		case <-s.wake:
		case <-s.done:
			return
		}
		s.mu.Lock()
		batch, s.pending = s.pending, batch[:0]
		s.mu.Unlock()
		if err := s.flush(batch); err != nil { // a frame may be cut: the stream is of no use any more
			s.conn.Close()
			return
		}
	}
}

// flush writes frames, over TLS each in a record of its own: coturn's client
// takes what one SSL_read returns for one message.
func (s *stream) flush(frames []byte) error {
	left := 0 // bytes that the deadline in force is for
	for len(frames) > 0 {
		n := min(len(frames), streamWriteBytes)
		if s.guard.tls != nil {
			n = min(len(frames), frameSize(frames))
		}
		if left < n {
			s.conn.SetWriteDeadline(time.Now().Add(streamWriteTimeout))
			left = streamWriteBytes
		}
		left -= n
		if _, err := s.conn.Write(frames[:n]); err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}

// frameSize is the length of the frame of ours that b begins with.
func frameSize(b []byte) int {
	n := int(binary.BigEndian.Uint16(b[2:]))
	if stunmsg.IsChannelData(b) {
		return stunmsg.ChannelDataHeaderSize + (n+3)&^3
	}
	return stunmsg.HeaderSize + n
}
