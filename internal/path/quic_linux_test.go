package path

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// What quic-go asserts to send and read batches.
var _ interface {
	quic.OOBCapablePacketConn
	ReadBatch([]ipv4.Message, int) (int, error)
} = (*Conn)(nil)

// QUIC asks these of its socket; a failure would cost batches or packet size.
func TestOptions(t *testing.T) {
	c := testConn(t, true)
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) {
		if _, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT); err != nil {
			t.Errorf("UDP_SEGMENT: %v", err)
		}
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
			t.Errorf("IP_MTU_DISCOVER: %v", err)
		}
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1); err != nil {
			t.Errorf("IP_RECVTOS: %v", err)
		}
		if sa, err := unix.Getsockname(int(fd)); err != nil {
			t.Error(err)
		} else if a, ok := sa.(*unix.SockaddrInet4); !ok || a.Port != 0 {
			t.Errorf("it is bound, to %+v", sa)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if a, ok := c.LocalAddr().(*net.UDPAddr); !ok || a.IP.IsUnspecified() {
		t.Errorf("local address %v: QUIC would ask for packet information", c.LocalAddr())
	}
}

func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers, ms[i].OOB, ms[i].NN = [][]byte{make([]byte, 1452)}, make([]byte, 128), 99
	}
	return ms
}

func TestReadBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, sa, sb, _ := met(t)
		k := b.carriers[sb]
		push := func(seg int, parts ...[]byte) {
			var all []byte
			for _, p := range parts {
				all = append(all, p...)
			}
			k.HandleData(udpsock.NewPacket(all, seg, sa.addr))
		}
		d := func(salt byte) []byte { return datagram(1000, salt) }
		ms := messages(8)

		// Two reads of the socket fill one batch; the rest waits.
		push(1000, d(1), d(2), d(3), d(4), d(5))
		push(1000, d(6), d(7), d(8), d(9), datagram(10, 10))
		for _, want := range []int{8, 2} {
			n, err := b.ReadBatch(ms, 0)
			if err != nil || n != want {
				t.Fatalf("%d messages, %v, want %d", n, err, want)
			}
		}
		if m := ms[1]; m.N != 10 || m.NN != 0 || m.Flags != 0 || m.Addr != b.PeerAddr() {
			t.Errorf("message %+v", m)
		}

		// What is none of QUIC's does not make an empty batch: the read waits.
		junk := datagram(1000, 0)
		junk[0] = 0x20
		f := appendFragments(nil, d(1), 2, 500, 1)
		long := datagram(1500, 0)
		push(1000, junk)
		push(508, f[:508])
		push(1500, long)
		got := make(chan int, 1)
		go func() {
			n, err := b.ReadBatch(ms, 0)
			if err != nil {
				n = -1
			}
			got <- n
		}()
		synctest.Wait()
		select {
		case n := <-got:
			t.Fatalf("%d messages of nothing", n)
		default:
		}
		push(508, f[508:])
		if n := <-got; n != 1 || ms[0].N != 1000 {
			t.Errorf("%d messages, the first of %d bytes", n, ms[0].N)
		}
		if l := b.Losses(); l.Malformed != 2 || l.Joined != 1 {
			t.Errorf("losses %+v", l)
		}

		// The end is an error, also when packets wait.
		push(1000, d(1))
		b.SetReadDeadline(time.Now())
		if n, err := b.ReadBatch(ms, 0); n != 0 || !isTimeout(err) {
			t.Errorf("after the deadline: %d, %v", n, err)
		}
		b.Close()
		if n, err := b.ReadBatch(ms, 0); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %d, %v", n, err)
		}
		a.Close()
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestWriteMsgUDPKeepsBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, sa, _, _ := met(t)
		var batch []byte
		for i := range 5 {
			batch = append(batch, datagram(1200, byte(i))...)
		}
		batch = append(batch, datagram(77, 5)...)

		oob := (&ipv4.ControlMessage{Src: net.IPv4(10, 0, 0, 1)}).Marshal() // as QUIC adds it
		seg := make([]byte, unix.CmsgSpace(2))
		copy(seg, []byte{byte(unix.CmsgLen(2)), 0, 0, 0, 0, 0, 0, 0, unix.IPPROTO_UDP, 0, 0, 0, unix.UDP_SEGMENT, 0, 0, 0, 1200 & 0xFF, 1200 >> 8})
		oob = append(oob, seg...)
		n, oobn, err := a.WriteMsgUDP(batch, oob, nil)
		if n != len(batch) || oobn != len(oob) || err != nil {
			t.Fatalf("%d, %d, %v", n, oobn, err)
		}
		synctest.Wait()
		if sa.sends != 1 || sa.longest != 6 {
			t.Errorf("%d sends, %d datagrams", sa.sends, sa.longest)
		}
		if got := deliverable(t, b); len(got) != 6 || len(got[5]) != 77 {
			t.Errorf("%d datagrams came", len(got))
		}
		for _, bad := range [][]byte{nil, {1}, seg[:9], make([]byte, 32)} {
			if got := segmentSize(bad); got != 0 {
				t.Errorf("segment size %d from %x", got, bad)
			}
		}
	})
}
