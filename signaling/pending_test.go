package signaling

import (
	"net/netip"
	"slices"
	"testing"
)

// TestPending: who makes way for whom. A step is a source that opens a
// connection ("a"), one that turns out to be of another source ("2>b": the third
// connection is b's), or one that ends ("2-").
func TestPending(t *testing.T) {
	tests := []struct {
		name  string
		most  int
		steps []string
		out   []int // displaced connections, in order
		left  int
	}{
		{name: "room for all", most: 3, steps: []string{"a", "a", "b"}, left: 3},
		{name: "a flood displaces itself, its oldest first", most: 3, steps: []string{"a", "a", "b", "a", "a"}, out: []int{0, 1}, left: 3},
		{name: "somebody else displaces the flood", most: 3, steps: []string{"a", "a", "a", "b", "c"}, out: []int{0, 1}, left: 3},
		{name: "the oldest of those with as many", most: 3, steps: []string{"c", "b", "a", "d", "e"}, out: []int{0, 1}, left: 3},
		{name: "a proxy's clients count for themselves once known", most: 4, steps: []string{"p", "0>v", "p", "1>w", "p", "2>w", "p", "3>w", "p"}, out: []int{1}, left: 4},
		{name: "who has ended makes room", most: 2, steps: []string{"a", "a", "1-", "a", "a"}, out: []int{0}, left: 2},
		{name: "what has ended is not moved", most: 2, steps: []string{"a", "0-", "0>b", "a", "a"}, left: 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPending(tt.most)
			source := func(letter byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, letter}) }
			var conns []*acceptedConn
			var out []int
			for _, step := range tt.steps {
				n := int(step[0] - '0')
				switch {
				case len(step) == 1:
					c := new(acceptedConn)
					conns = append(conns, c)
					if d := p.add(c, source(step[0])); d != nil {
						out = append(out, slices.Index(conns, d))
					}
				case step[1] == '>':
					p.move(conns[n], source(step[2]))
				default:
					p.remove(conns[n])
				}
				if p.total > tt.most {
					t.Fatalf("after %q there are %d", step, p.total)
				}
			}
			if !slices.Equal(out, tt.out) || p.total != tt.left {
				t.Errorf("displaced %v, want %v; %d left, want %d", out, tt.out, p.total, tt.left)
			}
			in := 0
			for source, l := range p.bySource {
				if in += l.Len(); l.Len() == 0 {
					t.Errorf("an empty list of %v is kept", source)
				}
			}
			if in != p.total {
				t.Errorf("%d in the lists, counted %d", in, p.total)
			}
		})
	}
}

// TestPendingIsFair: whatever one source does, who comes from another one has
// time for as many steps of it as there are places, and more.
func TestPendingIsFair(t *testing.T) {
	r := newRand(t)
	const most = 64
	p := newPending(most)
	flood, victim := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for range 1000 {
		p.add(new(acceptedConn), flood)
	}
	good := new(acceptedConn)
	p.add(good, victim)
	for i := range 10 * most {
		if d := p.add(new(acceptedConn), flood); d == good {
			t.Fatalf("displaced after %d of another source", i)
		}
	}
	p.remove(good)

	// From the same address it has as long as the flood needs to fill all places.
	p.add(good, flood)
	for i := range most - 1 - r.IntN(most/2) {
		if d := p.add(new(acceptedConn), flood); d == good {
			t.Fatalf("displaced after %d of its own source", i)
		}
	}
}

func BenchmarkPendingFull(b *testing.B) {
	p := newPending(2048)
	for i := 0; b.Loop(); i++ {
		p.add(new(acceptedConn), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	b.ReportMetric(float64(len(p.bySource)), "sources")
}
