package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processes are those that this process can see.
func processes() (pids []int) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil // a malformed pattern
	}
	for _, dir := range all {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Fields of /proc/PID/stat behind the name; proc_pid_stat(5) counts them from 3.
const (
	statState   = 0
	statParent  = 1
	statStarted = 19
)

// statOf reads the fields of /proc/PID/stat behind the name: that may contain
// anything, but ends at the last ")".
func statOf(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= statStarted {
		return nil, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	return fields, nil
}

// inNamespace is the PID namespace of a process; "" where it is gone, or is not ours
// to look at.
func inNamespace(pid int) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return ""
	}
	return link
}
