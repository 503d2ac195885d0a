package main

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Two ways to send and read the packets of one flow from a connected socket, many
// with one system call. A packet is a head (that of ChannelData, or nothing), the
// packet's number and zeros.
//
//	plain  sendmmsg and recvmmsg: a datagram each, all the way
//	gso    UDP_SEGMENT and UDP_GRO: what the kernel can keep together stays so

const (
	numberSize  = 8
	readBatch   = 64
	socketBytes = 8 << 20 // buffers of the load's own sockets, which are not to be what loses packets
)

type packetWriter interface {
	// burst is how many packets one call sends at most.
	burst() int
	// write sends the packets with these consecutive numbers.
	write(first uint64, packets int) error
}

type packetReader interface {
	// read waits for packets and calls got with the number of each.
	read(got func(number uint64)) error
}

func newPacketWriter(c *net.UDPConn, gso bool, head []byte) packetWriter {
	size := len(head) + loadPayload
	fill := func(packets int) []byte {
		b := make([]byte, packets*size)
		for p := range packets {
			copy(b[p*size:], head)
		}
		return b
	}
	if gso {
		return &gsoWriter{conn: c, buf: fill(gsoBurst), head: len(head), size: size, control: segmentControl(size)}
	}
	w := &plainWriter{conn: ipv4.NewPacketConn(c), buf: fill(plainBurst), head: len(head), size: size}
	for p := range plainBurst {
		w.messages = append(w.messages, ipv4.Message{Buffers: [][]byte{w.buf[p*size : (p+1)*size]}})
	}
	return w
}

type plainWriter struct {
	conn       *ipv4.PacketConn
	messages   []ipv4.Message
	buf        []byte
	head, size int
}

func (w *plainWriter) burst() int { return plainBurst }

func (w *plainWriter) write(first uint64, packets int) error {
	for p := range packets {
		binary.BigEndian.PutUint64(w.buf[p*w.size+w.head:], first+uint64(p))
	}
	for left := w.messages[:packets]; len(left) > 0; {
		n, err := w.conn.WriteBatch(left, 0)
		if err != nil {
			return lostInSending(err)
		}
		left = left[n:]
	}
	return nil
}

type gsoWriter struct {
	conn       *net.UDPConn
	buf        []byte
	head, size int
	control    []byte
}

func (w *gsoWriter) burst() int { return gsoBurst }

func (w *gsoWriter) write(first uint64, packets int) error {
	for p := range packets {
		binary.BigEndian.PutUint64(w.buf[p*w.size+w.head:], first+uint64(p))
	}
	_, _, err := w.conn.WriteMsgUDP(w.buf[:packets*w.size], w.control, nil)
	return lostInSending(err)
}

// lostInSending makes a full queue what it is, a loss.
func lostInSending(err error) error {
	if errors.Is(err, syscall.ENOBUFS) {
		return nil
	}
	return err
}

// segmentControl is the control message that cuts a write.
func segmentControl(size int) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(b[8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(b[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b
}

// newPacketReader reads packets with a head of so many bytes.
func newPacketReader(c *net.UDPConn, gso bool, head int) (packetReader, error) {
	if gso {
		err := setOption(c, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		return &gsoReader{conn: c, head: head, buf: make([]byte, 1<<16), oob: make([]byte, 128)}, err
	}
	r := &plainReader{conn: ipv4.NewPacketConn(c), head: head}
	for range readBatch {
		r.messages = append(r.messages, ipv4.Message{Buffers: [][]byte{make([]byte, 2048)}})
	}
	return r, nil
}

type plainReader struct {
	conn     *ipv4.PacketConn
	messages []ipv4.Message
	head     int
}

func (r *plainReader) read(got func(uint64)) error {
	n, err := r.conn.ReadBatch(r.messages, 0)
	if err != nil {
		return err
	}
	for _, m := range r.messages[:n] {
		readNumbers(m.Buffers[0][:m.N], m.N, r.head, got)
	}
	return nil
}

type gsoReader struct {
	conn     *net.UDPConn
	head     int
	buf, oob []byte
}

func (r *gsoReader) read(got func(uint64)) error {
	n, oobn, _, _, err := r.conn.ReadMsgUDPAddrPort(r.buf, r.oob)
	if err != nil {
		return err
	}
	readNumbers(r.buf[:n], segmentSize(r.oob[:oobn], n), r.head, got)
	return nil
}

// segmentSize is how long the packets are that the kernel put together.
func segmentSize(oob []byte, whole int) int {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return whole
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(binary.NativeEndian.Uint32(data))
		}
		oob = rest
	}
	return whole
}

// readNumbers calls got for each packet of the load in b. What is shorter is none.
func readNumbers(b []byte, size, head int, got func(uint64)) {
	for size > 0 && len(b) >= head+loadPayload {
		got(binary.BigEndian.Uint64(b[head : head+numberSize]))
		b = b[min(size, len(b)):]
	}
}

// setOption sets a socket option.
func setOption(c *net.UDPConn, level, name, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), level, name, value) })
	return errors.Join(err, inner)
}
