package measure

import (
	"runtime"
	"strings"
)

// ThisMachine tells what this process runs on.
func ThisMachine() Machine {
	cpu, kernel := machineDetails()
	return Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), CPU: cpu, Kernel: kernel}
}

// field finds "name : value" among the lines of /proc files.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
