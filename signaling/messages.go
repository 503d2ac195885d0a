package signaling

import (
	"encoding/json"
	"slices"
)

// The numbers of the protocol, see the package comment.
const (
	// Version is the protocol version spoken here.
	Version = 1
	// Path is where a server listens for WebSockets.
	Path = "/v1"
	// MaxFrame is the largest frame either side takes, in bytes.
	MaxFrame = 64 << 10
	// MaxBody is the largest body of a message, in bytes before base64.
	MaxBody = 16 << 10

	maxDepth    = 16
	maxToken    = 256
	maxSoftware = 64
	maxText     = 512
	maxURIs     = 16
	maxURI      = 256
	maxInt      = 1 << 30
)

// A Role is the kind of seat a member takes in a mailbox.
type Role string

const (
	RoleHost  Role = "host"  // the agent that listens
	RoleGuest Role = "guest" // an agent that connects
)

// A Seat is the number under which counterparts know a member.
type Seat uint32

// HostSeat is the number of every host; guests count from 1.
const HostSeat Seat = 0

// The types of messages; credentials is one in both directions.
const (
	typeHello       = "hello"
	typeRun         = "run"
	typeJoin        = "join"
	typeClaim       = "claim"
	typeSend        = "send"
	typeCredentials = "credentials"
	typeLeave       = "leave"

	typeWelcome = "welcome"
	typeJoined  = "joined"
	typeClaimed = "claimed"
	typePeer    = "peer"
	typeMessage = "message"
	typeError   = "error"
)

// message is every message of the protocol: which fields one has depends on
// its type and direction, see shapeOf.
type message struct {
	Type         string   `json:"type"`
	Version      int      `json:"version,omitempty"`
	Token        string   `json:"token,omitempty"`
	Software     string   `json:"software,omitempty"`
	Rate         int      `json:"rate,omitempty"`
	ByteRate     int      `json:"byte_rate,omitempty"`
	Ref          int      `json:"ref,omitempty"`
	Mailbox      string   `json:"mailbox,omitempty"`
	Role         Role     `json:"role,omitempty"`
	Seat         string   `json:"seat,omitempty"`
	Run          string   `json:"run,omitempty"`
	From         Seat     `json:"from,omitempty"`
	To           Seat     `json:"to,omitempty"`
	Present      bool     `json:"present,omitempty"`
	Replaced     bool     `json:"replaced,omitempty"`
	Body         []byte   `json:"body,omitempty"`
	Username     string   `json:"username,omitempty"`
	Password     string   `json:"password,omitempty"`
	TTL          int      `json:"ttl,omitempty"`
	URIs         []string `json:"uris,omitempty"`
	STUN         []string `json:"stun,omitempty"`
	Code         Code     `json:"code,omitempty"`
	Text         string   `json:"message,omitempty"`
	RetryAfterMS int      `json:"retry_after_ms,omitempty"`
}

// A side is who sent a message.
type side int

const (
	fromClient side = iota
	fromServer
)

// shapeOf gives the fields that a message must and may have.
func shapeOf(from side, typ string) (required, optional []string, known bool) {
	if from == fromClient {
		switch typ {
		case typeHello:
			return []string{"version"}, []string{"token", "software"}, true
		case typeRun:
			return []string{"run"}, nil, true
		case typeJoin:
			return []string{"mailbox", "role", "seat"}, nil, true
		case typeClaim:
			return []string{"ref", "seat"}, []string{"mailbox"}, true
		case typeSend:
			return []string{"mailbox", "body"}, []string{"to"}, true
		case typeCredentials, typeLeave:
			return []string{"mailbox"}, nil, true
		}
		return nil, nil, false
	}
	switch typ {
	case typeWelcome:
		return []string{"version", "rate", "byte_rate"}, []string{"software", "stun"}, true
	case typeJoined:
		return []string{"mailbox"}, []string{"present", "replaced"}, true
	case typeClaimed:
		return []string{"ref", "mailbox"}, []string{"present"}, true
	case typePeer:
		return []string{"mailbox"}, []string{"from", "present"}, true
	case typeMessage:
		return []string{"mailbox", "body"}, []string{"from"}, true
	case typeCredentials:
		return []string{"mailbox"}, []string{"username", "password", "ttl", "uris", "stun"}, true
	case typeError:
		return []string{"code"}, []string{"message", "version", "retry_after_ms", "mailbox", "ref"}, true
	}
	return nil, nil, false
}

// encode writes m as it crosses the wire.
func encode(m message) []byte {
	b, err := json.Marshal(m)
	if err != nil { // a struct of strings and integers
		panic("signaling: encode " + m.Type + ": " + err.Error())
	}
	return b
}

func within(n, low, high int) bool { return low <= n && n <= high }

func validURIs(uris []string) bool {
	tooLong := func(s string) bool { return len(s) > maxURI }
	return len(uris) <= maxURIs && !slices.ContainsFunc(uris, tooLong)
}

// IsNameplate reports whether name has the form of a nameplate.
func IsNameplate(name string) bool {
	if !within(len(name), 4, 7) || name[0] == '0' {
		return false
	}
	for _, c := range []byte(name) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// isToken reports whether s has the form of a seat token or of the name of an
// opaque mailbox.
func isToken(s string) bool {
	if !within(len(s), 22, 64) {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func versionText(client int) string {
	return (&VersionError{Client: client, Server: Version}).Error()
}
