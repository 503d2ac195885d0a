package forward

import "testing"

func TestClassFor(t *testing.T) {
	for _, c := range []struct{ n, class, want int }{
		{0, 0, 0},
		{1, 0, 0},
		{4 << 10, 0, 1}, // filled
		{4 << 10, 1, 1}, // as much as fills the smaller one
		{4<<10 - 1, 1, 0},
		{32 << 10, 1, 2},
		{32 << 10, 2, 2},
		{32<<10 - 1, 2, 1},
		{4<<10 - 1, 2, 0},
		{256 << 10, 2, 2},
	} {
		if got := classFor(c.n, c.class); got != c.want {
			t.Errorf("after %d bytes of %d: the buffer of %d, want %d", c.n, bufferSizes[c.class], bufferSizes[got], bufferSizes[c.want])
		}
	}
}
