package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of /proc/PID/stat; Linux has it so on every platform that
// Go runs on.
const clockTick = 10 * time.Millisecond

// parseCPU reads user and system time from what /proc/PID/stat says.
func parseCPU(stat string) (time.Duration, error) {
	// The second field, the name, may contain anything; it ends at the last ")".
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%d fields after the name", len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] { // fields 14 and 15 of proc(5)
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// parseMemory reads a field of /proc/PID/status that is an amount of memory, in
// bytes.
func parseMemory(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		value, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", field, err)
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("no %s", field)
}

func cpuOf(pid int) (time.Duration, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	d, err := parseCPU(string(b))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// What a process has of memory, in bytes.
const (
	residentNow  = "VmRSS"
	residentPeak = "VmHWM"
)

func memoryOf(pid int, field string) (int64, error) {
	name := fmt.Sprintf("/proc/%d/status", pid)
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	n, err := parseMemory(string(b), field)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// perGB is CPU time for 10^9 bytes, in seconds.
func perGB(cpu time.Duration, bytes int64) float64 {
	return cpu.Seconds() / (float64(bytes) / 1e9)
}
