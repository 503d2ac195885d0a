package udpsock

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A loop is one goroutine that reads many sockets. While nothing comes it is
// parked with an epoll descriptor in that of the Go runtime: a wait of its own
// would be a system call that the runtime's monitor has to watch, every 20 us,
// which cost more than what came.
type loop struct {
	epoll *os.File
	ready syscall.RawConn // of epoll
	ended chan struct{}
	once  sync.Once

	mu      sync.RWMutex
	watched map[int32]*watched // by file descriptor; nil once closed

	batch batch // owned by the goroutine
}

// watched is a socket and who gets what it receives.
type watched struct {
	s *Socket
	c *rawConn
	h Handler
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else the runtime does not watch it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &loop{epoll: os.NewFile(uintptr(fd), "epoll"), ended: make(chan struct{}), watched: make(map[int32]*watched)}
	if l.ready, err = l.epoll.SyscallConn(); err == nil {
		err = l.epoll.SetReadDeadline(time.Time{}) // an error where it is not watched
	}
	if err != nil {
		l.epoll.Close()
		return nil, err
	}
	go l.run()
	return l, nil
}

// watch adds a socket to those that the loop waits for.
func (l *loop) watch(fd int) (err error) {
	closed := l.ready.Control(func(epoll uintptr) {
		err = os.NewSyscallError("epoll_ctl",
			unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	})
	return errors.Join(closed, err)
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
		l.epoll.Close()
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
		n, err := l.wait(events)
		if err != nil {
			return // closed
		}
		failed := false
		for _, e := range events[:n] {
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

// wait returns how many of events there are, at least one. The error is that
// the loop is closed.
func (l *loop) wait(events []unix.EpollEvent) (n int, err error) {
	err = l.ready.Read(func(epoll uintptr) bool {
		n = poll(int(epoll), events)
		return n > 0
	})
	return n, err
}

// poll does not wait, so the scheduler is not told of the call.
func poll(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
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
	w.s.counts.reads.Add(1)
	for _, p := range packets {
		w.s.received(p)
	}
	merge(packets, w.s.flow)
	for i, p := range packets {
		if p.Data != nil && w.s.handOn(p, w.h) {
			packets[i] = nil
		}
	}
	return true
}
