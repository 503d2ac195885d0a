package path

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// A counted is a real socket that counts what payload is sent how.
type counted struct {
	*udpsock.Socket

	mu       sync.Mutex
	sends    int
	segments int
	longest  int // most datagrams in one Send
	largest  int // longest datagram
}

func (c *counted) Send(b []byte, seg int, dst netip.AddrPort) error {
	if !stunmsg.Is(b) {
		c.mu.Lock()
		n := (len(b) + seg - 1) / seg
		c.sends++
		c.segments += n
		c.longest = max(c.longest, n)
		c.largest = max(c.largest, min(seg, len(b)))
		c.mu.Unlock()
	}
	return c.Socket.Send(b, seg, dst)
}

// loopback returns two Conns with a path between two real sockets.
func loopback(t testing.TB, portable bool) (a, b *Conn, sa, sb *counted) {
	t.Helper()
	open := func(initiator bool) (*Conn, *counted) {
		c, err := New(Config{Key: make([]byte, 32), ID: "loopback", Initiator: initiator})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		s, err := udpsock.Listen(udpsock.Config{
			Network: "udp4", Addr: netip.MustParseAddrPort("127.0.0.1:0"), DontFragment: true, Portable: portable,
		})
		if err != nil {
			t.Fatal(err)
		}
		k := &counted{Socket: s}
		if err := c.AddCarrier(k, Direct, nil); err != nil {
			t.Fatal(err)
		}
		return c, k
	}
	a, sa = open(true)
	b, sb = open(false)
	if err := a.Try(sa, sb.LocalAddr(), Direct); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Conn{a, b} {
		if err := c.WaitUsable(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return a, b, sa, sb
}

// plain hides everything but net.PacketConn, as on systems without batches.
type plain struct{ packetConn }

type packetConn interface {
	ReadFrom([]byte) (int, net.Addr, error)
	WriteTo([]byte, net.Addr) (int, error)
	LocalAddr() net.Addr
	Close() error
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

func TestQUICOverSockets(t *testing.T) {
	for _, portable := range []bool{false, true} {
		t.Run(fmt.Sprintf("portable=%v", portable), func(t *testing.T) {
			a, b, sa, sb := loopback(t, portable)
			q := connect(t, a, b, a.PeerAddr())
			send(t, q.client, q.server, 16<<20, 0).wait(t)
			if portable || runtime.GOOS != "linux" {
				return
			}
			// QUIC finds out by and by how large its packets may be.
			again := func(enough func() bool) bool {
				send(t, q.client, q.server, 4<<20, 0).wait(t)
				sa.mu.Lock()
				defer sa.mu.Unlock()
				return enough()
			}
			eventually(t, "QUIC to send batches", func() bool {
				return again(func() bool { return sa.longest >= 4 && sa.segments >= 2*sa.sends })
			})
			eventually(t, "QUIC to send full packets", func() bool {
				return again(func() bool { return sa.largest >= 1430 })
			})
			eventually(t, "batches to be read", func() bool {
				return again(func() bool { rx := sb.Counters(); return rx.RxPackets >= 2*rx.Reads })
			})
			sa.mu.Lock()
			defer sa.mu.Unlock()
			t.Logf("%d datagrams in %d sends, at most %d in one; longest %d bytes", sa.segments, sa.sends, sa.longest, sa.largest)
			if l := b.Losses(); l.Untrusted+l.Malformed+l.Forged > 0 {
				t.Errorf("losses %+v", l)
			}
		})
	}
}

// TestPlainPacketConn is the way QUIC goes where it knows no batches: what it
// writes one by one still leaves together.
func TestPlainPacketConn(t *testing.T) {
	a, b, sa, _ := loopback(t, true)
	q := connect(t, plain{a}, plain{b}, a.PeerAddr())
	eventually(t, "datagrams to leave together", func() bool {
		send(t, q.client, q.server, 1<<20, 0).wait(t)
		send(t, q.server, q.client, 1<<20, 0).wait(t)
		sa.mu.Lock()
		defer sa.mu.Unlock()
		return sa.longest >= 2
	})
}
