package udpsock

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// napTime is how long a busy loop lets datagrams gather. The kernel adds
	// about 50 us, so that none waits for more than 0.2 ms.
	napTime = 120 * time.Microsecond

	// busyPackets is how many there are in paceWindow when napping pays: two
	// or more in a nap.
	paceWindow  = 2 * time.Millisecond
	busyPackets = 20
)

// A pace tells when a loop is busy. The zero pace is not.
type pace struct {
	packets int // since
	since   time.Time
	busy    bool
}

// nap tells whether to let some more datagrams come.
func (p *pace) nap(now time.Time) bool {
	if d := now.Sub(p.since); d >= paceWindow {
		if p.busy {
			runtime.Gosched() // who naps has not given up its place
		}
		p.busy = float64(p.packets)*float64(paceWindow) >= busyPackets*float64(d)
		p.packets, p.since = 0, now
	}
	return p.busy
}

// nap and poll are short, so the scheduler is not told: it would give our
// place away and wake another thread for it.

func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

func poll(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
