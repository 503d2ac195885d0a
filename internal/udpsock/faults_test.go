package udpsock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var peer = netip.MustParseAddrPort("192.0.2.7:4000")

// What the kernel may answer to a send that it is to cut, and to the datagrams
// one by one.
func TestSendFallback(t *testing.T) {
	type write struct{ n, seg int } // what reached the kernel
	all := []write{{350, 100}, {100, 0}, {100, 0}, {100, 0}, {50, 0}}
	tests := []struct {
		name    string
		cut     error
		single  func(n int) error // by length
		want    []write
		err     error // nil: all was sent
		keepGSO bool
	}{
		{name: "works", want: all[:1], keepGSO: true},
		{name: "EIO: device without checksum offload", cut: syscall.EIO, want: all},
		// Linux before 6.14, where the datagrams alone are fragmented. One such
		// path must not cost all others of the socket their batches.
		{name: "EINVAL: smaller path", cut: syscall.EINVAL, want: all, keepGSO: true},
		{name: "EMSGSIZE: smaller path", cut: syscall.EMSGSIZE, want: all, keepGSO: true},
		{
			name: "EMSGSIZE for the long ones too", cut: syscall.EMSGSIZE, want: all, keepGSO: true,
			single: func(n int) error {
				if n == 100 {
					return syscall.EMSGSIZE
				}
				return nil
			},
			err: syscall.EMSGSIZE,
		},
		{
			name: "EINVAL for the destination", cut: syscall.EINVAL, want: all, keepGSO: true,
			single: func(int) error { return syscall.EINVAL },
			err:    syscall.EINVAL,
		},
		{name: "ENETUNREACH", cut: syscall.ENETUNREACH, want: all[:1], err: syscall.ENETUNREACH, keepGSO: true},
		{name: "EPERM: firewall", cut: syscall.EPERM, want: all[:1], err: syscall.EPERM, keepGSO: true},
		{name: "ENOBUFS", cut: syscall.ENOBUFS, want: all[:1], err: syscall.ENOBUFS, keepGSO: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []write
			s := newFake(func(b []byte, seg int, dst netip.AddrPort) error {
				got = append(got, write{len(b), seg})
				switch {
				case dst != peer:
					t.Errorf("destination %v", dst)
				case seg > 0:
					return tt.cut
				case tt.single != nil:
					return tt.single(len(b))
				}
				return nil
			}).socket()

			err := s.Send(pattern(350, 100), 100, peer)
			if !slices.Equal(got, tt.want) {
				t.Errorf("writes %v, want %v", got, tt.want)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("Send = %v, want %v", err, tt.err)
			}
			var loss *LossError
			if tt.err != nil && !errors.As(err, &loss) {
				t.Errorf("Send = %v, no LossError", err)
			}
			if gso, _ := s.Offload(); gso != tt.keepGSO {
				t.Errorf("GSO in use afterwards: %v", gso)
			}
			c := s.Counters()
			if c.TxPackets+c.TxErrors != 4 || (c.TxErrors == 0) != (tt.err == nil) {
				t.Errorf("counted %d sent, %d lost", c.TxPackets, c.TxErrors)
			}
			if loss != nil && (uint64(loss.Datagrams) != c.TxErrors || uint64(loss.Bytes) != 350-c.TxBytes) {
				t.Errorf("told of %d datagrams and %d bytes lost, counted %+v", loss.Datagrams, loss.Bytes, c)
			}

			// What was learned is used.
			got = nil
			s.Send(pattern(350, 100), 100, peer)
			if cutAgain := got[0].seg > 0; cutAgain != tt.keepGSO {
				t.Errorf("next writes %v", got)
			}
		})
	}
}

func TestSendGoesOnAfterALostBatch(t *testing.T) {
	var batches int
	s := newFake(func([]byte, int, netip.AddrPort) error {
		if batches++; batches == 1 {
			return syscall.ENOBUFS
		}
		return nil
	}).socket()
	err := s.Send(pattern(64*3*1000, 1000), 1000, peer)
	var loss *LossError
	if !errors.Is(err, syscall.ENOBUFS) || !errors.As(err, &loss) || loss.Datagrams != 64 || loss.Bytes != 64*1000 {
		t.Errorf("Send = %#v", err)
	}
	if c := s.Counters(); batches != 3 || c.TxErrors != 64 || c.TxPackets != 128 {
		t.Errorf("%d batches, counted %+v", batches, c)
	}
}

func TestSendStopsWhenClosed(t *testing.T) {
	f := newFake(nil)
	s := f.socket()
	var writes int
	f.onWrite = func(_ []byte, seg int, _ netip.AddrPort) error {
		if writes++; seg == 0 {
			s.Close()
		}
		return syscall.EIO
	}
	if err := s.Send(pattern(200*1000, 1000), 1000, peer); err != net.ErrClosed {
		t.Errorf("Send = %v", err)
	}
	if writes != 2 {
		t.Errorf("%d writes, want the batch and one datagram", writes)
	}
}

func TestBatchSize(t *testing.T) {
	for seg, want := range map[int]int{
		1: 64, 1000: 64 * 1000, 1023: 64 * 1023, 1024: 63 * 1024, 1452: 45 * 1452, 32753: 2 * 32753, 32754: 32754, 65507: 65507, 70000: 70000,
	} {
		if got := batchSize(seg); got != want {
			t.Errorf("batchSize(%d) = %d, want %d", seg, got, want)
		}
	}
}

func TestServeSurvivesReadErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		s, in := f.socket(), newInbox()
		done := make(chan error)
		go func() { done <- s.Serve(t.Context(), in) }()

		errs := []error{
			syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EINTR, syscall.ENOMEM,
			&net.OpError{Op: "read", Err: syscall.ECONNRESET}, errors.New("anything"),
		}
		for _, err := range errs {
			f.reads <- func([]byte) (int, int, netip.AddrPort, error) { return 0, 0, netip.AddrPort{}, err }
		}
		mapped := netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port())
		f.reads <- func(b []byte) (int, int, netip.AddrPort, error) { return copy(b, "data"), 4, mapped, nil }
		if got, src := <-in.data, <-in.src; string(got) != "data" || src != peer {
			t.Errorf("got %q from %v", got, src)
		}
		if got := s.Counters().RxErrors; got != uint64(len(errs)) {
			t.Errorf("%d errors counted, want %d", got, len(errs))
		}
		s.Close()
		if err := <-done; err != net.ErrClosed {
			t.Errorf("Serve = %v", err)
		}
	})
}

// A socket that only ever fails costs no more than a read a second, and still
// ends at once.
func TestServeBacksOff(t *testing.T) {
	for name, end := range map[string]func(*Socket, context.CancelFunc) error{
		"by context": func(_ *Socket, cancel context.CancelFunc) error { cancel(); return context.Canceled },
		"by Close":   func(s *Socket, _ context.CancelFunc) error { s.Close(); return net.ErrClosed },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(nil)
				s := f.socket()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error)
				go func() { done <- s.Serve(ctx, newInbox()) }()

				reads, stop := 0, make(chan struct{})
				fed := make(chan struct{})
				go func() {
					defer close(fed)
					for {
						select {
						case f.reads <- func([]byte) (int, int, netip.AddrPort, error) {
							return 0, 0, netip.AddrPort{}, syscall.EBADF
						}:
							reads++
						case <-stop:
							return
						}
					}
				}()
				time.Sleep(time.Minute) // of the bubble's time
				close(stop)
				<-fed
				if reads < 60 || reads > 100 {
					t.Errorf("%d reads in a minute", reads)
				}
				start := time.Now()
				want := end(s, cancel)
				if err := <-done; !errors.Is(err, want) {
					t.Errorf("Serve = %v, want %v", err, want)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("took %v to end", took)
				}
			})
		})
	}
}

func TestReadBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		1: 0, 16: 0, 17: 2 * time.Millisecond, 20: 16 * time.Millisecond, 26: time.Second, 1 << 40: time.Second,
	} {
		if got := readBackoff(failures); got != want {
			t.Errorf("readBackoff(%d) = %v, want %v", failures, got, want)
		}
	}
}
