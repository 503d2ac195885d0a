package forward

import (
	"net"
	"time"
)

// When a process is killed, the kernel closes its connections, and to the programs
// behind them that looks like a clean end. So a connection is made one that ends
// with a reset as soon as it is there, before a byte is read from it or written to
// it (markAbortive). Only when both directions have ended cleanly is that taken
// back, and the kernel delivers what it still holds (endCleanly).
//
// What is not TCP has no reset. The program behind the standard output of a killed
// `p2pagent pipe` sees its end, and only the exit status says that it was killed.

// markAbortive makes the end of this process, however it comes, a reset for the
// program behind c: SO_LINGER with a time of zero.
func markAbortive(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
}

// endCleanly closes a connection whose both directions have ended.
func endCleanly(c Near) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(-1)
	}
	c.Close()
}

// abort closes a connection so that its program sees a reset and not an end of
// file, and unblocks its readers.
func abort(c Near) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
		tcp.SetDeadline(time.Now())
	}
	c.Close()
}

// readsOut tells whether a connection that cannot be written to any more can be
// read until its end without waiting.
func readsOut(c Near) bool {
	_, ok := c.(*net.TCPConn)
	return ok
}
