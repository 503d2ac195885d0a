package measure

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func machineDetails() (cpu, kernel string) {
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		cpu = field(string(b), "model name")
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return cpu, kernel
}

// residentSize is the memory of this process in bytes, nil where not known.
func residentSize() *uint64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	kb, err := strconv.ParseUint(strings.TrimSuffix(field(string(b), "VmRSS"), " kB"), 10, 64)
	if err != nil {
		return nil
	}
	kb <<= 10
	return &kb
}
