package measure

import "math/rand/v2"

// payload is what one write sends: bytes that no layer below can make smaller, and
// few enough for progress on a slow line to be seen.
var payload = func() (b [64 << 10]byte) {
	rand.NewChaCha8([32]byte{'m', 'e', 'a', 's', 'u', 'r', 'e'}).Read(b[:])
	return b
}()
