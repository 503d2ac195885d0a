package udpsock

import (
	"context"
	"net"
	"sync"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Loops read many sockets: those of a server, of which most are idle. On Linux
// a few goroutines wait for all of them. They take as many
// datagrams with one call as there are (recvmmsg), and join those of one flow,
// so that senders without offloads come out in batches too. An idle socket
// costs no buffer and no goroutine.
//
// Elsewhere, with Config.Portable, for IPv6, and where the system lets us have
// no loop, each socket has a goroutine that does the same one datagram at a
// time.
type Loops struct {
	loops   []*loop // none where the platform has none
	refused error   // why there are no more

	mu    sync.Mutex
	next  int
	ended bool // guarded by mu, like what is below

	// Readers of sockets that no loop can read.
	ctx    context.Context
	cancel context.CancelFunc
	others sync.WaitGroup
}

// NewLoops starts n loops, or none with portable. Close ends them.
func NewLoops(n int, portable bool) *Loops {
	l := new(Loops)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if portable {
		return l
	}
	for range n {
		one, err := newLoop()
		if one == nil || err != nil {
			l.refused = err
			break
		}
		l.loops = append(l.loops, one)
	}
	return l
}

// Refused is why there are fewer loops than there should be, nil if there are
// not.
func (l *Loops) Refused() error { return l.refused }

// Listen opens a socket. Nothing is read before Read.
func (l *Loops) Listen(c Config) (*Socket, error) {
	if !l.watches(c) {
		return Listen(c)
	}
	return l.pick().listen(c, false)
}

// ListenEach opens one socket for each loop, all at one address: the kernel
// deals out the sources over them. It is an error when somebody else has the
// address, whoever that is.
func (l *Loops) ListenEach(c Config) ([]*Socket, error) {
	if !l.watches(c) {
		s, err := Listen(c)
		return []*Socket{s}, err
	}
	first, err := l.loops[0].listen(c, false) // alone, and only then shared
	if err != nil {
		return nil, err
	}
	all := []*Socket{first}
	if len(l.loops) == 1 || first.share() != nil {
		return all, nil
	}
	c.Addr = first.LocalAddr()
	for _, one := range l.loops[1:] {
		s, err := one.listen(c, true)
		if err != nil {
			for _, s := range all {
				s.Close()
			}
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (l *Loops) watches(c Config) bool {
	return len(l.loops) > 0 && c.Network == "udp4" && !c.Portable
}

// pick returns one loop after the other.
func (l *Loops) pick() *loop {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = (l.next + 1) % len(l.loops)
	return l.loops[l.next]
}

// Read gives h what comes to s, which is one of ours, until s or l is closed.
// A call of h may be under way when s.Close returns, not when l.Close does.
func (l *Loops) Read(s *Socket, h Handler) error {
	if watched, err := s.readInLoop(h); watched {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return net.ErrClosed
	}
	l.others.Go(func() { s.Serve(l.ctx, h) })
	return nil
}

// Close stops all reading, and waits for it. The sockets stay open.
func (l *Loops) Close() error {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.cancel()
	for _, one := range l.loops {
		one.close()
	}
	l.others.Wait()
	return nil
}

// listen opens a socket for the loop.
func (l *loop) listen(c Config, shared bool) (*Socket, error) {
	if err := c.validate(); err != nil {
		return nil, listenError(c, err)
	}
	s, err := l.open(c, shared)
	if err != nil {
		return nil, listenError(c, err)
	}
	gso, gro := s.Offload()
	c.Trace.Emit(trace.SocketOpened{Network: s.network, Local: s.local, GSO: gso, GRO: gro})
	return s, nil
}
