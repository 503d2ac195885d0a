package signaling

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/gorilla/websocket"
)

// A Code is the word of an error message, see the package comment.
type Code string

const (
	CodeUnauthorized  Code = "unauthorized"
	CodeVersion       Code = "version"
	CodeNoHello       Code = "no_hello"
	CodeMalformed     Code = "malformed"
	CodeTooLarge      Code = "too_large"
	CodeRate          Code = "rate"
	CodeUnknown       Code = "unknown"
	CodeTaken         Code = "taken"
	CodeOccupied      Code = "occupied"
	CodeFull          Code = "full"
	CodeLimit         Code = "limit"
	CodeAlreadyJoined Code = "already_joined"
	CodeNotJoined     Code = "not_joined"
	CodeAbsent        Code = "absent"
	CodeReplaced      Code = "replaced"
	CodeExpired       Code = "expired"
	CodeUnknownType   Code = "unknown_type"
)

// Errors a caller may branch on. All but the first three concern one mailbox.
var (
	// ErrUnauthorized: the access token is missing or wrong. Run ends.
	ErrUnauthorized = errors.New("signaling server refuses the access token")
	// ErrVersion: the server speaks another version. Run ends; the error is
	// also a [*VersionError].
	ErrVersion = errors.New("signaling server speaks another protocol version")
	// ErrNotSignal: something answers at the URL, but not a signal server. Run
	// ends when it never was one since Run began, unless the client is Patient.
	ErrNotSignal = errors.New("not a signal server")

	// ErrReplaced: another agent took this seat, for example a second
	// listener with the same key. The mailbox does not join again by itself.
	ErrReplaced = errors.New("another agent with the same key took this place at the rendezvous")
	// ErrOccupied: somebody else hosts this mailbox.
	ErrOccupied = errors.New("another listener is at this rendezvous")
	// ErrTaken: the nameplate has had its guest, or is somebody else's.
	ErrTaken = errors.New("pairing code already in use by somebody else")
	// ErrUnknown: no such nameplate.
	ErrUnknown = errors.New("no listener waits under this pairing code")
	// ErrExpired: the time of the nameplate is over, or its host ended it.
	ErrExpired = errors.New("pairing code expired")
	// ErrFull: no room in the mailbox or at the server.
	ErrFull = errors.New("rendezvous is full")
	// ErrLimit: this client is in too many mailboxes.
	ErrLimit = errors.New("too many rendezvous on one connection")
	// ErrAlreadyJoined: this client has this mailbox open.
	ErrAlreadyJoined = errors.New("rendezvous already joined")
	// ErrAbsent: the peer is not there.
	ErrAbsent = errors.New("peer is not at the rendezvous")
	// ErrNotJoined: there is no connection to the server at the moment, or
	// the mailbox is not joined yet.
	ErrNotJoined = errors.New("not at the rendezvous at the moment")
	// ErrOverflow: the events of a mailbox were not read.
	ErrOverflow = errors.New("events of the rendezvous not read in time")
	// ErrClosed: the mailbox or the client was closed.
	ErrClosed error = closedError{}
)

// A VersionError says that client and server do not speak the same version.
type VersionError struct {
	Client, Server int
}

func (e *VersionError) Error() string {
	older := "update the signal server"
	if e.Client < e.Server {
		older = "update this agent"
	}
	return fmt.Sprintf("signaling protocol: the server speaks version %d, this agent version %d: %s", e.Server, e.Client, older)
}

// Unwrap returns ErrVersion.
func (e *VersionError) Unwrap() error { return ErrVersion }

// A ServerError is an error message of the server.
type ServerError struct {
	Code       Code
	Message    string // the server's sentence, not trusted
	RetryAfter time.Duration
}

func (e *ServerError) Error() string {
	if cause := e.Unwrap(); cause != nil {
		return cause.Error()
	}
	return fmt.Sprintf("signaling server: %s: %s", printable(string(e.Code), 32), printable(e.Message, 200))
}

// Unwrap returns the sentinel of the code, nil when there is none.
func (e *ServerError) Unwrap() error {
	switch e.Code {
	case CodeUnauthorized:
		return ErrUnauthorized
	case CodeVersion:
		return ErrVersion
	case CodeReplaced:
		return ErrReplaced
	case CodeOccupied:
		return ErrOccupied
	case CodeTaken:
		return ErrTaken
	case CodeUnknown:
		return ErrUnknown
	case CodeExpired:
		return ErrExpired
	case CodeFull:
		return ErrFull
	case CodeLimit:
		return ErrLimit
	case CodeAlreadyJoined:
		return ErrAlreadyJoined
	case CodeAbsent:
		return ErrAbsent
	case CodeNotJoined:
		return ErrNotJoined
	}
	return nil
}

// printable cuts s to n bytes and replaces what could play tricks with a
// terminal or a log.
func printable(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// advised is an error with what to do about it.
type advised struct {
	error
	hint string
}

// Hint returns what to do next.
func (e *advised) Hint() string  { return e.hint }
func (e *advised) Unwrap() error { return e.error }

// A breach is a message that breaks the protocol: what the sender is told, and
// the WebSocket close code; 0 leaves the connection open.
type breach struct {
	code  Code
	text  string
	close int
}

func (b *breach) Error() string { return string(b.code) + ": " + b.text }

func malformed(text string) error {
	return &breach{CodeMalformed, text, websocket.ClosePolicyViolation}
}

// sentence is what the server says to people with an error that concerns one
// message. It never repeats what the client sent.
func sentence(c Code) string {
	switch c {
	case CodeRate:
		return "too many pairing numbers were asked for from this address"
	case CodeUnknown:
		return "nobody waits under this number"
	case CodeTaken:
		return "this number is already in use by somebody else"
	case CodeOccupied:
		return "another listener is in this mailbox"
	case CodeFull:
		return "no room for one more"
	case CodeLimit:
		return "too many mailboxes on one connection"
	case CodeAlreadyJoined:
		return "this connection has already joined this mailbox"
	case CodeNotJoined:
		return "this connection is not in this mailbox"
	case CodeAbsent:
		return "no credentials while no peer is present"
	case CodeReplaced:
		return "another connection took this seat"
	case CodeExpired:
		return "the time of this number is over"
	case CodeUnknownType:
		return "this server does not know this type of message"
	}
	return string(c)
}

// closedError is net.ErrClosed in words for people.
type closedError struct{}

func (closedError) Error() string        { return "rendezvous closed by this side" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }
