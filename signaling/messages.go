package signaling

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/gorilla/websocket"
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

// decode reads one frame that the other side sent. Its errors are all of type
// *breach. The tests are in order of their cost: size and depth are known
// before any JSON is decoded.
func decode(b []byte, from side) (message, error) {
	switch {
	case len(b) > MaxFrame:
		return message{}, errTooLarge()
	case !utf8.Valid(b):
		return message{}, &breach{CodeMalformed, "frame is not UTF-8", websocket.CloseInvalidFramePayloadData}
	case depth(b) > maxDepth:
		return message{}, malformed("JSON is nested too deeply")
	}
	fields, err := object(b)
	if err != nil {
		return message{}, err
	}

	var m message
	if err := m.set("type", fields.get("type")); err != nil {
		return message{}, err
	}
	if from == fromClient && m.Type == typeHello {
		// Another version may have other fields: nothing else is looked at.
		if err := m.set("version", fields.get("version")); err != nil {
			return message{}, err
		}
		if m.Version != Version {
			return message{}, &breach{CodeVersion, versionText(m.Version), websocket.ClosePolicyViolation}
		}
	}
	required, optional, known := shapeOf(from, m.Type)
	if !known {
		return message{}, &breach{code: CodeUnknownType, text: sentence(CodeUnknownType)}
	}
	for _, f := range fields {
		if f.name == "type" {
			continue
		}
		if !slices.Contains(required, f.name) && !slices.Contains(optional, f.name) {
			if from == fromClient {
				return message{}, malformed("a field that " + m.Type + " does not have")
			}
			continue
		}
		if err := m.set(f.name, f.value); err != nil {
			return message{}, err
		}
	}
	for _, name := range required {
		if fields.get(name) == nil {
			return message{}, malformed(m.Type + " without " + name)
		}
	}
	return m, nil
}

func errTooLarge() error {
	return &breach{CodeTooLarge, "frame is larger than 65536 bytes", websocket.CloseMessageTooBig}
}

// depth returns how deeply arrays and objects in b are nested, or more when b
// is not JSON.
func depth(b []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

type field struct {
	name  string
	value json.RawMessage
}

type fields []field

func (fs fields) get(name string) json.RawMessage {
	for _, f := range fs {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// object splits b, which must be one object with distinct keys, into its
// fields. encoding/json alone would take the last of two equal keys, and
// "Type" for "type".
func object(b []byte) (fields, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed("frame is not a JSON object")
	}
	var fs fields
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, malformed("frame is not JSON")
		}
		f := field{name: key.(string)} // a key, or Token had failed
		if fs.get(f.name) != nil {
			return nil, malformed("a key appears twice")
		}
		if len(fs) == maxFields {
			return nil, malformed("too many fields")
		}
		if err := dec.Decode(&f.value); err != nil {
			return nil, malformed("frame is not JSON")
		}
		fs = append(fs, f)
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed("frame is not JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("something follows the JSON object")
	}
	return fs, nil
}

// maxFields keeps the search for equal keys cheap; no message has half of it.
const maxFields = 32

// set decodes one field into m and checks its range.
func (m *message) set(name string, raw json.RawMessage) error {
	target, ok := m.target(name)
	if raw == nil {
		return malformed("message without " + name)
	}
	if bytes.Equal(raw, []byte("null")) || json.Unmarshal(raw, target) != nil || !ok() {
		return malformed("field " + name + " is not as specified")
	}
	return nil
}

// target returns where the named field goes, and the test of its range.
func (m *message) target(name string) (any, func() bool) {
	switch name {
	case "type":
		return &m.Type, func() bool { return within(len(m.Type), 1, 32) }
	case "version":
		return &m.Version, func() bool { return within(m.Version, 1, maxInt) }
	case "token":
		return &m.Token, func() bool { return len(m.Token) <= maxToken }
	case "software":
		return &m.Software, func() bool { return len(m.Software) <= maxSoftware }
	case "rate":
		return &m.Rate, func() bool { return within(m.Rate, 1, maxInt) }
	case "byte_rate":
		return &m.ByteRate, func() bool { return within(m.ByteRate, 1, maxInt) }
	case "ref":
		return &m.Ref, func() bool { return within(m.Ref, 1, maxInt) }
	case "mailbox":
		return &m.Mailbox, func() bool { return isNameplate(m.Mailbox) || isToken(m.Mailbox) }
	case "role":
		return &m.Role, func() bool { return m.Role == RoleHost || m.Role == RoleGuest }
	case "seat":
		return &m.Seat, func() bool { return isToken(m.Seat) }
	case "run":
		return &m.Run, func() bool { return isToken(m.Run) }
	case "from":
		return &m.From, func() bool { return m.From <= maxInt }
	case "to":
		return &m.To, func() bool { return m.To <= maxInt }
	case "present":
		return &m.Present, func() bool { return true }
	case "replaced":
		return &m.Replaced, func() bool { return true }
	case "body":
		return &m.Body, func() bool { return within(len(m.Body), 1, MaxBody) }
	case "username":
		return &m.Username, func() bool { return len(m.Username) <= maxText }
	case "password":
		return &m.Password, func() bool { return len(m.Password) <= maxText }
	case "ttl":
		return &m.TTL, func() bool { return within(m.TTL, 0, maxInt) }
	case "uris":
		return &m.URIs, func() bool { return validURIs(m.URIs) }
	case "stun":
		return &m.STUN, func() bool { return validURIs(m.STUN) }
	case "code":
		return &m.Code, func() bool { return within(len(m.Code), 1, 32) }
	case "message":
		return &m.Text, func() bool { return len(m.Text) <= maxText }
	case "retry_after_ms":
		return &m.RetryAfterMS, func() bool { return within(m.RetryAfterMS, 0, maxInt) }
	}
	panic("signaling: no field " + name) // shapeOf names a field that message lacks
}

func within(n, low, high int) bool { return low <= n && n <= high }

func validURIs(uris []string) bool {
	tooLong := func(s string) bool { return len(s) > maxURI }
	return len(uris) <= maxURIs && !slices.ContainsFunc(uris, tooLong)
}

// isNameplate reports whether name has the form of a nameplate.
func isNameplate(name string) bool {
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
