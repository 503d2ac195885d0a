package path

import (
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// The MTU of our own network falls while QUIC sends full packets through real
// sockets: the kernel says so, and nothing waits for probes to be missing.
func TestOwnMTUFalls(t *testing.T) {
	setMTU, listen := smallNetwork(t)
	a, b := testConn(t, true), testConn(t, false)
	sa, sb := listen(), listen()
	for c, s := range map[*Conn]*udpsock.Socket{a: sa, b: sb} {
		if err := c.AddCarrier(s, Direct, nil); err != nil {
			t.Fatal(err)
		}
	}
	setMTU(1500)
	if err := a.Try(sa, sb.LocalAddr(), Direct); err != nil {
		t.Fatal(err)
	}
	usable(t, a, b)
	full := func() bool {
		pa, _ := a.Active()
		pb, _ := b.Active()
		return pa.Size == DefaultMaxDatagram && pb.Size == DefaultMaxDatagram
	}
	eventually(t, "the size of the path", full)
	q := connect(t, a, b, a.PeerAddr())
	f := startFlow(q.client, q.server)
	eventually(t, "QUIC to send full packets", func() bool {
		before := sa.Counters()
		f.more(t, 1<<20)
		after := sa.Counters()
		return (after.TxBytes-before.TxBytes)/(after.TxPackets-before.TxPackets) > 1300
	})

	setMTU(1300)
	f.more(t, 4<<20)
	p, _ := a.Active()
	if p.Size > 1300-28 || p.Out.Fragments == 0 {
		t.Errorf("after the MTU fell: %+v", p)
	}
	if l := a.Losses(); l.Sends != 0 {
		t.Errorf("%d batches were lost", l.Sends)
	}
	if l := b.Losses(); l.Joined == 0 {
		t.Error("nothing came in fragments")
	}
	setMTU(1500)
	f.end(t)
}

// smallNetwork returns what opens sockets in, and sets the MTU of, the loopback
// of a network namespace of its own.
func smallNetwork(t *testing.T) (setMTU func(int), listen func() *udpsock.Socket) {
	t.Helper()
	jobs := make(chan func())
	ready := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		ready <- err
		for f := range jobs {
			f()
		}
	}()
	t.Cleanup(func() { close(jobs); <-ended })
	if err := <-ready; err != nil {
		t.Skip("needs a network namespace of its own:", err)
	}
	inside := func(f func() error) {
		t.Helper()
		done := make(chan error)
		jobs <- func() { done <- f() }
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	setMTU = func(mtu int) {
		t.Helper()
		inside(func() error { return setLoopback(uint32(mtu)) })
	}
	listen = func() (s *udpsock.Socket) {
		t.Helper()
		inside(func() (err error) {
			s, err = udpsock.Listen(udpsock.Config{Network: "udp4", Addr: netip.MustParseAddrPort("127.0.0.1:0"), DontFragment: true})
			return err
		})
		return s
	}
	setMTU(1500) // and up
	return setMTU, listen
}

func setLoopback(mtu uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint32(mtu)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, lo); err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
