package lab

import (
	"io"
	"time"
)

// Config says how to run the programs in a lab.
type Config struct {
	// Bin is the directory of the programs signal and p2pagent; empty for that of
	// the running program.
	Bin string
	// Trace is a directory that keeps traces and logs of every run; empty to keep
	// none.
	Trace string
	// Pcap is a directory for what went through both sides of each router; empty
	// for none.
	Pcap string
	// Runs is how many runs are measured in one lab, each with empty tables in the
	// routers. Zero means one.
	Runs int
	// Timeout bounds each step that waits for a program. Zero means 30 s.
	Timeout time.Duration
	// Verbose gets every command that is run; nil for none.
	Verbose io.Writer
}

func (c Config) runs() int { return max(c.Runs, 1) }

func (c Config) timeout() time.Duration {
	if c.Timeout <= 0 {
		return 30 * time.Second
	}
	return c.Timeout
}

// Standing is a lab that was left running.
type Standing struct {
	Name   string
	Signal string            // P2PAGENT_SIGNAL
	Addrs  map[string]string // of the nodes
}
