package measure

import "math/rand/v2"

// payload is what is sent: bytes that no layer below can make smaller.
var payload = func() (b [block]byte) {
	rand.NewChaCha8([32]byte{'m', 'e', 'a', 's', 'u', 'r', 'e'}).Read(b[:])
	return b
}()
