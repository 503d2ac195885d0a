package path

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"
	"time"
)

// datagram returns n bytes that look like a QUIC packet and differ.
func datagram(n int, salt byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + byte(i>>8) + salt
	}
	b[0] = 0x40
	return b
}

// fragments returns a datagram in pieces of at most size bytes.
func fragments(t *testing.T, d []byte, size int, number uint32) [][]byte {
	t.Helper()
	count, piece := fragmentsFor(len(d), size)
	if count == 0 {
		t.Fatalf("%d bytes do not fit fragments of %d", len(d), size)
	}
	all := appendFragments(nil, d, count, piece, number)
	var out [][]byte
	for i := 0; i < len(all); i += piece + fragmentHeader {
		out = append(out, all[i:i+piece+fragmentHeader])
	}
	if len(out) != count {
		t.Fatalf("%d fragments, want %d", len(out), count)
	}
	return out
}

func TestFragmentLayout(t *testing.T) {
	got := appendFragments(nil, []byte{0x41, 0x42, 0x43, 0x44, 0x45}, 3, 2, 0x01020304)
	want, _ := hex.DecodeString("38000005010203044142" + "39000005010203044344" + "3a000005010203044500")
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestFragmentsRoundTrip(t *testing.T) {
	j := &joiner{max: 1452}
	var number uint32
	for _, size := range []int{sizeFloor, 700, 735, 1200, 1280, 1400, 1444} {
		for length := size + 1; length <= 1452; length++ {
			number++
			d := datagram(length, byte(number))
			fs := fragments(t, d, size, number)
			for i, f := range fs {
				if len(f) > size || len(f) != len(fs[0]) {
					t.Fatalf("%d in %d: fragment of %d bytes, first has %d", length, size, len(f), len(fs[0]))
				}
				whole := j.add(0, 1, f)
				if last := i == len(fs)-1; last != (whole != nil) || last && !bytes.Equal(whole, d) {
					t.Fatalf("%d in %d, fragment %d: got %d bytes", length, size, i, len(whole))
				}
			}
		}
	}
	if j.malformed.Load()+j.incomplete.Load() != 0 || j.joined.Load() != uint64(number) {
		t.Errorf("joined %d of %d, malformed %d, incomplete %d", j.joined.Load(), number, j.malformed.Load(), j.incomplete.Load())
	}
}

func TestFragmentsFor(t *testing.T) {
	for _, tt := range []struct{ length, size, count, piece int }{
		{1452, 1444, 2, 726}, {1452, 734, 2, 726}, {1452, 733, 3, 484}, {1452, 548, 3, 484},
		{1452, 400, 4, 363}, {1452, 371, 4, 363}, {1452, 370, 0, 0}, {1452, 0, 0, 0},
	} {
		if c, p := fragmentsFor(tt.length, tt.size); c != tt.count || p != tt.piece {
			t.Errorf("%d bytes in %d: %d pieces of %d, want %d of %d", tt.length, tt.size, c, p, tt.count, tt.piece)
		}
	}
}

func TestJoiner(t *testing.T) {
	const size = 800
	a, b := datagram(1400, 1), datagram(1401, 2)
	fa, fb := fragments(t, a, size, 7), fragments(t, b, size, 8)

	t.Run("any order, interleaved", func(t *testing.T) {
		j := &joiner{max: 1452}
		if j.add(0, 1, fa[1]) != nil || j.add(0, 1, fb[1]) != nil {
			t.Fatal("complete too early")
		}
		if !bytes.Equal(j.add(0, 1, fb[0]), b) || !bytes.Equal(j.add(0, 1, fa[0]), a) {
			t.Error("not joined")
		}
	})
	t.Run("a duplicate completes nothing", func(t *testing.T) {
		j := &joiner{max: 1452}
		for range 2 {
			if j.add(0, 1, fa[0]) != nil {
				t.Error("complete without its second half")
			}
		}
	})
	t.Run("halves of two paths are not mixed", func(t *testing.T) {
		j := &joiner{max: 1452}
		if j.add(0, 1, fa[0]) != nil || j.add(0, 2, fa[1]) != nil {
			t.Error("joined over two paths")
		}
	})
	t.Run("an old half is forgotten", func(t *testing.T) {
		j := &joiner{max: 1452}
		j.add(0, 1, fa[0])
		if j.add(joinTimeout+1, 1, fa[1]) != nil {
			t.Error("joined after the timeout")
		}
		if j.incomplete.Load() != 1 {
			t.Errorf("%d incomplete", j.incomplete.Load())
		}
		if !bytes.Equal(j.add(joinTimeout+2, 1, fa[0]), a) {
			t.Error("not joined afterwards")
		}
	})
	t.Run("a newer one takes the slot, a straggler does not take it back", func(t *testing.T) {
		j := &joiner{max: 1452}
		newer := fragments(t, b, size, 7+joinSlots)
		j.add(0, 1, fa[0])
		j.add(0, 1, newer[0])
		if j.add(0, 1, fa[1]) != nil {
			t.Error("joined what was given up")
		}
		if !bytes.Equal(j.add(0, 1, newer[1]), b) {
			t.Error("the newer one was lost")
		}
		if j.incomplete.Load() != 1 {
			t.Errorf("%d incomplete", j.incomplete.Load())
		}
	})
	t.Run("numbers wrap", func(t *testing.T) {
		j := &joiner{max: 1452}
		j.add(0, 1, fragments(t, a, size, 1<<32-64)[0])
		f := fragments(t, b, size, 0)
		j.add(0, 1, f[0])
		if !bytes.Equal(j.add(0, 1, f[1]), b) {
			t.Error("number 0 is not newer than 2³²-64")
		}
	})
	t.Run("malformed", func(t *testing.T) {
		j := &joiner{max: 1452}
		change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(fa[0])) }
		for name, b := range map[string][]byte{
			"empty":        {},
			"header":       fa[0][:fragmentHeader],
			"one piece":    change(func(b []byte) []byte { b[0] = 0x30; return b }),
			"index":        change(func(b []byte) []byte { b[0] |= 2; return b }),
			"short":        fa[0][:len(fa[0])-1],
			"long":         append(bytes.Clone(fa[0]), 0),
			"too long":     append([]byte{0x34, 0, 0x40, 0, 0, 0, 0, 1}, make([]byte, 0x2000)...),
			"empty piece":  {0x3C, 0, 0, 5, 0, 0, 0, 1, 9, 9},
			"not one":      change(func(b []byte) []byte { b[0] |= 0x40; return b }),
			"zero length":  {0x34, 0, 0, 0, 0, 0, 0, 1, 9},
			"piece length": change(func(b []byte) []byte { binary.BigEndian.PutUint16(b[2:], 1398); return b }),
		} {
			before := j.malformed.Load()
			if j.add(0, 1, b) != nil || j.malformed.Load() != before+1 {
				t.Errorf("%s: not refused", name)
			}
		}
	})
}

func FuzzJoin(f *testing.F) {
	d := datagram(1452, 3)
	two := appendFragments(nil, d, 2, 726, 1)
	f.Add(two, 734)
	f.Add(appendFragments(nil, d, 4, 363, 1<<32-1), 371)
	f.Add(append(bytes.Clone(two[734:]), two[:734]...), 734)
	f.Add([]byte{0x3C, 0, 0, 5, 0, 0, 0, 1, 9, 9}, 10)
	f.Fuzz(func(t *testing.T, b []byte, each int) {
		j := &joiner{max: 1452}
		if each <= 0 {
			each = len(b)
		}
		for now := time.Duration(0); len(b) > 0; now += time.Second {
			n := min(each, len(b))
			first := b[0]
			if whole := j.add(now, int(first&1), b[:n]); len(whole) > j.max || whole != nil && !isFragment(first) {
				t.Fatalf("%d bytes from a fragment that begins with %#x", len(whole), first)
			}
			b = b[n:]
		}
	})
}
