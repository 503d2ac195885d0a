package relay

import (
	"errors"
	"net"
	"time"
)

// The lifetime of an allocation is kept here, by one timer each. pion's own
// timer would end the allocation in a goroutine beside the one that handles
// requests, and pion is not made for that: a permission is in its map before it
// has the timer that the end of the allocation stops, which is a panic. So pion
// is given more time than any client, and what ends an allocation is always a
// message in its queue.
//
// pion's timers of single permissions and channels only take them out of its
// tables, under its locks. Whether data may pass is for rights to say.

// begin enters c in the ledger, has pion take it over and starts its lifetime.
// A Refresh that comes meanwhile waits.
func (c *relayConn) begin(d time.Duration, now time.Time) (code int, err error) {
	c.life.Lock()
	defer c.life.Unlock()
	c.expiry = time.AfterFunc(engineLifetime, c.expire) // to be there if pion closes c at once
	c.server.ledger.enter(c.from.fiveTuple, c)
	if code, err = c.server.engine.allocate(c, now); code != 0 || err != nil {
		return code, err
	}
	c.start(d)
	return 0, nil
}

// prolong starts the lifetime anew with d, or ends the allocation if d is 0.
func (c *relayConn) prolong(d time.Duration, now time.Time) (code int, err error) {
	c.life.Lock()
	defer c.life.Unlock()
	if !c.expiry.Stop() { // expire is under way, or was
		return codeAllocationMismatch, nil
	}
	if d == 0 {
		code, err = c.server.engine.end(c, now)
	} else {
		code, err = c.server.engine.refresh(c, now)
	}
	switch {
	case code != 0 || err != nil:
		c.expiry.Reset(0) // what the client is told has ended does end
	case d != 0:
		c.start(d)
	}
	return code, err
}

func (c *relayConn) start(d time.Duration) {
	c.granted.Store(int64(d))
	c.expiry.Reset(d)
}

// expire ends the allocation whose lifetime is over.
func (c *relayConn) expire() {
	code, err := c.server.engine.end(c, c.server.now())
	if (code != 0 || err != nil) && !errors.Is(err, net.ErrClosed) {
		c.server.log.Warn("allocation not ended", "relayed", c.relayed, "code", code, "err", err)
	}
}
