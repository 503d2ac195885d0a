package agent

import (
	"path/filepath"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Succession: a process that was killed has said no goodbye, and its links last at
// the listener until they are given up. The next process of the same machine knows
// better, and says so when it offers a link. Another run id alone proves nothing:
// `connect`, `pipe` and `ping` may run side by side.

// endedRuns leaves this process's mark, before its first link, and returns the
// earlier runs that are over. Where no mark can be left, links of killed runs are
// given up later, by time.
func (c *Connector) endedRuns() []identity.RunID {
	cfg := c.env.cfg
	if cfg.StateDir == "" {
		return nil
	}
	fail := func(err error) []identity.RunID {
		cfg.Trace.Emit(trace.Failure{Where: "mark of this run", Err: err.Error()})
		return nil
	}
	var err error
	if c.mark == nil {
		c.mark, err = identity.RecordRun(filepath.Join(cfg.StateDir, "runs"), c.env.run, cfg.Key.Fingerprint(), c.peer.Fingerprint)
		if err != nil {
			return fail(err)
		}
	}
	if c.ended, err = c.mark.Ended(); err != nil {
		return fail(err)
	}
	return c.ended
}

// told lets go of the runs that the listener has heard of.
func (c *Connector) told() {
	if c.mark == nil {
		return
	}
	if err := c.mark.Told(c.ended); err != nil {
		c.env.cfg.Trace.Emit(trace.Failure{Where: "mark of an earlier run", Err: err.Error()})
	}
	c.ended = nil
}

// unmark is the end of this run.
func (c *Connector) unmark() {
	if c.mark != nil {
		c.mark.Close()
		c.mark = nil
	}
}
