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
	all, _, err = framesAndSkipped(f)
	return all, err
}

func framesAndSkipped(f *Framer) (all [][]byte, skipped int, err error) {
	for {
		frame, err := f.Next()
		switch err {
		case nil:
			all = append(all, bytes.Clone(frame))
		case ErrTooLong:
			skipped++
		default:
			return all, skipped, err
		}
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
		{"STUN length not a multiple of 4", []byte{0, 1, 0, 2}, ErrFraming},
		{"STUN without cookie", []byte{0, 1, 0, 8, 1, 2, 3, 4}, ErrFraming},
		{"TLS", []byte{0x16, 3, 1, 0}, ErrFraming},
		{"QUIC long header", []byte{0xC0, 0, 0, 1}, ErrFraming},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
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

// Frames that are too long are told of as soon as it shows, which is before
// they have come, and skipped.
func TestFramerSkips(t *testing.T) {
	stunOf := func(n int) []byte {
		b := append(rawMessage(ClassSuccess), zeros(n)...)
		b[2], b[3] = byte(n>>8), byte(n)
		return b
	}
	for name, long := range map[string][]byte{
		"ChannelData one too long":            AppendChannelData(nil, 0x4000, zeros(1577), true), // padded 1580, and a header
		"STUN one too long":                   stunOf(1564),
		"ChannelData length that wraps":       AppendChannelData(nil, 0x4000, zeros(0xFFFC), true),
		"ChannelData that wraps with padding": AppendChannelData(nil, 0x4000, zeros(0xFFFF), true),
		"STUN length that wraps":              stunOf(0xFFEC),
		"HTTP":                                append([]byte("GET / HTTP/1.1\r\n"), zeros(0x5420+4-16)...), // 'G' is 0x47: ChannelData of 0x5420 bytes
	} {
		t.Run(name, func(t *testing.T) {
			good := AppendChannelData(nil, 0x4001, []byte("good"), true)
			all := bytes.Join([][]byte{good, long, good, long, long, good}, nil)
			for how, r := range map[string]io.Reader{
				"at once":      bytes.NewReader(all),
				"byte by byte": iotest.OneByteReader(bytes.NewReader(all)),
			} {
				got, skipped, err := framesAndSkipped(NewFramer(r))
				if err != io.EOF || skipped != 3 || len(got) != 3 || !bytes.Equal(bytes.Join(got, nil), bytes.Repeat(good, 3)) {
					t.Errorf("%s: %x, %d skipped, %v", how, got, skipped, err)
				}
			}
			for _, n := range []int{8, len(long) - 1} {
				if _, skipped, err := framesAndSkipped(NewFramer(bytes.NewReader(long[:n]))); err != io.ErrUnexpectedEOF || skipped != 1 {
					t.Errorf("cut after %d: %d skipped, %v", n, skipped, err)
				}
			}
		})
	}
}

// Who sends nothing but long frames makes the reader do no more than read.
func TestFramerSkipsWithoutAllocating(t *testing.T) {
	long := AppendChannelData(nil, 0x4000, zeros(0xFFFF), true)
	r := bytes.NewReader(nil)
	f := NewFramer(r)
	if n := testing.AllocsPerRun(50, func() {
		r.Reset(long)
		if _, err := f.Next(); err != ErrTooLong {
			t.Fatal(err)
		}
		if _, err := f.Next(); err != io.EOF {
			t.Fatal(err)
		}
	}); n != 0 || len(f.buf) != 8*MaxFrame {
		t.Errorf("%v allocations, buffer of %d", n, len(f.buf))
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
