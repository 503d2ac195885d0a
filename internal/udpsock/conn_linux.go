package udpsock

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A linuxConn uses UDP_GRO on reads, UDP_SEGMENT and IP_TTL control messages
// on sends.
type linuxConn struct {
	*net.UDPConn
	kernelDrops
	gso, gro bool
	ttlLevel int32 // of the control message that carries the time-to-live
	ttlType  int32

	rxqOverflow atomic.Uint64 // the last SO_RXQ_OVFL
	oob         [128]byte     // the reader's
}

var errTruncatedControl = errors.New("control messages of a read were truncated")

func newPlatformConn(udp *net.UDPConn, network string, rc syscall.RawConn) conn {
	c := &linuxConn{UDPConn: udp, kernelDrops: kernelDrops{rc: rc}, ttlLevel: unix.IPPROTO_IP, ttlType: unix.IP_TTL}
	if network == "udp6" {
		c.ttlLevel, c.ttlType = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
	}
	rc.Control(func(fd uintptr) {
		c.gso, c.gro = setOffload(int(fd))
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) // not needed to work
	})
	return c
}

func (c *linuxConn) read(b []byte) (n, seg int, src netip.AddrPort, err error) {
	n, oobn, flags, src, err := c.ReadMsgUDPAddrPort(b, c.oob[:])
	if err != nil {
		return 0, 0, src, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, 0, src, errTruncatedControl // without UDP_GRO nobody knows where to cut
	}
	return n, c.readControl(c.oob[:oobn], n), src, nil
}

// readControl takes in the control messages of a read of n bytes and returns
// the size of its datagrams.
func (c *linuxConn) readControl(oob []byte, n int) (seg int) {
	seg = n
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return seg
		}
		oob = rest
		if len(data) < 4 {
			continue
		}
		value := binary.NativeEndian.Uint32(data)
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO:
			if 0 < value && value < uint32(n) {
				seg = int(value)
			}
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL:
			c.rxqOverflow.Store(uint64(value))
		}
	}
	return seg
}

func (c *linuxConn) write(b []byte, seg int, dst netip.AddrPort) error {
	if seg == 0 {
		_, err := c.WriteToUDPAddrPort(b, dst)
		return err
	}
	var m controlMessage
	binary.NativeEndian.PutUint16(m.data[:], uint16(seg))
	_, _, err := c.WriteMsgUDPAddrPort(b, m.bytes(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2), dst)
	return err
}

func (c *linuxConn) writeTTL(b []byte, dst netip.AddrPort, ttl int) error {
	var m controlMessage
	binary.NativeEndian.PutUint32(m.data[:], uint32(ttl))
	_, _, err := c.WriteMsgUDPAddrPort(b, m.bytes(c.ttlLevel, c.ttlType, 4), dst)
	return err
}

// A controlMessage lies in memory as sendmsg takes it: the data follow the
// header directly on 32 and on 64 bits.
type controlMessage struct {
	h    unix.Cmsghdr
	data [8]byte
}

func (m *controlMessage) bytes(level, typ int32, size int) []byte {
	m.h.Level, m.h.Type = level, typ
	m.h.SetLen(unix.CmsgLen(size))
	return unsafe.Slice((*byte)(unsafe.Pointer(m)), unix.CmsgSpace(size))
}

func (c *linuxConn) offload() (gso, gro bool) { return c.gso, c.gro }

func (c *linuxConn) drops() uint64 { return max(c.kernelDrops.drops(), c.rxqOverflow.Load()) }
