package session

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// What a user reads is ours: no word of the library, and nothing to decode.
func TestErrorsInOurWords(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
		is   error
	}{
		{&quic.StreamError{StreamID: 4, ErrorCode: 2, Remote: true}, "stream reset by peer: not allowed", nil},
		{&quic.StreamError{StreamID: 4, ErrorCode: 1 << 40, Remote: true}, "stream reset by peer: code 255", nil},
		{&quic.StreamError{StreamID: 4, ErrorCode: 1}, "stream reset by this side", ErrReset},
		{quic.ErrStreamClosed, "stream reset by this side", ErrReset},
		{&quic.ApplicationError{Remote: true, ErrorCode: 7, ErrorMessage: "bye\n"}, `peer closed the session: "bye\n"`, nil},
		{&quic.ApplicationError{ErrorCode: 7, ErrorMessage: "interrupted"}, "session closed by this side: interrupted", ErrClosed},
		{&quic.ApplicationError{ErrorCode: 7}, "session closed by this side", net.ErrClosed},
		{quic.ErrTransportClosed, "session closed by this side", ErrClosed},
		{&quic.IdleTimeoutError{}, "peer silent for the idle timeout", ErrIdle},
		{&quic.HandshakeTimeoutError{}, "no answer to the handshake within 5 s", net.ErrClosed},
		{&quic.VersionNegotiationError{}, "the peer speaks no version of QUIC that this side does", net.ErrClosed},
		{&quic.StatelessResetError{}, "the peer does not know this session any more", net.ErrClosed},
		{&quic.StreamLimitReachedError{}, "the peer allows no more streams at once", ErrNoStream},
		{&quic.TransportError{ErrorCode: quic.FlowControlError, Remote: true, ErrorMessage: "9 bytes"},
			`the peer ended the session for an error of the protocol, FLOW_CONTROL_ERROR: "9 bytes"`, net.ErrClosed},
		{&quic.TransportError{ErrorCode: 0x100 + 42, Remote: true}, "the peer refused this side's part of the handshake: tls: bad certificate", net.ErrClosed},
		{context.Canceled, "context canceled", context.Canceled},
		{context.DeadlineExceeded, "context deadline exceeded", context.DeadlineExceeded},
		{io.EOF, "EOF", io.EOF},
	} {
		got := streamError(tt.err)
		if got.Error() != tt.want || tt.is != nil && !errors.Is(got, tt.is) {
			t.Errorf("%T: %v, want %q", tt.err, got, tt.want)
		}
		for _, word := range []string{"canceled by", "Application error", "CRYPTO_ERROR", "(remote)", "(local)"} {
			if strings.Contains(got.Error(), word) {
				t.Errorf("%T: %v, which has %q in it", tt.err, got, word)
			}
		}
	}
	if streamError(nil) != nil || sessionError(nil) != nil {
		t.Error("no error is an error")
	}
}

func TestErrorOfADeadline(t *testing.T) {
	client, _ := pair(t)
	stream := open(t, client, Header{KindDial, "x:1"})
	stream.SetDeadline(time.Now())
	if _, err := stream.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
