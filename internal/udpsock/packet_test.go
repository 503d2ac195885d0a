package udpsock

import (
	"bytes"
	"slices"
	"testing"
)

func TestNewPacket(t *testing.T) {
	tests := []struct {
		n, seg  int
		wantSeg int
		count   int
	}{
		{0, 0, 0, 0}, {5, 0, 5, 1}, {5, 9, 5, 1}, {6, 3, 3, 2}, {7, 3, 3, 3}, {bufferSize, 1452, 1452, 46}, {5, -1, 5, 1},
	}
	for _, tt := range tests {
		b := pattern(tt.n, max(tt.seg, 0))
		p := NewPacket(b, tt.seg, peer)
		if !bytes.Equal(p.Data, b) || p.Seg != tt.wantSeg || p.Count() != tt.count || p.Src != peer {
			t.Errorf("NewPacket(%d, %d): %d bytes in %d of %d", tt.n, tt.seg, len(p.Data), p.Count(), p.Seg)
		}
		if got := slices.Concat(slices.Collect(p.Datagrams())...); !bytes.Equal(got, b) {
			t.Errorf("NewPacket(%d, %d): datagrams are %x", tt.n, tt.seg, got)
		}
		if tt.n > 0 && &p.Data[0] == &b[0] {
			t.Error("the data were not copied")
		}
		p.Release()
	}
}

func TestReleaseTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	p := NewPacket([]byte("x"), 0, peer)
	p.Release()
	p.Release()
}

func TestCutStopsEarly(t *testing.T) {
	for d := range Cut([]byte("abcdef"), 2) {
		if string(d) != "ab" || cap(d) != 2 {
			t.Errorf("first piece %q, cap %d", d, cap(d))
		}
		break
	}
}

func TestTakeSTUN(t *testing.T) {
	tests := []struct {
		name string
		b    string
		seg  int
		data string
		stun []string
	}{
		{"data alone", "AaBbC", 2, "AaBbC", nil},
		{"STUN alone", "\x00a\x01b\x02", 2, "", []string{"\x00a", "\x01b", "\x02"}},
		{"STUN first", "\x00aBbC", 2, "BbC", []string{"\x00a"}},
		{"STUN between", "Aa\x03bCcD", 2, "AaCcD", []string{"\x03b"}},
		{"a short one last", "AaBb\x01", 2, "AaBb", []string{"\x01"}},
		{"every other", "\x00aBb\x00cDd", 2, "BbDd", []string{"\x00a", "\x00c"}},
		{"the first byte of a fragment", "\x04a\x03b", 2, "\x04a", []string{"\x03b"}},
	}
	for _, tt := range tests {
		var stun []string
		data := takeSTUN([]byte(tt.b), tt.seg, func(b []byte) {
			if cap(b) != len(b) {
				t.Errorf("%s: STUN with room behind", tt.name)
			}
			stun = append(stun, string(b))
		})
		if string(data) != tt.data || !slices.Equal(stun, tt.stun) {
			t.Errorf("%s: data %q, STUN %q", tt.name, data, stun)
		}
	}
}

// FuzzTakeSTUN: every datagram goes exactly one way, whole and in order.
func FuzzTakeSTUN(f *testing.F) {
	f.Add([]byte("Aa\x00bCc\x01"), byte(2))
	f.Add([]byte("\x00\x00\x00"), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, seg byte) {
		size := int(seg) + 1
		var wantData, wantSTUN, gotSTUN [][]byte
		for d := range Cut(bytes.Clone(b), size) {
			if d[0] > 3 {
				wantData = append(wantData, d)
			} else {
				wantSTUN = append(wantSTUN, d)
			}
		}
		data := takeSTUN(b, size, func(d []byte) { gotSTUN = append(gotSTUN, bytes.Clone(d)) })
		if got := slices.Collect(Cut(data, size)); !slices.EqualFunc(got, wantData, bytes.Equal) {
			t.Fatalf("data %q, want %q", got, wantData)
		}
		if !slices.EqualFunc(gotSTUN, wantSTUN, bytes.Equal) {
			t.Fatalf("STUN %q, want %q", gotSTUN, wantSTUN)
		}
	})
}
