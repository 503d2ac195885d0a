package stunmsg

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
)

// frames reads all frames, copied, until the error.
func frames(f *Framer) (all [][]byte, err error) {
	for {
		frame, err := f.Next()
		if err != nil {
			return all, err
		}
		all = append(all, bytes.Clone(frame))
	}
}

func stream() (all []byte, want [][]byte) {
	want = [][]byte{
		NewRequest(MethodAllocate).Software("x").Fingerprint().Bytes(),
		AppendChannelData(nil, 0x4000, []byte("12345"), true),
		AppendChannelData(nil, 0x7FFF, nil, true),
		rawMessage(ClassSuccess),
		AppendChannelData(nil, 0x4001, zeros(MaxFrame-ChannelDataHeaderSize), true),
		NewIndication(MethodSend).PadTo(MaxFrame).Bytes(),
		AppendChannelData(nil, 0x4001, []byte("1234"), true),
	}
	return bytes.Join(want, nil), want
}

func TestFramer(t *testing.T) {
	all, want := stream()
	for name, r := range map[string]io.Reader{
		"at once":          bytes.NewReader(all),
		"byte by byte":     iotest.OneByteReader(bytes.NewReader(all)),
		"in halves":        iotest.HalfReader(bytes.NewReader(all)),
		"error with data":  iotest.DataErrReader(bytes.NewReader(all)),
		"empty reads":      &stutter{r: bytes.NewReader(all)},
		"chunks of 1000 B": &chunks{r: bytes.NewReader(all), n: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := frames(NewFramer(r))
			if err != io.EOF {
				t.Errorf("ended with %v", err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d frames, want %d", len(got), len(want))
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("frame %d: %x, want %x", i, got[i], want[i])
				}
			}
		})
	}
}

// stutter returns nothing at every other Read.
type stutter struct {
	r    io.Reader
	turn bool
}

func (s *stutter) Read(b []byte) (int, error) {
	if s.turn = !s.turn; s.turn {
		return 0, nil
	}
	return s.r.Read(b[:1])
}

type chunks struct {
	r io.Reader
	n int
}

func (c *chunks) Read(b []byte) (int, error) { return c.r.Read(b[:min(c.n, len(b))]) }

func TestFramerRefuses(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"half a header", []byte{0x40}, io.ErrUnexpectedEOF},
		{"half a frame", AppendChannelData(nil, 0x4000, zeros(9), true)[:8], io.ErrUnexpectedEOF},
		{"padding missing", AppendChannelData(nil, 0x4000, zeros(9), false), io.ErrUnexpectedEOF},
		{"ChannelData length that wraps", []byte{0x40, 0, 0xFF, 0xFC, 0, 0, 0, 0, 0}, ErrFraming},
		{"ChannelData length that wraps with padding", []byte{0x40, 0, 0xFF, 0xFF}, ErrFraming},
		{"STUN length that wraps", []byte{0, 1, 0xFF, 0xEC, 0x21, 0x12, 0xA4, 0x42, 0}, ErrFraming},
		{"ChannelData one too long", []byte{0x40, 0, 0x06, 0x29}, ErrFraming}, // 1577, padded 1580, and a header
		{"STUN one too long", []byte{0, 1, 0x06, 0x1C}, ErrFraming},           // 1564 and a header
		{"STUN length not a multiple of 4", []byte{0, 1, 0, 2}, ErrFraming},
		{"STUN without cookie", []byte{0, 1, 0, 8, 1, 2, 3, 4}, ErrFraming},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), nil}, // 'G' is 0x47: looks like ChannelData of 0x5420 bytes
		{"TLS", []byte{0x16, 3, 1, 0}, ErrFraming},
		{"QUIC long header", []byte{0xC0, 0, 0, 1}, ErrFraming},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == nil {
				tt.want = ErrFraming
			}
			f := NewFramer(iotest.OneByteReader(bytes.NewReader(tt.b)))
			if frame, err := f.Next(); !errors.Is(err, tt.want) {
				t.Fatalf("Next = %x, %v, want %v", frame, err, tt.want)
			}
			if _, err := f.Next(); !errors.Is(err, tt.want) {
				t.Errorf("then Next = %v", err)
			}
		})
	}
}

func TestFramerNoProgress(t *testing.T) {
	if _, err := NewFramer(idle{}).Next(); err != io.ErrNoProgress {
		t.Errorf("Next = %v", err)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// A deadline in the middle of a frame loses nothing.
func TestFramerResumes(t *testing.T) {
	want := AppendChannelData(nil, 0x4000, []byte("12345678"), true)
	f := NewFramer(&timeouts{r: bytes.NewReader(want)})
	var waits int
	for {
		frame, err := f.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			waits++
			continue
		}
		if err != nil || !bytes.Equal(frame, want) {
			t.Fatalf("Next = %x, %v", frame, err)
		}
		break
	}
	if waits != len(want) {
		t.Errorf("%d deadlines passed, want one before each of %d bytes", waits, len(want))
	}
}

type timeouts struct {
	r    io.Reader
	turn bool
}

func (s *timeouts) Read(b []byte) (int, error) {
	if s.turn = !s.turn; s.turn {
		return 0, os.ErrDeadlineExceeded
	}
	return s.r.Read(b[:1])
}

func TestChannelData(t *testing.T) {
	tests := []struct {
		name    string
		b       []byte
		channel uint16
		payload string
		err     error
	}{
		{"plain", []byte{0x40, 1, 0, 3, 'a', 'b', 'c'}, 0x4001, "abc", nil},
		{"padded", []byte{0x40, 1, 0, 3, 'a', 'b', 'c', 0}, 0x4001, "abc", nil},
		{"empty", []byte{0x7F, 0xFF, 0, 0}, 0x7FFF, "", nil},
		{"longer than what came", []byte{0x40, 1, 0, 4, 'a', 'b', 'c'}, 0, "", errChannelDataLength},
		{"short", []byte{0x40, 1, 0}, 0, "", errNotChannelData},
		{"STUN", rawMessage(ClassRequest), 0, "", errNotChannelData},
		{"QUIC long header", []byte{0x80, 0, 0, 0}, 0, "", errNotChannelData},
	}
	for _, tt := range tests {
		channel, payload, err := ChannelData(tt.b)
		if channel != tt.channel || string(payload) != tt.payload || err != tt.err {
			t.Errorf("%s: ChannelData = %#x, %q, %v", tt.name, channel, payload, err)
		}
	}
	for n := range 9 {
		got := AppendChannelData(nil, 0x4123, zeros(n), true)
		if len(got)%4 != 0 || len(got) < n+4 || len(got) > n+7 {
			t.Errorf("payload of %d: frame of %d bytes", n, len(got))
		}
		if got := AppendChannelData(nil, 0x4123, zeros(n), false); len(got) != n+4 {
			t.Errorf("payload of %d: datagram of %d bytes", n, len(got))
		}
	}
}
