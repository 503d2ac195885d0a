package forward

import (
	"sync"
	"testing"
)

func TestBufferFor(t *testing.T) {
	for _, c := range []struct {
		n, size int
		want    *sync.Pool
	}{
		{0, smallBuffer, small},
		{1, smallBuffer, small},
		{smallBuffer, smallBuffer, large},
		{smallBuffer, largeBuffer, large},
		{largeBuffer, largeBuffer, large},
		{smallBuffer - 1, largeBuffer, small},
	} {
		if got := bufferFor(c.n, c.size); got != c.want {
			t.Errorf("after %d bytes of %d: the large one is %v", c.n, c.size, got == large)
		}
	}
}
