package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/p2pagent/p2pagent/internal/units"
)

// Errors that callers branch on.
var (
	// ErrClosed is what operations on an ended session return when this side
	// closed it. It is net.ErrClosed too.
	ErrClosed error = &closedError{}
	// ErrIdle: nothing arrived for the idle timeout.
	ErrIdle = errors.New("peer silent for the idle timeout")
	// ErrReset is what a stream returns that this side has reset.
	ErrReset = errors.New("stream reset by this side")
	// ErrNoStream: the peer allows no further stream now.
	ErrNoStream = errors.New("the peer allows no more streams at once")
)

// closedError is a session that this side ended, with the reason that the peer was told.
type closedError struct{ reason string }

func (e *closedError) Error() string {
	if e.reason == "" {
		return "session closed by this side"
	}
	return "session closed by this side: " + e.reason
}

func (*closedError) Is(target error) bool { return target == ErrClosed || target == net.ErrClosed }

// A PeerClosedError is a session that the peer ended.
type PeerClosedError struct {
	Code   Code
	Reason string // the peer's sentence; untrusted text, quoted by Error
}

func (e *PeerClosedError) Error() string { return fmt.Sprintf("peer closed the session: %q", e.Reason) }

// A ResetError is a stream that the peer reset.
type ResetError struct{ Code Code }

func (e *ResetError) Error() string { return "stream reset by peer: " + e.Code.String() }

// A BrokenError is a session that ended because one side broke a protocol, or
// did not like the other's certificate. It is net.ErrClosed too.
type BrokenError struct {
	text  string
	cause error // of the library, for errors.As; its words are not for people
}

func (e *BrokenError) Error() string   { return e.text }
func (e *BrokenError) Unwrap() []error { return []error{net.ErrClosed, e.cause} }

// sessionError turns quic-go's errors into ours.
func sessionError(err error) error {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	var idle *quic.IdleTimeoutError
	var handshake *quic.HandshakeTimeoutError
	var version *quic.VersionNegotiationError
	var stateless *quic.StatelessResetError
	var limit *quic.StreamLimitReachedError
	var timeout net.Error
	broken := func(text string) error { return &BrokenError{text, err} }
	switch {
	case err == nil, err == context.Canceled, err == context.DeadlineExceeded:
		return err
	case errors.As(err, &app) && app.Remote:
		return &PeerClosedError{Code(min(app.ErrorCode, 255)), app.ErrorMessage}
	case errors.As(err, &app):
		return &closedError{app.ErrorMessage}
	case errors.Is(err, quic.ErrTransportClosed), errors.Is(err, quic.ErrServerClosed):
		return ErrClosed
	case errors.As(err, &idle):
		return ErrIdle
	case errors.As(err, &handshake):
		return broken(fmt.Sprintf("no answer to the handshake within %s", units.Duration(handshakeIdle)))
	case errors.As(err, &version):
		return broken("the peer speaks no version of QUIC that this side does")
	case errors.As(err, &stateless):
		return broken("the peer does not know this session any more")
	case errors.As(err, &transport):
		return broken(transportText(transport))
	case errors.As(err, &limit):
		return ErrNoStream
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded
	}
	return err
}

// transportText says who broke what, in the words of RFC 9000 and RFC 8446.
func transportText(e *quic.TransportError) string {
	by, against := "this side", "the peer's"
	if e.Remote {
		by, against = "the peer", "this side's"
	}
	if !e.ErrorCode.IsCryptoError() {
		text := fmt.Sprintf("%s ended the session for an error of the protocol, %s", by, e.ErrorCode)
		if e.ErrorMessage != "" {
			text += fmt.Sprintf(": %q", clip(e.ErrorMessage))
		}
		return text
	}
	for _, cause := range e.Unwrap() {
		if cause != nil && cause != net.ErrClosed { // a sentence of ours, of package identity
			return cause.Error()
		}
	}
	return fmt.Sprintf("%s refused %s part of the handshake: %s", by, against, e.ErrorCode.Message())
}

// streamError turns quic-go's errors into ours, and leaves io.EOF alone.
func streamError(err error) error {
	var reset *quic.StreamError
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.As(err, &reset) && reset.Remote:
		return &ResetError{Code(min(reset.ErrorCode, 255))}
	case errors.As(err, &reset), errors.Is(err, quic.ErrStreamClosed):
		return ErrReset
	}
	return sessionError(err)
}
