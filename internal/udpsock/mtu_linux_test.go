package udpsock

import (
	"errors"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A path that is smaller than the datagrams, as the kernel sees it and not as
// a fake does: with DF they are lost and GSO stays, without DF they arrive in
// fragments.
func TestSmallMTU(t *testing.T) {
	const datagrams = 10
	tests := []struct {
		name string
		df   bool
		seg  int
		fits bool
	}{
		{"fits, DF", true, 1200, true},
		{"too long, DF", true, 1400, false},
		{"fits", false, 1200, true},
		{"too long, to be fragmented", false, 1400, true},
	}
	eachMode(t, func(t *testing.T, m mode) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				c := m.config()
				c.DontFragment = tt.df
				from, to := listenInSmallNetwork(t, 1300, c)
				in := newInbox()
				serve(t, to, in)

				before, _ := from.Offload()
				err := from.Send(pattern(datagrams*tt.seg, tt.seg), tt.seg, to.LocalAddr())
				if after, _ := from.Offload(); after != before {
					t.Error("GSO is not used any more")
				}
				if !tt.fits {
					if !errors.Is(err, syscall.EMSGSIZE) {
						t.Errorf("Send = %v, want EMSGSIZE", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for range datagrams {
					if got := receive(t, in.data); len(got) != tt.seg {
						t.Errorf("datagram of %d bytes", len(got))
					}
				}
				want := uint64(datagrams)
				if before && tt.seg == 1200 {
					want = 1
				}
				if got := from.Counters().Sends; got != want {
					t.Errorf("%d sends, want %d", got, want)
				}
			})
		}
	})
}

// listenInSmallNetwork opens two sockets in a new network namespace whose
// loopback has the MTU. The namespace lives as long as they do.
func listenInSmallNetwork(t *testing.T, mtu uint32, c Config) (a, b *Socket) {
	t.Helper()
	var noNetwork, err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if noNetwork = unix.Unshare(unix.CLONE_NEWNET); noNetwork != nil {
			return
		}
		if noNetwork = setLoopback(mtu); noNetwork != nil {
			return
		}
		if a, err = Listen(c); err == nil {
			b, err = Listen(c)
		}
	}()
	<-done
	if noNetwork != nil {
		t.Skip("needs a network namespace of its own:", noNetwork)
	}
	for _, s := range []*Socket{a, b} {
		if s != nil {
			t.Cleanup(func() { s.Close() })
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func setLoopback(mtu uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
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
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
