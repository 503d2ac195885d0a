package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Kind says what a stream is for.
type Kind byte

const (
	KindControl Kind = 1 // the control stream, once per session
	KindDial    Kind = 2 // connect to Target, a HOST:PORT on the accepting side
	KindReverse Kind = 3 // a connection that arrived at a port opened for -R; Target names the forward
	KindMeasure Kind = 4 // throughput and latency measurements
)

var kindNames = map[Kind]string{KindControl: "control", KindDial: "dial", KindReverse: "reverse", KindMeasure: "measure"}

// String returns the kind's name, or its number when it has none.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// A Code says why a stream was refused or reset, or the session closed. It
// travels as a status byte and as the application error code of RESET_STREAM,
// STOP_SENDING and CONNECTION_CLOSE.
type Code byte

const (
	CodeAccepted    Code = 0
	CodeReset       Code = 1 // the connection behind the stream failed or was reset
	CodeNotAllowed  Code = 2 // the target is not on the allow-list
	CodeUnreachable Code = 3 // the target is allowed but could not be dialed
	CodeUnsupported Code = 4 // unknown kind or version
	CodeProtocol    Code = 5 // malformed header
	CodeLimit       Code = 6 // too many streams
	CodeShutdown    Code = 7 // this side is ending
	CodeForgotten   Code = 8 // this side does not know the peer any more
	CodePairedAnew  Code = 9 // this side knows the peer with another secret now
)

var codeNames = map[Code]string{
	CodeAccepted: "accepted", CodeReset: "reset", CodeNotAllowed: "not allowed", CodeUnreachable: "unreachable",
	CodeUnsupported: "unsupported", CodeProtocol: "protocol error", CodeLimit: "too many streams", CodeShutdown: "shutting down",
	CodeForgotten: "forgotten", CodePairedAnew: "paired anew",
}

// String returns the code in words.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("code %d", byte(c))
}

// Header opens a stream.
type Header struct {
	Kind   Kind
	Target string // at most 512 bytes of UTF-8; its meaning is the Kind's
}

const (
	version   = 1
	maxText   = 512
	fixedSize = 4
)

// errMalformed is what every bad header, status or frame wraps.
var errMalformed = errors.New("malformed")

// A RefusedError is the peer's answer to a stream that it did not accept.
type RefusedError struct {
	Code   Code
	Reason string // the peer's sentence; untrusted text, quoted by Error
}

// Error quotes the peer's sentence.
func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return "peer refused: " + e.Code.String()
	}
	return fmt.Sprintf("peer refused: %s: %q", e.Code, e.Reason)
}

// appendRecord appends the shape that headers and statuses share.
func appendRecord(b []byte, tag byte, text string) []byte {
	b = append(b, version, tag)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// readRecord reads one, never more than fixedSize+maxText bytes.
func readRecord(r io.Reader) (tag byte, text string, err error) {
	var fixed [fixedSize]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return 0, "", err
	}
	if fixed[0] != version {
		return 0, "", fmt.Errorf("%w: stream version %d, this side speaks %d", errMalformed, fixed[0], version)
	}
	n := int(binary.BigEndian.Uint16(fixed[2:]))
	if n > maxText {
		return 0, "", fmt.Errorf("%w: text of %d bytes, at most %d allowed", errMalformed, n, maxText)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	if !utf8.Valid(b) {
		return 0, "", fmt.Errorf("%w: text is not UTF-8", errMalformed)
	}
	return fixed[1], string(b), nil
}

// clip shortens a sentence of ours to what a record holds.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	for cut := maxText; ; cut-- {
		if utf8.RuneStart(s[cut]) {
			return s[:cut]
		}
	}
}
