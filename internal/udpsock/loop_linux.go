package udpsock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A loop is one goroutine that reads many sockets.
type loop struct {
	epoll int
	wake  int // an eventfd: readable when the loop is to end
	ended chan struct{}
	once  sync.Once

	mu      sync.RWMutex
	watched map[int32]*watched // by file descriptor; nil once closed

	batch batch // owned by the goroutine
	pace  pace  // likewise
}

// watched is a socket and who gets what it receives.
type watched struct {
	s *Socket
	c *rawConn
	h Handler
}

func newLoop() (*loop, error) {
	l := &loop{wake: -1, ended: make(chan struct{}), watched: make(map[int32]*watched)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(l.epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err = l.watch(l.wake); err != nil {
		unix.Close(l.epoll)
		unix.Close(l.wake)
		return nil, err
	}
	go l.run()
	return l, nil
}

func (l *loop) watch(fd int) error {
	return os.NewSyscallError("epoll_ctl",
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
}

func (l *loop) open(c Config, shared bool) (*Socket, error) {
	rc, local, err := listenRaw(l, c.Addr, shared)
	if err != nil {
		return nil, err
	}
	if err := setOptions(c, nil, rc); err != nil {
		rc.Close()
		return nil, err
	}
	s := newSocket(c, rc)
	s.local = local
	return s, nil
}

// share lets others be bound to the address of s.
func (s *Socket) share() error { return s.conn.(*rawConn).share() }

// readInLoop is false for a socket that no loop watches.
func (s *Socket) readInLoop(h Handler) (watched bool, err error) {
	c, ok := s.conn.(*rawConn)
	if !ok {
		return false, nil
	}
	return true, c.loop.add(s, c, h)
}

func (l *loop) add(s *Socket, c *rawConn, h Handler) error {
	return control(c, func(fd int) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.watched == nil {
			return net.ErrClosed
		}
		l.watched[int32(fd)] = &watched{s, c, h}
		return l.watch(fd)
	})
}

func (l *loop) find(fd int32) *watched {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.watched[fd]
}

// forget is called before fd is closed, which ends the watching.
func (l *loop) forget(fd int, c *rawConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watched[int32(fd)]; w != nil && w.c == c {
		delete(l.watched, int32(fd))
	}
}

// close ends the loop and waits for it.
func (l *loop) close() {
	l.once.Do(func() {
		l.mu.Lock()
		l.watched = nil
		l.mu.Unlock()
		unix.Write(l.wake, []byte{0: 1, 7: 0}) // any number but 0
		<-l.ended
		unix.Close(l.epoll)
		unix.Close(l.wake)
	})
	<-l.ended
}

// run waits for sockets and reads each once that has something: a socket with
// more is reported again, after the others have had their turn.
func (l *loop) run() {
	defer close(l.ended)
	defer l.batch.release(0)
	events := make([]unix.EpollEvent, 128)
	for failures := 0; ; {
		failed := false
		for _, e := range events[:l.wait(events)] {
			if e.Fd == int32(l.wake) {
				return
			}
			if w := l.find(e.Fd); w != nil && !l.read(w) {
				failed = true
			}
		}
		if !failed {
			failures = 0
			continue
		}
		failures++
		time.Sleep(readBackoff(failures))
	}
}

// wait returns how many of events there are, at least one unless interrupted.
//
// At some thousand datagrams a second, to be woken for each costs more than
// all else that is done for it. Then a short nap lets several come together.
func (l *loop) wait(events []unix.EpollEvent) int {
	if l.pace.nap(time.Now()) {
		nap(napTime)
		if n := poll(l.epoll, events); n > 0 {
			return n
		}
	}
	n, err := unix.EpollWait(l.epoll, events, -1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		panic(fmt.Sprintf("epoll_wait: %v", err)) // not possible with what it is given
	}
	return max(n, 0)
}

// read takes what has come to a socket, up to a batch, and hands it on. It is
// false when the kernel would not give it.
func (l *loop) read(w *watched) bool {
	packets, err := l.batch.read(w.c)
	switch {
	case errors.Is(err, unix.EAGAIN), w.s.isClosed():
		return true
	case err != nil:
		w.s.counts.rxErrors.Add(1)
		return false
	}
	l.pace.packets += len(packets)
	w.s.counts.reads.Add(1)
	for _, p := range packets {
		w.s.received(p)
	}
	merge(packets, w.s.flow)
	for i, p := range packets {
		if len(p.Data) > 0 && w.s.handOn(p, w.h) {
			packets[i] = nil
		}
	}
	return true
}
