package lab

import (
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// reapOrphans does the duty of a process 1 until the returned function is called:
// what a command leaves in the background becomes its child, and stays in the
// process table until somebody asks how it ended. own is the one child that
// somebody else waits for; no other may be started meanwhile.
func reapOrphans(own int) (stop func()) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, pid := range deadChildren() {
				if pid != own {
					unix.Wait4(pid, nil, unix.WNOHANG, nil)
				}
			}
			select {
			case <-died:
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(died)
		close(quit)
		<-done
	}
}

// deadChildren lists the children of this process that have ended.
func deadChildren() (pids []int) {
	parent := strconv.Itoa(os.Getpid())
	for _, pid := range processes() {
		if stat, err := statOf(pid); err == nil && stat[statState] == "Z" && stat[statParent] == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}
