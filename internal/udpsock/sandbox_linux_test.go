package udpsock

import (
	"errors"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// without runs f on a thread whose system call nr fails with EPERM, as in a
// sandbox. f must not end the test.
func without(t *testing.T, nr uint32, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := forbid(nr)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skip("cannot forbid a system call:", err)
	}
}

func forbid(nr uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

func TestReadWithoutRecvmmsg(t *testing.T) {
	l := NewLoops(1, false)
	defer l.Close()
	m := mode{"udp4", "127.0.0.1:0", false}
	s, err := l.Listen(m.config())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	from := m.listen(t)
	for range 2 {
		from.Send(pattern(100, 0), 0, s.LocalAddr())
	}
	without(t, unix.SYS_RECVMMSG, func() {
		var b batch
		defer b.release(0)
		for i := range 2 {
			ps, err := b.read(s.conn.(*rawConn))
			for end := time.Now().Add(patience); errors.Is(err, unix.EAGAIN) && time.Now().Before(end); { // delivered a little later
				ps, err = b.read(s.conn.(*rawConn))
			}
			if err != nil || len(ps) != 1 || len(ps[0].Data) != 100 {
				t.Errorf("read %d: %d messages, %v", i, len(ps), err)
			}
		}
	})
}

// Without epoll for itself, Loops does what it does on other platforms.
func TestLoopsWithoutEpoll(t *testing.T) {
	l := new(Loops)
	without(t, unix.SYS_EPOLL_CREATE1, func() { l = NewLoops(2, false) })
	defer l.Close()
	if l.Refused() == nil {
		t.Error("loops without epoll")
	}
	m := mode{"udp4", "127.0.0.1:0", false}
	in := newInbox()
	s := l.listenAnd(t, m, in)
	m.listen(t).Send([]byte("heard"), 0, s.LocalAddr())
	if got := receive(t, in.data); string(got) != "heard" {
		t.Errorf("got %q", got)
	}
}
