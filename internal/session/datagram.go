package session

import (
	"context"
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"
)

// A TooLargeError is a datagram that no packet of the session can hold now.
type TooLargeError struct{ Most int } // bytes that can be sent

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("datagram too large, at most %d bytes fit now", e.Most)
}

// SendDatagram sends b, unreliably and unordered (RFC 9221), for streams of a
// kind. It waits while 32 datagrams wait to be sent, for as long as the session
// lives. The error is a [TooLargeError], or why the session ended.
func (s *Session) SendDatagram(k Kind, b []byte) error {
	err := s.conn.SendDatagram(append([]byte{byte(k)}, b...))
	var large *quic.DatagramTooLargeError
	if errors.As(err, &large) {
		return &TooLargeError{max(0, int(large.MaxDatagramPayloadSize)-1)}
	}
	return sessionError(err)
}

// ReceiveDatagrams calls handle with each datagram that the peer sent for
// streams of a kind, until ctx or the session ends, and returns which it was.
// Those of other kinds are dropped, and so are those that handle is too slow
// for: 128 can wait. One goroutine may call it at a time.
func (s *Session) ReceiveDatagrams(ctx context.Context, k Kind, handle func([]byte)) error {
	for {
		b, err := s.conn.ReceiveDatagram(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return sessionError(err)
		}
		if len(b) > 0 && b[0] == byte(k) {
			handle(b[1:])
		}
	}
}
