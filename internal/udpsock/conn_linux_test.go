package udpsock

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sockopt(t *testing.T, s *Socket, level, opt int) (value int) {
	t.Helper()
	rc, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control(rc, func(fd int) (err error) {
		value, err = unix.GetsockoptInt(fd, level, opt)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestFragmentation(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		level, opt := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
		if m.network == "udp6" {
			level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
		}
		for df, want := range map[bool]int{true: unix.IP_PMTUDISC_PROBE, false: unix.IP_PMTUDISC_DONT} {
			s := m.listen(t, func(c *Config) { c.DontFragment = df })
			if got := sockopt(t, s, level, opt); got != want {
				t.Errorf("DontFragment %v: path MTU discovery is %d, want %d", df, got, want)
			}
		}
	})
}

func TestBuffers(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		s := m.listen(t, func(c *Config) { c.BufferBytes = 100_000 })
		for name, opt := range map[string]int{"receive": unix.SO_RCVBUF, "send": unix.SO_SNDBUF} {
			if got := sockopt(t, s, unix.SOL_SOCKET, opt); got != 2*100_000 { // the kernel doubles it
				t.Errorf("%s buffer of %d bytes", name, got)
			}
		}
	})
}

// Linux since 5.0 has both offloads: a change that loses them costs two thirds
// of the throughput and nothing else would tell.
func TestOffloadIsThere(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if u.Release[0] < '5' && u.Release[1] == '.' {
		t.Skipf("kernel %s", u.Release)
	}
	eachMode(t, func(t *testing.T, m mode) {
		gso, gro := m.listen(t).Offload()
		if gso == m.portable || gro == m.portable {
			t.Errorf("gso %v, gro %v", gso, gro)
		}
	})
}

func TestKernelDrops(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		from := m.listen(t)
		to := m.listen(t, func(c *Config) { c.BufferBytes = 1 }) // the kernel makes it 2 KiB or so
		const datagrams = 200
		for range datagrams { // not cut, to be dropped one by one
			if err := from.Send(pattern(1000, 0), 0, to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		in := newInbox()
		serve(t, to, in)
		// Under load the kernel may deliver a little later than it returns.
		drops := to.Counters().KernelDrops
		for end := time.Now().Add(patience); int(drops)+len(in.data) != datagrams; drops = to.Counters().KernelDrops {
			if time.Now().After(end) {
				t.Fatalf("%d of %d datagrams dropped, %d received", drops, datagrams, len(in.data))
			}
			time.Sleep(time.Millisecond)
		}
		if drops == 0 || drops == datagrams {
			t.Fatalf("%d of %d datagrams dropped", drops, datagrams)
		}
		for range datagrams - drops {
			receive(t, in.data)
		}
		// What comes now carries the count along.
		from.Send([]byte("last"), 0, to.LocalAddr())
		receive(t, in.data)
		if c, ok := to.conn.(*linuxConn); ok && c.rxqOverflow.Load() != drops {
			t.Errorf("SO_RXQ_OVFL says %d, SO_MEMINFO %d", c.rxqOverflow.Load(), drops)
		}
		to.Close()
		if got := to.Counters().KernelDrops; got != drops {
			t.Errorf("%d drops after Close, %d before", got, drops)
		}
	})
}

func TestReadControl(t *testing.T) {
	message := func(level, typ int32, data ...byte) []byte {
		var m controlMessage
		copy(m.data[:], data)
		return m.bytes(level, typ, len(data))
	}
	gro := func(data ...byte) []byte { return message(unix.IPPROTO_UDP, unix.UDP_GRO, data...) }
	u32 := func(v byte) []byte { return nativeEndian(uint32(v)) }
	tests := []struct {
		name string
		oob  []byte
		seg  int
		ovfl uint64
	}{
		{"none", nil, 100, 0},
		{"coalesced", gro(u32(40)...), 40, 0},
		{"coalesced and dropped", append(message(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, u32(7)...), gro(u32(40)...)...), 40, 7},
		{"foreign", message(unix.IPPROTO_IP, unix.IP_TTL, u32(64)...), 100, 0},
		{"too small to be true", gro(1, 2), 100, 0},
		{"zero", gro(u32(0)...), 100, 0},
		{"all of it", gro(u32(100)...), 100, 0},
		{"more than all of it", gro(u32(101)...), 100, 0},
		{"negative", gro(nativeEndian(^uint32(0))...), 100, 0},
		{"truncated", gro(u32(40)...)[:10], 100, 0},
	}
	for _, tt := range tests {
		var c linuxConn
		if seg := c.readControl(tt.oob, 100); seg != tt.seg || c.rxqOverflow.Load() != tt.ovfl {
			t.Errorf("%s: segments of %d, %d dropped", tt.name, seg, c.rxqOverflow.Load())
		}
	}
}

func nativeEndian(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
