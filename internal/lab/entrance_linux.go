package lab

import (
	"strconv"
	"syscall"
)

// entrances are the processes outside of a lab that wait for a command inside of it:
// each `lab exec` is one. The kernel ends a lab only when all of them have heard that
// their command is gone, so one that is stopped keeps the lab from ending: ^Z stops
// the command, and then the one that waits for it.
func entrances(supervisor int) (found []int) {
	inside := inNamespace(supervisor)
	if inside == "" {
		return nil
	}
	for _, pid := range processes() {
		if pid == supervisor || inNamespace(pid) != inside {
			continue
		}
		stat, err := statOf(pid)
		if err != nil {
			continue // gone
		}
		parent, err := strconv.Atoi(stat[statParent])
		if err == nil && parent > 0 && inNamespace(parent) != inside {
			found = append(found, parent)
		}
	}
	return found
}

// resume has processes go on that are stopped. Others take no notice.
func resume(pids []int) {
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGCONT) // gone, or another user's: how the lab ends will tell
	}
}
