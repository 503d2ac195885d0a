package path

import (
	"encoding/binary"
	"net"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// openOptions returns a UDP socket that is bound to nothing, so that nothing
// can be sent to it.
func openOptions() (optionSocket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "udp options"), nil
}

// ReadBatch fills messages with datagrams and returns how many: at least one,
// or an error. It waits for the first only.
//
// No control messages are passed on: QUIC would take the local address of one
// path for that of all, and the ECN marks of different paths for one path's.
func (c *Conn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	n := 0
	for n < len(ms) {
		d, err := c.in.next(n == 0)
		if err != nil {
			return 0, err
		}
		if d == nil {
			break
		}
		m := &ms[n]
		if len(d) > len(m.Buffers[0]) {
			c.lost.malformed.Add(1) // longer than QUIC's longest packet
			continue
		}
		m.N, m.NN, m.Flags, m.Addr = copy(m.Buffers[0], d), 0, 0, c.remote
		n++
	}
	return n, nil
}

// ReadMsgUDP reads one datagram, without control messages. QUIC asks for it to
// be there and calls ReadBatch.
func (c *Conn) ReadMsgUDP(b, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, _, err = c.ReadFrom(b)
	return n, 0, 0, c.remote, err
}

// WriteMsgUDP sends one datagram, or those into which a UDP_SEGMENT control
// message cuts b, to the peer. ECN marks are not carried: different paths treat
// them differently.
func (c *Conn) WriteMsgUDP(b, oob []byte, _ *net.UDPAddr) (n, oobn int, err error) {
	seg := segmentSize(oob)
	if seg == 0 {
		seg = len(b)
	}
	if err := c.write(b, seg); err != nil {
		return 0, 0, err
	}
	return len(b), len(oob), nil
}

// segmentSize returns the value of a UDP_SEGMENT control message, or 0.
func segmentSize(oob []byte) int {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(data) >= 2 {
			return int(binary.NativeEndian.Uint16(data))
		}
		oob = rest
	}
	return 0
}
