package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// capture writes what passes both sides of each router into pcap files. It is no
// tcpdump because tcpdump gives up root, which a lone user's namespaces cannot.
type capture struct {
	sockets []*os.File
	wait    sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

// startCapture begins with a file NODE-INTERFACE.pcap each; an empty dir captures
// nothing.
func (l *Lab) startCapture(dir string) (*capture, error) {
	c := &capture{}
	if dir == "" {
		return c, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, s := range l.sites {
		for _, dev := range s.interfaces() {
			if err := c.add(l.nodes[s.router], dev, filepath.Join(dir, s.router+"-"+dev+".pcap")); err != nil {
				return nil, errors.Join(fmt.Errorf("capture %s of %s: %w", dev, s.router, err), c.close())
			}
		}
	}
	return c, nil
}

// interfaces are those of the site's router that see all of its traffic. A bridge
// itself does not: frames between two of its ports pass it by.
func (s site) interfaces() []string {
	if len(s.hosts) == 1 {
		return []string{lanInterface, wanInterface}
	}
	var out []string
	for _, host := range s.hosts {
		out = append(out, lanPort(host))
	}
	return append(out, wanInterface)
}

func (c *capture) add(n *Node, dev, path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	var sock *os.File
	if err := n.Do(func() (err error) { sock, err = packetSocket(dev); return err }); err != nil {
		out.Close()
		return err
	}
	c.sockets = append(c.sockets, sock)
	c.wait.Go(func() {
		err := errors.Join(copyPackets(out, sock), out.Close())
		c.mu.Lock()
		defer c.mu.Unlock()
		c.errs = append(c.errs, err)
	})
	return nil
}

// close ends the capture and reports what went wrong, packets that were missed
// included.
func (c *capture) close() error {
	for _, s := range c.sockets {
		s.SetReadDeadline(time.Now()) // and not Close: what is queued has to be read
	}
	c.wait.Wait()
	for _, s := range c.sockets {
		c.errs = append(c.errs, missed(s), s.Close())
	}
	c.sockets = nil
	return errors.Join(c.errs...)
}

const captureBuffer = 16 << 20

// packetSocket reads every frame of one interface, with the kernel's timestamps.
func packetSocket(dev string) (*os.File, error) {
	iface, err := interfaceIndex(dev)
	if err != nil {
		return nil, err
	}
	// Protocol 0 receives nothing until bind has set the interface too.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: iface}))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer) // as much as a user may
	}
	return os.NewFile(uintptr(fd), dev), nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// interfaceIndex asks the namespace that the thread is in.
func interfaceIndex(dev string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(dev)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// The pcap file format, with nanoseconds.
const (
	pcapMagic    = 0xa1b23c4d
	pcapEthernet = 1
	snapLen      = 1 << 17 // frames of segmentation offload reach 64 KiB
)

// copyPackets reads frames until the socket's deadline and writes them as pcap.
func copyPackets(w io.Writer, sock *os.File) error {
	out := bufio.NewWriter(w)
	header := binary.LittleEndian.AppendUint32(nil, pcapMagic)
	header = binary.LittleEndian.AppendUint16(header, 2)
	header = binary.LittleEndian.AppendUint16(header, 4)
	header = append(header, make([]byte, 8)...) // time zone and accuracy: UTC, none
	header = binary.LittleEndian.AppendUint32(header, snapLen)
	header = binary.LittleEndian.AppendUint32(header, pcapEthernet)
	if _, err := out.Write(header); err != nil {
		return err
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	read := raw.Read
	frame, control := make([]byte, snapLen), make([]byte, 128)
	for draining := false; ; {
		n, at, err := readFrame(read, frame, control)
		if errors.Is(err, os.ErrDeadlineExceeded) && !draining {
			read, draining = withoutWaiting(raw), true
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return out.Flush()
		}
		if err != nil {
			return errors.Join(err, out.Flush())
		}
		record := binary.LittleEndian.AppendUint32(header[:0], uint32(at.Unix()))
		record = binary.LittleEndian.AppendUint32(record, uint32(at.Nanosecond()))
		record = binary.LittleEndian.AppendUint32(record, uint32(n))
		record = binary.LittleEndian.AppendUint32(record, uint32(n))
		out.Write(record)
		if _, err := out.Write(frame[:n]); err != nil { // keeps the first error
			return err
		}
	}
}

// withoutWaiting is raw's Read for a socket that is past its deadline: it takes what
// is there.
func withoutWaiting(raw syscall.RawConn) func(func(uintptr) bool) error {
	return func(f func(uintptr) bool) error {
		some := false
		err := raw.Control(func(fd uintptr) { some = f(fd) })
		if err == nil && !some {
			return os.ErrDeadlineExceeded
		}
		return err
	}
}

// readFrame reads one frame and when the kernel saw it.
func readFrame(read func(func(uintptr) bool) error, frame, control []byte) (n int, at time.Time, err error) {
	var oobn int
	waitErr := read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), frame, control, 0)
		return err != unix.EAGAIN
	})
	if waitErr != nil {
		return 0, at, waitErr
	}
	if err != nil {
		return 0, at, err
	}
	at = time.Now()
	msgs, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return 0, at, err
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return min(n, len(frame)), at, nil
}

// missed reports packets that came faster than they were written.
func missed(sock *os.File) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var stats *unix.TpacketStats
	controlErr := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("count missed packets: %w", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("capture of %s missed %d of %d packets", sock.Name(), stats.Drops, stats.Packets)
	}
	return nil
}
