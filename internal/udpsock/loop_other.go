//go:build !linux

package udpsock

// A loop is only where the kernel has recvmmsg; NewLoops does without.
type loop struct{}

func newLoop() (*loop, error)                    { return nil, nil }
func (*loop) open(Config, bool) (*Socket, error) { panic("no loops here") }
func (*loop) close()                             {}
func (*Socket) share() error                     { return nil }
func (*Socket) readInLoop(Handler) (bool, error) { return false, nil }
