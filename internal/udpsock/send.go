package udpsock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

const (
	// maxSegments is how many datagrams one send may be cut into (Linux:
	// UDP_MAX_SEGMENTS; 128 since 6.9, 64 before).
	maxSegments = 64

	// maxSend is how many bytes one send may have: an IPv4 packet less its
	// headers. IPv6 would allow 20 more.
	maxSend = 65535 - 28
)

// A LossError is datagrams that the kernel refused to send: no route, no
// buffer, too big, forbidden by a firewall. The socket is still good.
type LossError struct {
	Dst netip.AddrPort
	Err error // of the first

	// What was lost; all else of the same Send went out. Both are 0 in losses
	// that no Socket made.
	Datagrams, Bytes int
}

func (e *LossError) Error() string { return fmt.Sprintf("send to %v: %v", e.Dst, e.Err) }

func (e *LossError) Unwrap() error { return e.Err }

// lost counts the datagrams of b as lost, and gives a failed write its type.
func (s *Socket) lost(err error, b []byte, datagrams int, dst netip.AddrPort) error {
	s.counts.txErrors.Add(uint64(datagrams))
	if s.isClosed() || errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // what is left out is "write" and the addresses
	}
	return &LossError{dst, err, datagrams, len(b)}
}

// Send sends b to dst: cut into datagrams of seg bytes, of which the last may
// be shorter, or as one datagram if seg is 0. An error is net.ErrClosed, or a
// [LossError]; the datagrams after a lost one are sent all the same.
func (s *Socket) Send(b []byte, seg int, dst netip.AddrPort) error {
	if seg <= 0 || len(b) <= seg {
		return s.sendOne(b, dst)
	}
	var all error
	for len(b) > 0 {
		n := min(len(b), batchSize(seg))
		if err := s.sendBatch(b[:n], seg, dst); errors.Is(err, net.ErrClosed) {
			return err
		} else {
			all = joinLosses(all, err)
		}
		b = b[n:]
	}
	return all
}

// joinLosses makes one LossError, or nil, of two.
func joinLosses(first, second error) error {
	a, ok := first.(*LossError)
	b, both := second.(*LossError)
	if !ok || !both {
		return firstError(first, second)
	}
	a.Datagrams += b.Datagrams
	a.Bytes += b.Bytes
	return a
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// batchSize is how many bytes go into one send at most, in whole datagrams of
// seg bytes.
func batchSize(seg int) int { return max(1, min(maxSegments, maxSend/seg)) * seg }

// sendBatch sends what fits one system call. If the kernel cannot cut it, the
// datagrams go one by one.
func (s *Socket) sendBatch(b []byte, seg int, dst netip.AddrPort) error {
	gso, _ := s.Offload()
	if !gso || len(b) <= seg {
		_, err := s.sendEach(b, seg, dst)
		return err
	}
	err := s.conn.write(b, seg, dst)
	if err == nil {
		s.sent(b, count(len(b), seg))
		return nil
	}
	if !cutFailed(err) {
		return s.lost(err, b, count(len(b), seg), dst)
	}
	n, each := s.sendEach(b, seg, dst)
	if n > 0 && errors.Is(err, syscall.EIO) {
		// A device without checksum offload: the same datagrams to the same
		// destination went through one by one.
		s.noGSO.Store(true)
	}
	return each
}

// cutFailed tells whether a send that asked the kernel to cut failed in a way
// that the datagrams alone may not. EIO is a device that cannot do it; the
// others are but a path smaller than the datagrams: EMSGSIZE, and EINVAL before
// Linux 6.14, also where they alone would be fragmented. A kernel without
// UDP_SEGMENT says so when the socket is opened.
func cutFailed(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EINVAL)
}

// sendEach sends one datagram per system call and returns how many went.
func (s *Socket) sendEach(b []byte, seg int, dst netip.AddrPort) (n int, all error) {
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		switch err := s.sendOne(d, dst); {
		case err == nil:
			n++
		case errors.Is(err, net.ErrClosed):
			return n, err
		default:
			all = joinLosses(all, err)
		}
		b = b[len(d):]
	}
	return n, all
}

func (s *Socket) sendOne(b []byte, dst netip.AddrPort) error {
	if err := s.conn.write(b, 0, dst); err != nil {
		return s.lost(err, b, 1, dst)
	}
	s.sent(b, 1)
	return nil
}

// SendTTL sends one datagram that lives for ttl hops (1 to 255), and no other
// datagram does.
func (s *Socket) SendTTL(b []byte, dst netip.AddrPort, ttl int) error {
	if ttl < 1 || ttl > 255 {
		return &LossError{dst, fmt.Errorf("time-to-live of %d", ttl), 1, len(b)}
	}
	if err := s.conn.writeTTL(b, dst, ttl); err != nil {
		return s.lost(err, b, 1, dst)
	}
	s.sent(b, 1)
	return nil
}

func (s *Socket) sent(b []byte, datagrams int) {
	s.counts.sends.Add(1)
	s.counts.txPackets.Add(uint64(datagrams))
	s.counts.txBytes.Add(uint64(len(b)))
}
