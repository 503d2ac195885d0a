package signaling

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

func TestDecode(t *testing.T) {
	box, seat := pad("box"), pad("seat")
	body := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	policy := websocket.ClosePolicyViolation
	tests := []struct {
		name string
		in   string
		from side
		want message // with code empty
		code Code
		cl   int
	}{
		{name: "hello", in: `{"type":"hello","version":1,"token":"t","software":"x/1"}`,
			want: message{Type: "hello", Version: 1, Token: "t", Software: "x/1"}},
		{name: "join", in: ` {"mailbox":"` + box + `","role":"host","seat":"` + seat + `","type":"join"} `,
			want: message{Type: "join", Mailbox: box, Role: RoleHost, Seat: seat}},
		{name: "key written with an escape", in: `{"t\u0079pe":"leave","mailbox":"1234"}`,
			want: message{Type: "leave", Mailbox: "1234"}},
		{name: "send", in: `{"type":"send","mailbox":"` + box + `","to":3,"body":"aGk="}`,
			want: message{Type: "send", Mailbox: box, To: 3, Body: []byte("hi")}},
		{name: "largest body", in: `{"type":"send","mailbox":"1234","body":"` + body(MaxBody) + `"}`,
			want: message{Type: "send", Mailbox: "1234", Body: make([]byte, MaxBody)}},
		{name: "credentials mean two things: asked", in: `{"type":"credentials","mailbox":"1234"}`,
			want: message{Type: "credentials", Mailbox: "1234"}},
		{name: "credentials mean two things: given", from: fromServer,
			in:   `{"type":"credentials","mailbox":"1234","username":"u","password":"p","ttl":60,"uris":["turn:h"],"stun":["stun:h"]}`,
			want: message{Type: "credentials", Mailbox: "1234", Username: "u", Password: "p", TTL: 60, URIs: []string{"turn:h"}, STUN: []string{"stun:h"}}},
		{name: "a newer server's field is ignored", from: fromServer, in: `{"type":"joined","mailbox":"1234","color":{"a":[1]},"Present":true}`,
			want: message{Type: "joined", Mailbox: "1234"}},

		{name: "as deep as may be", from: fromServer, in: `{"type":"joined","mailbox":"1234","x":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`,
			want: message{Type: "joined", Mailbox: "1234"}},
		{name: "deeper", from: fromServer, in: `{"type":"joined","mailbox":"1234","x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, code: CodeMalformed, cl: policy},

		{name: "too large", in: `"` + strings.Repeat("x", MaxFrame) + `"`, code: CodeTooLarge, cl: websocket.CloseMessageTooBig},
		{name: "body too large", in: `{"type":"send","mailbox":"1234","body":"` + body(MaxBody+1) + `"}`, code: CodeMalformed, cl: policy},
		{name: "body written with escapes", in: `{"type":"send","mailbox":"1234","body":"a\u0047k="}`,
			want: message{Type: "send", Mailbox: "1234", Body: []byte("hi")}},
		{name: "space wherever it may be", in: "\r\n\t { \"type\" : \"send\" , \"to\" :\t1 ,\n\"mailbox\":\"1234\",\"body\" :\"aGk=\" } \n",
			want: message{Type: "send", Mailbox: "1234", To: 1, Body: []byte("hi")}},
		{name: "values of all kinds in a field to be ignored", from: fromServer, in: `{"x":{"a":["}",{"b":"\"]"}],"c":-1.5e3},"type":"joined","y":true,"mailbox":"1234","z":[],"w":null}`,
			want: message{Type: "joined", Mailbox: "1234"}},
		{name: "body as a list", in: `{"type":"send","mailbox":"1234","body":[104,105]}`, code: CodeMalformed, cl: policy},
		{name: "number with a fraction", in: `{"type":"hello","version":1.0}`, code: CodeMalformed, cl: policy},
		{name: "number beyond all ranges", in: `{"type":"send","mailbox":"1234","to":18446744073709551616,"body":"aGk="}`, code: CodeMalformed, cl: policy},
		{name: "number as a string", in: `{"type":"hello","version":"1"}`, code: CodeMalformed, cl: policy},
		{name: "empty object", in: `{}`, code: CodeMalformed, cl: policy},
		{name: "comma at the end", in: `{"type":"leave","mailbox":"1234",}`, code: CodeMalformed, cl: policy},
		{name: "a string alone", in: `"leave"`, code: CodeMalformed, cl: policy},
		{name: "escape that is none", in: `{"type":"leave","mailbox":"1234\x"}`, code: CodeMalformed, cl: policy},
		{name: "empty body", in: `{"type":"send","mailbox":"1234","body":""}`, code: CodeMalformed, cl: policy},
		{name: "body not base64", in: `{"type":"send","mailbox":"1234","body":"*"}`, code: CodeMalformed, cl: policy},
		{name: "not UTF-8", in: "{\"type\":\"leave\",\"mailbox\":\"\xff\"}", code: CodeMalformed, cl: websocket.CloseInvalidFramePayloadData},
		{name: "deep", in: strings.Repeat("[", 17), code: CodeMalformed, cl: policy},
		{name: "very deep", in: strings.Repeat(`{"a":`, MaxFrame/5), code: CodeMalformed, cl: policy},
		{name: "brackets in a string are not depth", in: `{"type":"hello","version":1,"token":"\"` + strings.Repeat("[", 40) + `"}`,
			want: message{Type: "hello", Version: 1, Token: `"` + strings.Repeat("[", 40)}},
		{name: "key twice", in: `{"type":"leave","mailbox":"1234","mailbox":"1235"}`, code: CodeMalformed, cl: policy},
		{name: "key twice, once with an escape", in: `{"type":"leave","mailbox":"1234","m\u0061ilbox":"1235"}`, code: CodeMalformed, cl: policy},
		{name: "type twice, from a server", from: fromServer, in: `{"type":"joined","type":"joined","mailbox":"1234"}`, code: CodeMalformed, cl: policy},
		{name: "Type is not type", in: `{"Type":"leave","mailbox":"1234"}`, code: CodeMalformed, cl: policy},
		{name: "Mailbox is not mailbox", in: `{"type":"leave","mailbox":"1234","Mailbox":"1235"}`, code: CodeMalformed, cl: policy},
		{name: "many keys", in: `{` + manyKeys(100) + `"type":"leave"}`, code: CodeMalformed, cl: policy},
		{name: "unknown field", in: `{"type":"leave","mailbox":"1234","x":1}`, code: CodeMalformed, cl: policy},
		{name: "field of another type", in: `{"type":"leave","mailbox":"1234","role":"host"}`, code: CodeMalformed, cl: policy},
		{name: "field missing", in: `{"type":"join","mailbox":"1234","role":"host"}`, code: CodeMalformed, cl: policy},
		{name: "null", in: `{"type":"leave","mailbox":null}`, code: CodeMalformed, cl: policy},
		{name: "wrong kind of value", in: `{"type":"leave","mailbox":1234}`, code: CodeMalformed, cl: policy},
		{name: "not an object", in: `[]`, code: CodeMalformed, cl: policy},
		{name: "empty", in: ``, code: CodeMalformed, cl: policy},
		{name: "cut off", in: `{"type":"leave","mailbox":"1234"`, code: CodeMalformed, cl: policy},
		{name: "no colon", in: `{"type" "leave"}`, code: CodeMalformed, cl: policy},
		{name: "two objects", in: `{"type":"leave","mailbox":"1234"}{}`, code: CodeMalformed, cl: policy},
		{name: "no type", in: `{"mailbox":"1234"}`, code: CodeMalformed, cl: policy},
		{name: "unknown type, open", in: `{"type":"dance","x":1}`, code: CodeUnknownType},
		{name: "a client does not send what servers send", in: `{"type":"welcome","version":1}`, code: CodeUnknownType},
		{name: "role", in: `{"type":"join","mailbox":"1234","role":"king","seat":"` + seat + `"}`, code: CodeMalformed, cl: policy},
		{name: "seat too short", in: `{"type":"join","mailbox":"1234","role":"host","seat":"short"}`, code: CodeMalformed, cl: policy},
		{name: "mailbox neither kind", in: `{"type":"leave","mailbox":"name"}`, code: CodeMalformed, cl: policy},
		{name: "nameplate with leading zero", in: `{"type":"leave","mailbox":"0123"}`, code: CodeMalformed, cl: policy},
		{name: "negative seat", in: `{"type":"send","mailbox":"1234","to":-1,"body":"aGk="}`, code: CodeMalformed, cl: policy},
		{name: "another version, whatever else it has", in: `{"type":"hello","version":2,"token":{"new":1},"more":true}`, code: CodeVersion, cl: policy},
		{name: "hello without version", in: `{"type":"hello"}`, code: CodeMalformed, cl: policy},
		{name: "too many URIs", from: fromServer, in: `{"type":"credentials","mailbox":"1234","uris":[` + strings.Repeat(`"turn:h",`, 16) + `"turn:h"]}`, code: CodeMalformed, cl: policy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decode([]byte(tt.in), tt.from)
			var b *breach
			if tt.code == "" {
				if err != nil || !reflect.DeepEqual(got, tt.want) {
					t.Fatalf("got %+v, %v\nwant %+v", got, err, tt.want)
				}
				return
			}
			if !errors.As(err, &b) || b.code != tt.code || b.close != tt.cl {
				t.Fatalf("got %+v, error %v, want %s with close code %d", got, err, tt.code, tt.cl)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`"` + strings.Repeat("k", i+1) + `":1,`)
	}
	return b.String()
}

// TestFieldsHaveTargets holds shapeOf and message.take together: take
// panics for a field it does not know.
func TestFieldsHaveTargets(t *testing.T) {
	types := []string{
		typeHello, typeJoin, typeClaim, typeSend, typeCredentials, typeLeave,
		typeWelcome, typeJoined, typeClaimed, typePeer, typeMessage, typeError,
	}
	known := 0
	for _, from := range []side{fromClient, fromServer} {
		for _, typ := range types {
			required, optional, ok := shapeOf(from, typ)
			if ok {
				known++
			}
			for _, name := range append(required, optional...) {
				new(message).take(name, []byte("null"))
			}
		}
	}
	if known != len(types)+1 { // credentials go both ways
		t.Errorf("%d shapes, want %d", known, len(types)+1)
	}
}

// TestErrorCodes: a client that gets a mailbox error finds a sentinel for it,
// and the specification lists every code.
func TestErrorCodes(t *testing.T) {
	spec, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	final := []Code{CodeUnknown, CodeTaken, CodeOccupied, CodeFull, CodeLimit, CodeAlreadyJoined, CodeReplaced, CodeExpired}
	for _, c := range final {
		e := &ServerError{Code: c}
		if e.Unwrap() == nil {
			t.Errorf("%s has no sentinel", c)
		}
		if do, _ := afterError(e, true, false, 0); do != giveUp {
			t.Errorf("%s does not end a mailbox", c)
		}
	}
	all := append(final, CodeUnauthorized, CodeVersion, CodeNoHello, CodeMalformed, CodeTooLarge, CodeRate, CodeNotJoined, CodeAbsent, CodeUnknownType)
	for _, c := range all {
		if !strings.Contains(string(spec), "//\t"+string(c)+" ") {
			t.Errorf("%s is not in the specification", c)
		}
	}
}

func TestAfterError(t *testing.T) {
	tests := []struct {
		code           Code
		joined, proven bool
		tries          int
		want           reaction
	}{
		{code: CodeAbsent, joined: true, want: ignore},
		{code: CodeNotJoined, joined: true, want: tryAgain},
		{code: CodeNotJoined, joined: false, want: ignore},
		{code: CodeRate, want: tryAgain},
		{code: CodeUnknown, want: giveUp},
		{code: CodeUnknown, proven: true, want: tryAgain},
		{code: CodeUnknown, proven: true, tries: rejoinTries, want: giveUp},
		{code: CodeReplaced, joined: true, proven: true, want: giveUp},
		{code: "of_a_newer_server", joined: true, want: ignore},
	}
	for _, tt := range tests {
		if got, _ := afterError(&ServerError{Code: tt.code}, tt.joined, tt.proven, tt.tries); got != tt.want {
			t.Errorf("afterError(%+v) = %v", tt, got)
		}
	}
}

// FuzzDecode: no input panics, and what is accepted means the same when it is
// written again.
func FuzzDecode(f *testing.F) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzDecode/*")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds committed: %v", err)
	}
	f.Fuzz(func(t *testing.T, b []byte, server bool) {
		from := fromClient
		if server {
			from = fromServer
		}
		m, err := decode(b, from)
		if err != nil {
			var br *breach
			if !errors.As(err, &br) || br.code == "" || br.text == "" {
				t.Fatalf("%T is not a breach with code and text: %v", err, err)
			}
			return
		}
		if len(m.Body) > MaxBody || depth(b) > maxDepth || len(b) > MaxFrame {
			t.Fatalf("over the limits: %+v", m)
		}
		again, err := decode(encode(m), from)
		if err != nil || !reflect.DeepEqual(again, m) {
			if emptyList(m) { // [] and absent are the same, not DeepEqual
				return
			}
			t.Fatalf("%s became %+v, then %+v, %v", b, m, again, err)
		}
	})
}

func emptyList(m message) bool {
	return m.URIs != nil && len(m.URIs) == 0 || m.STUN != nil && len(m.STUN) == 0
}
