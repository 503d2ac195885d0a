package session

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRecord(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		tag      byte
		text     string
		err      error
	}{
		{"dial", "\x01\x02\x00\x0clocalhost:22", 2, "localhost:22", nil},
		{"empty text", "\x01\x01\x00\x00", 1, "", nil},
		{"payload behind it is not read", "\x01\x02\x00\x01xSSH-2.0", 2, "x", nil},
		{"other version", "\x02\x02\x00\x00", 0, "", errMalformed},
		{"too long", "\x01\x02\x02\x01" + strings.Repeat("a", 513), 0, "", errMalformed},
		{"not UTF-8", "\x01\x02\x00\x01\xff", 0, "", errMalformed},
		{"cut in the header", "\x01\x02", 0, "", io.ErrUnexpectedEOF},
		{"cut in the text", "\x01\x02\x00\x09local", 0, "", io.ErrUnexpectedEOF},
		{"nothing", "", 0, "", io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tag, text, err := readRecord(strings.NewReader(tt.in))
			if tag != tt.tag || text != tt.text || !errors.Is(err, tt.err) {
				t.Errorf("got %d %q %v, want %d %q %v", tag, text, err, tt.tag, tt.text, tt.err)
			}
		})
	}
}

func TestClipKeepsUTF8(t *testing.T) {
	s := clip(strings.Repeat("a", maxText-1) + "é")
	if len(s) != maxText-1 || !utf8.ValidString(s) {
		t.Errorf("clipped to %d bytes, valid %v", len(s), utf8.ValidString(s))
	}
}

func TestFrameLimits(t *testing.T) {
	for name, in := range map[string]string{"zero": "\x00\x00\x00\x00", "huge": "\xff\xff\xff\xff"} {
		if _, err := readFrame(strings.NewReader(in)); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, want malformed", name, err)
		}
	}
}

// Whatever arrives, a record is bounded and comes out as it went in.
func FuzzReadRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		tag, text, err := readRecord(bytes.NewReader(in))
		if err != nil {
			return
		}
		if out := appendRecord(nil, tag, text); !bytes.HasPrefix(in, out) {
			t.Errorf("read %d %q from %x, written again it is %x", tag, text, in, out)
		}
	})
}
