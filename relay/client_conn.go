package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// clientConn is the way to the server: messages of TURN in both directions.
type clientConn interface {
	// serve reads until the connection ends, and gives f what came from the
	// server, each time one or more whole messages. The error says why it ended;
	// net.ErrClosed after close.
	serve(f func(*udpsock.Packet)) error
	// buffer returns an empty one to be filled and given to send.
	buffer() *frames
	// send sends what f holds, messages of seg bytes of which the last may be
	// shorter, or one message if seg is 0. It takes f over and does not block.
	send(f *frames, seg int) error
	// limit is how long a message may be.
	limit() int
	// stream says that ChannelData needs padding.
	stream() bool
	local() netip.AddrPort
	// udp is the socket, nil for a stream.
	udp() *udpsock.Socket
	close() error
}

// frames is a buffer for messages to the server.
type frames struct {
	b   []byte
	arr [1 << 16]byte
}

// framePool hands out frames. Each connection has its own.
type framePool struct{ pool sync.Pool }

func (p *framePool) buffer() *frames {
	f, _ := p.pool.Get().(*frames)
	if f == nil {
		f = new(frames)
	}
	f.b = f.arr[:0]
	return f
}

func (p *framePool) release(f *frames) { p.pool.Put(f) }

// udpConn is TURN over UDP, on a socket that serves nothing else.
type udpConn struct {
	framePool
	sock   *udpsock.Socket
	server netip.AddrPort
}

// maxUDPPayload is the longest datagram of IPv4.
const maxUDPPayload = 65535 - 28

func listenUDPConn(c ClientConfig) (*udpConn, error) {
	network := "udp6"
	if c.Server.Addr().Is4() {
		network = "udp4"
	}
	if err := routed(network, c.Server); err != nil {
		return nil, err
	}
	// DF stays unset: what the relay adds may make a datagram too long for the
	// path to it, and then fragments are better than nothing.
	sock, err := udpsock.Listen(udpsock.Config{Network: network, Raw: true, Portable: c.Portable, Trace: c.Trace})
	if err != nil {
		return nil, err
	}
	return &udpConn{sock: sock, server: c.Server}, nil
}

// routed returns an error when this machine has no way to a server. A socket that
// is not connected does not tell; it would be seconds of silence.
func routed(network string, server netip.AddrPort) error {
	c, err := net.DialUDP(network, nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return err
	}
	return c.Close()
}

func (u *udpConn) serve(f func(*udpsock.Packet)) error {
	return u.sock.Serve(context.Background(), fromServer{u.server, f})
}

// fromServer drops what others send to our port.
type fromServer struct {
	server netip.AddrPort
	f      func(*udpsock.Packet)
}

func (h fromServer) HandleData(p *udpsock.Packet) {
	if p.Src != h.server {
		p.Release()
		return
	}
	h.f(p)
}

// HandleSTUN is not called: the socket is raw.
func (h fromServer) HandleSTUN([]byte, netip.AddrPort) {}

func (u *udpConn) send(f *frames, seg int) error {
	defer u.release(f)
	return u.sock.Send(f.b, seg, u.server)
}

func (u *udpConn) limit() int            { return maxUDPPayload }
func (u *udpConn) stream() bool          { return false }
func (u *udpConn) local() netip.AddrPort { return u.sock.LocalAddr() }
func (u *udpConn) udp() *udpsock.Socket  { return u.sock }
func (u *udpConn) close() error          { return u.sock.Close() }

// Bounds on what waits to be written to a stream. Beyond them messages are
// dropped, as a full router would: QUIC above slows down by losses, not by delay.
const (
	maxQueuedBytes  = 256 << 10
	maxQueuedFrames = 64
)

// streamConn is TURN over TCP or TLS.
type streamConn struct {
	framePool
	conn      net.Conn
	server    netip.AddrPort
	writeWait time.Duration

	queue  chan *frames
	queued atomic.Int64 // bytes in queue

	closed   chan struct{}
	endOnce  sync.Once
	why      error // written before closed is
	closeErr error
}

func newStreamConn(conn net.Conn, c ClientConfig) *streamConn {
	return &streamConn{
		conn: conn, server: c.Server, writeWait: c.times.writeWait,
		queue: make(chan *frames, maxQueuedFrames), closed: make(chan struct{}),
	}
}

var errNotWritten = errors.New("queue to the relay is full")

func (s *streamConn) send(f *frames, _ int) error {
	select {
	case <-s.closed:
		s.release(f)
		return net.ErrClosed
	default:
	}
	n := int64(len(f.b))
	if s.queued.Add(n) <= maxQueuedBytes {
		select {
		case s.queue <- f:
			return nil
		default:
		}
	}
	s.queued.Add(-n)
	s.release(f)
	return &udpsock.LossError{Dst: s.server, Err: errNotWritten}
}

// serve reads; a second goroutine writes. The first to end ends both.
func (s *streamConn) serve(f func(*udpsock.Packet)) error {
	var writing sync.WaitGroup
	writing.Go(func() { s.end(s.write()) })
	s.end(s.read(f))
	writing.Wait()
	return s.why
}

func (s *streamConn) read(f func(*udpsock.Packet)) error {
	r := stunmsg.NewFramer(s.conn)
	for {
		b, err := r.Next()
		if errors.Is(err, stunmsg.ErrTooLong) {
			continue // a peer may send what it likes, and servers pass it on
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		f(udpsock.NewPacket(b, 0, s.server))
	}
}

// write writes what send queued.
func (s *streamConn) write() error {
	for {
		select {
		case <-s.closed:
			return net.ErrClosed
		case f := <-s.queue:
			s.conn.SetWriteDeadline(time.Now().Add(s.writeWait))
			_, err := s.conn.Write(f.b)
			s.queued.Add(-int64(len(f.b)))
			s.release(f)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
	}
}

func (s *streamConn) limit() int   { return stunmsg.MaxFrame }
func (s *streamConn) stream() bool { return true }

func (s *streamConn) local() netip.AddrPort {
	a, _ := s.conn.LocalAddr().(*net.TCPAddr)
	return a.AddrPort()
}

func (s *streamConn) udp() *udpsock.Socket { return nil }

func (s *streamConn) close() error { return s.end(net.ErrClosed) }

// end closes the connection; the first reason given is the reason.
func (s *streamConn) end(why error) error {
	s.endOnce.Do(func() {
		s.why = why
		close(s.closed)
		conn := s.conn
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn() // a TLS farewell would wait for a peer that does not read
		}
		s.closeErr = conn.Close()
	})
	return s.closeErr
}
