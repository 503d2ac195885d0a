package udpsock

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
)

var (
	alice = netip.MustParseAddrPort("192.0.2.1:1000")
	bob   = netip.MustParseAddrPort("192.0.2.1:1001")
)

func TestMerge(t *testing.T) {
	first := func(b []byte) uint32 {
		if len(b) == 0 {
			return 0
		}
		return uint32(b[0])
	}
	for name, tc := range map[string]struct {
		in   string // source:datagrams, seg/ first where the kernel had joined some
		flow func([]byte) uint32
		want string
	}{
		"one":                 {"a:xyz", nil, "a:3/xyz"},
		"one flow":            {"a:xyz a:uvw a:rst", nil, "a:3/xyzuvwrst"},
		"short one ends":      {"a:xyz a:uv a:rst", nil, "a:3/xyzuv a:3/rst"},
		"longer one begins":   {"a:xy a:uvw a:rst", nil, "a:2/xy a:3/uvwrst"},
		"interleaved":         {"a:xyz b:123 a:uvw b:456", nil, "a:3/xyzuvw b:3/123456"},
		"order within a flow": {"a:xy a:uvw b:12 a:rs a:op", nil, "a:2/xy a:3/uvwrs b:2/12 a:2/op"},
		"joined by kernel":    {"a:2/xyuv a:2/rst a:2/op", nil, "a:2/xyuvrst a:2/op"},
		"joined, other size":  {"a:3/xyzuvw a:2/rsto", nil, "a:3/xyzuvw a:2/rsto"},
		"empty between":       {"a:xyz a: a:uvw", nil, "a:3/xyz a:0/ a:3/uvw"},
		"empty of others":     {"a:xyz b: a:uvw", nil, "a:3/xyzuvw b:0/"},
		"empty, channels":     {"a:x1 a: a:x2 a:", first, "a:2/x1x2 a:0/ a:0/"},
		"channels":            {"a:x1 a:y1 a:x2 a:y2", first, "a:2/x1x2 a:2/y1y2"},
		"channels by kernel":  {"a:2/x1x2 a:2/y1y2 a:x3 a:2/y3y4", first, "a:2/x1x2x3 a:2/y1y2y3y4"},
		"mixed by kernel":     {"a:y1 a:2/x1y2 a:y3 b:y1 a:y4", first, "a:2/y1 a:2/x1y2 a:2/y3y4 b:2/y1"},
		"mixed at its end":    {"a:x1 a:2/x2y a:x3", first, "a:2/x1 a:2/x2y a:2/x3"},
	} {
		t.Run(name, func(t *testing.T) {
			ps := packetsOf(tc.in)
			merge(ps, tc.flow)
			if got := wordsOf(ps); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// What is joined leaves room for a relay's headers in one send.
func TestMergeIsBounded(t *testing.T) {
	var ps []*Packet
	for range 64 {
		ps = append(ps, asRead(make([]byte, 1452), 0, alice))
	}
	merge(ps, nil)
	if n := ps[0].Count(); len(ps[0].Data)+4*n > maxSend || n < 40 {
		t.Errorf("%d datagrams in one batch", n)
	}
}

func packetsOf(s string) (ps []*Packet) {
	for _, word := range strings.Split(s, " ") {
		src, data, _ := strings.Cut(word, ":")
		seg := 0
		if before, after, ok := strings.Cut(data, "/"); ok {
			fmt.Sscan(before, &seg)
			data = after
		}
		from := alice
		if src == "b" {
			from = bob
		}
		ps = append(ps, asRead([]byte(data), seg, from))
	}
	return ps
}

func wordsOf(ps []*Packet) string {
	var words []string
	for _, p := range ps {
		if p.Data == nil {
			continue
		}
		src := "a"
		if p.Src == bob {
			src = "b"
		}
		words = append(words, fmt.Sprintf("%s:%d/%s", src, p.Seg, p.Data))
	}
	return strings.Join(words, " ")
}

// Whatever comes: each flow has the same datagrams in the same order after.
// The bytes are Packets: how long a datagram is, or 7 for more of the length
// before in one Packet, and from whom, and to which channel.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{3, 3, 3, 2, 3, 0x83, 0x83}, false)
	f.Add([]byte{0x12, 0x02, 0x17, 0x12}, true)
	f.Fuzz(func(t *testing.T, sizes []byte, channels bool) {
		if len(sizes) > 64 {
			return
		}
		type flow struct {
			src     netip.AddrPort
			channel uint32
		}
		channel := func(d []byte) uint32 {
			if !channels || len(d) == 0 {
				return 0
			}
			return uint32(d[0])
		}
		collect := func(ps []*Packet) map[flow][]byte {
			all := map[flow][]byte{}
			for _, p := range ps {
				if p.Data != nil && len(p.Data) == 0 {
					k := flow{p.Src, channel(nil)}
					all[k] = append(all[k], 0)
				}
				for d := range p.Datagrams() {
					k := flow{p.Src, channel(d)}
					all[k] = append(append(all[k], byte(len(d))), d...)
				}
			}
			return all
		}
		var ps []*Packet
		for i, b := range sizes {
			n, first, from := int(b&7), b>>4&3, alice
			if b&0x80 != 0 {
				from = bob
			}
			last := len(ps) - 1
			more := n == 7 && last >= 0 && ps[last].Seg > 0
			if more {
				n = ps[last].Seg
			}
			d := bytes.Repeat([]byte{byte(i)}, n)
			if n > 0 {
				d[0] = first
			}
			if more {
				seg, all := ps[last].Seg, append(bytes.Clone(ps[last].Data), d...)
				ps[last] = asRead(all, seg, ps[last].Src)
			} else {
				ps = append(ps, asRead(d, 0, from))
			}
		}
		want := collect(ps)
		merge(ps, channel)
		if got := collect(ps); !maps.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// asRead is a Packet as a read leaves it, in a buffer that holds any read.
func asRead(b []byte, seg int, src netip.AddrPort) *Packet {
	p := getPacket()
	p.set(copy(p.buf, b), seg, src)
	return p
}
