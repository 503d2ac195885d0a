package signaling

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// decode reads one frame that the other side sent, of which nothing is kept. Its
// errors are all of type *breach. The tests are in order of their cost: size and
// depth are known before any JSON is looked at.
//
// encoding/json checks the syntax, and reads values that are rare or written with
// escapes. It does not read the object: it would take the last of two equal keys,
// and "Type" for "type". And it made a server for ten thousand messages a second
// collect garbage all the time.
func decode(b []byte, from side) (message, error) {
	switch {
	case len(b) > MaxFrame:
		return message{}, errTooLarge()
	case !utf8.Valid(b):
		return message{}, &breach{CodeMalformed, "frame is not UTF-8", websocket.CloseInvalidFramePayloadData}
	case depth(b) > maxDepth:
		return message{}, malformed("JSON is nested too deeply")
	case !json.Valid(b):
		return message{}, malformed("frame is not JSON")
	}
	var space [maxFields]field
	fields, err := object(b, space[:0])
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
		if string(f.name) == "type" {
			continue
		}
		name := f.nameIn(required, optional)
		if name == "" {
			if from == fromClient {
				return message{}, malformed("a field that " + m.Type + " does not have")
			}
			continue
		}
		if err := m.set(name, f.value); err != nil {
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

// A field is one of an object, its value as it was written.
type field struct {
	name, value []byte
}

// nameIn returns the field's name from the lists, or "".
func (f field) nameIn(lists ...[]string) string {
	for _, list := range lists {
		if i := slices.IndexFunc(list, func(name string) bool { return name == string(f.name) }); i >= 0 {
			return list[i]
		}
	}
	return ""
}

type fields []field

func (fs fields) get(name string) []byte {
	for _, f := range fs {
		if string(f.name) == name {
			return f.value
		}
	}
	return nil
}

// maxFields keeps the search for equal keys cheap; no message has half of it.
const maxFields = 32

// object appends the fields of b to fs. b is valid JSON, which has to be one
// object with distinct keys.
func object(b []byte, fs fields) (fields, error) {
	b = afterSpace(b)
	if b[0] != '{' {
		return nil, malformed("frame is not a JSON object")
	}
	for b = afterSpace(b[1:]); b[0] != '}'; b = afterSpace(b) {
		if b[0] == ',' {
			b = afterSpace(b[1:])
		}
		n := valueLen(b)
		key, err := keyOf(b[:n])
		if err != nil {
			return nil, err
		}
		b = afterSpace(afterSpace(b[n:])[1:]) // the colon
		n = valueLen(b)
		if fs.get(string(key)) != nil {
			return nil, malformed("a key appears twice")
		}
		if len(fs) == maxFields {
			return nil, malformed("too many fields")
		}
		fs = append(fs, field{key, b[:n]})
		b = b[n:]
	}
	return fs, nil
}

func keyOf(quoted []byte) ([]byte, error) {
	if plain := quoted[1 : len(quoted)-1]; bytes.IndexByte(plain, '\\') < 0 {
		return plain, nil
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil { // it is valid: not reached
		return nil, malformed("frame is not JSON")
	}
	return []byte(s), nil
}

// afterSpace is b from its first character on that is no space of JSON.
func afterSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// valueLen is the length of the value that valid JSON begins with.
func valueLen(b []byte) int {
	switch b[0] {
	case '"':
		return stringLen(b)
	case '{', '[':
		open := 0
		for i := 0; ; i++ {
			switch b[i] {
			case '"':
				i += stringLen(b[i:]) - 1
			case '{', '[':
				open++
			case '}', ']':
				if open--; open == 0 {
					return i + 1
				}
			}
		}
	}
	if end := bytes.IndexAny(b, ",]} \t\n\r"); end >= 0 {
		return end
	}
	return len(b)
}

// stringLen is the length of the string that valid JSON begins with, with its
// quotes.
func stringLen(b []byte) int {
	for i := 1; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// set decodes one field into m and checks its range.
func (m *message) set(name string, raw []byte) error {
	if raw == nil {
		return malformed("message without " + name)
	}
	if !m.take(name, raw) {
		return malformed("field " + name + " is not as specified")
	}
	return nil
}

// take puts the value of the named field where it goes, and reports whether it is
// of the right kind and in its range.
func (m *message) take(name string, raw []byte) bool {
	switch name {
	case "type":
		return readString(raw, &m.Type) && within(len(m.Type), 1, 32)
	case "version":
		return readInt(raw, &m.Version) && within(m.Version, 1, maxInt)
	case "token":
		return readString(raw, &m.Token) && len(m.Token) <= maxToken
	case "software":
		return readString(raw, &m.Software) && len(m.Software) <= maxSoftware
	case "rate":
		return readInt(raw, &m.Rate) && within(m.Rate, 1, maxInt)
	case "byte_rate":
		return readInt(raw, &m.ByteRate) && within(m.ByteRate, 1, maxInt)
	case "ref":
		return readInt(raw, &m.Ref) && within(m.Ref, 1, maxInt)
	case "mailbox":
		return readString(raw, &m.Mailbox) && (IsNameplate(m.Mailbox) || isToken(m.Mailbox))
	case "role":
		return readString(raw, &m.Role) && (m.Role == RoleHost || m.Role == RoleGuest)
	case "seat":
		return readString(raw, &m.Seat) && isToken(m.Seat)
	case "run":
		return readString(raw, &m.Run) && isToken(m.Run)
	case "from":
		return readSeat(raw, &m.From)
	case "to":
		return readSeat(raw, &m.To)
	case "present":
		return readOther(raw, &m.Present)
	case "replaced":
		return readOther(raw, &m.Replaced)
	case "body":
		return readBytes(raw, &m.Body) && within(len(m.Body), 1, MaxBody)
	case "username":
		return readString(raw, &m.Username) && len(m.Username) <= maxText
	case "password":
		return readString(raw, &m.Password) && len(m.Password) <= maxText
	case "ttl":
		return readInt(raw, &m.TTL) && within(m.TTL, 0, maxInt)
	case "uris":
		return readOther(raw, &m.URIs) && validURIs(m.URIs)
	case "stun":
		return readOther(raw, &m.STUN) && validURIs(m.STUN)
	case "code":
		return readString(raw, &m.Code) && within(len(m.Code), 1, 32)
	case "message":
		return readString(raw, &m.Text) && len(m.Text) <= maxText
	case "retry_after_ms":
		return readInt(raw, &m.RetryAfterMS) && within(m.RetryAfterMS, 0, maxInt)
	}
	panic("signaling: no field " + name) // shapeOf names a field that message lacks
}

// readOther reads what has no short way below, by encoding/json, which would take
// a null for anything.
func readOther(raw []byte, to any) bool {
	return string(raw) != "null" && json.Unmarshal(raw, to) == nil
}

// plain is what is between the quotes of a string without escapes.
func plain(raw []byte) ([]byte, bool) {
	if raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		return nil, false
	}
	return raw[1 : len(raw)-1], true
}

func readString[S ~string](raw []byte, to *S) bool {
	if b, ok := plain(raw); ok {
		*to = S(b)
		return true
	}
	return readOther(raw, to)
}

func readBytes(raw []byte, to *[]byte) bool {
	b, ok := plain(raw)
	if !ok { // encoding/json would take a list of numbers, too
		return raw[0] == '"' && readOther(raw, to)
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Decode(out, b)
	*to = out[:n]
	return err == nil
}

func readInt(raw []byte, to *int) bool {
	if len(raw) > 10 { // or it would not be in any field's range
		return readOther(raw, to)
	}
	n := 0
	for _, c := range raw {
		if c < '0' || c > '9' {
			return readOther(raw, to)
		}
		n = 10*n + int(c-'0')
	}
	*to = n
	return true
}

func readSeat(raw []byte, to *Seat) bool {
	n := 0
	if !readInt(raw, &n) || !within(n, 0, maxInt) {
		return false
	}
	*to = Seat(n)
	return true
}
