package udpsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

func TestRoundTrip(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		server := newResponder(t, m).serve(t)
		s, in := m.listen(t), newInbox()
		serve(t, s, in)
		once := Retry(patience, 1) // a second answer would be the Handler's
		msg, src, err := s.RoundTrip(t.Context(), bindingRequest(), server.s.LocalAddr(), once)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := msg.XORMapped(); !ok || a != s.LocalAddr() || src != server.s.LocalAddr() {
			t.Errorf("answer %v from %v, want %v from %v", a, src, s.LocalAddr(), server.s.LocalAddr())
		}
		if len(in.stun) != 0 {
			t.Error("the answer went to the Handler too")
		}
	})
}

func TestRoundTripErrorResponse(t *testing.T) {
	m := mode{"udp4", "127.0.0.1:0", false}
	server := newResponder(t, m)
	server.respond = func(req *stunmsg.Message, src netip.AddrPort) {
		server.s.Send(stunmsg.Error(req.Header, 420, "").Bytes(), 0, src)
	}
	server.serve(t)
	s := m.listen(t)
	serve(t, s, newInbox())
	msg, _, err := s.RoundTrip(t.Context(), bindingRequest(), server.s.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	if code, _, ok := msg.ErrorCode(); !ok || code != 420 {
		t.Errorf("error code %d, %v", code, ok)
	}
}

func TestRoundTripRetransmits(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		server := newResponder(t, m)
		answer, lost := server.respond, 2
		server.respond = func(req *stunmsg.Message, src netip.AddrPort) {
			if lost--; lost < 0 {
				answer(req, src)
			}
		}
		server.serve(t)
		s := m.listen(t)
		serve(t, s, newInbox())
		req := bindingRequest()
		if _, _, err := s.RoundTrip(t.Context(), req, server.s.LocalAddr(), Retry(time.Millisecond, 100)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := receive(t, server.stun); !bytes.Equal(got, req) {
				t.Errorf("sent %x, want %x", got, req)
			}
		}
	})
}

// Answers that a stranger could send: from another address, or for another
// transaction. The true one still counts.
func TestRoundTripIgnores(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		server, stranger := newResponder(t, m), m.listen(t)
		answer := server.respond
		false4 := netip.MustParseAddrPort("203.0.113.66:6666")
		other := stunmsg.Success(stunmsg.Header{Method: stunmsg.MethodBinding, TransactionID: stunmsg.NewTransactionID()}).Bytes()
		server.respond = func(req *stunmsg.Message, src netip.AddrPort) {
			stranger.Send(stunmsg.Success(req.Header).XORMappedAddress(false4).Bytes(), 0, src)
			server.s.Send(other, 0, src)
			answer(req, src)
		}
		server.serve(t)
		s, in := m.listen(t), newInbox()
		serve(t, s, in)
		msg, src, err := s.RoundTrip(t.Context(), bindingRequest(), server.s.LocalAddr())
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := msg.XORMapped(); a != s.LocalAddr() || src != server.s.LocalAddr() {
			t.Errorf("answer %v from %v", a, src)
		}
		if got := receive(t, in.stun); !bytes.Equal(got, other) {
			t.Errorf("the Handler got %x, want the other transaction", got)
		}
		if got := s.Counters().Stray; got == 0 {
			t.Error("the stranger's answer was not counted")
		}
	})
}

func TestRoundTripAnySource(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		server, other := newResponder(t, m), m.listen(t)
		server.respond = func(req *stunmsg.Message, src netip.AddrPort) {
			other.Send(stunmsg.Success(req.Header).Bytes(), 0, src)
		}
		server.serve(t)
		s := m.listen(t)
		serve(t, s, newInbox())
		_, src, err := s.RoundTrip(t.Context(), bindingRequest(), server.s.LocalAddr(), AnySource())
		if err != nil {
			t.Fatal(err)
		}
		if src != other.LocalAddr() {
			t.Errorf("answered from %v, want %v", src, other.LocalAddr())
		}
	})
}

func TestRoundTripsAtOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		server := newResponder(t, m)
		server.respond = func(req *stunmsg.Message, src netip.AddrPort) {
			server.s.Send(stunmsg.Success(req.Header).Software(req.Software()).Bytes(), 0, src)
		}
		server.serve(t)
		s := m.listen(t)
		serve(t, s, newInbox())
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				name := fmt.Sprint(i)
				req := stunmsg.NewRequest(stunmsg.MethodBinding).Software(name).Bytes()
				msg, _, err := s.RoundTrip(t.Context(), req, server.s.LocalAddr(), Retry(time.Second, 5))
				if err != nil || msg.Software() != name {
					t.Errorf("request %s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if len(s.waiters) != 0 {
			t.Errorf("%d waiters are left", len(s.waiters))
		}
	})
}

func TestRoundTripRefuses(t *testing.T) {
	s := newFake(func([]byte, int, netip.AddrPort) error { return nil }).socket()
	dst := netip.MustParseAddrPort("192.0.2.1:3478")
	for name, req := range map[string][]byte{
		"nothing":      nil,
		"data":         []byte("data"),
		"indication":   stunmsg.NewIndication(stunmsg.MethodBinding).Bytes(),
		"wrong length": append(bindingRequest(), 0),
	} {
		if _, _, err := s.RoundTrip(t.Context(), req, dst); err == nil || !strings.Contains(err.Error(), dst.String()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRoundTripSchedule(t *testing.T) {
	tests := []struct {
		name string
		opts []Option
		at   []time.Duration // of the sends
		end  time.Duration
	}{
		{
			name: "default",
			at:   milliseconds(0, 50, 150, 350, 750, 1550, 3150),
			end:  4750 * time.Millisecond,
		},
		{
			name: "own",
			opts: []Option{Retry(500*time.Millisecond, 4)},
			at:   milliseconds(0, 500, 1500, 3100),
			end:  4700 * time.Millisecond,
		},
		{
			name: "slower than the cap",
			opts: []Option{Retry(3*time.Second, 2)},
			at:   milliseconds(0, 3000),
			end:  6 * time.Second,
		},
		{
			name: "once",
			opts: []Option{Retry(0, 0)},
			at:   milliseconds(0),
			end:  time.Millisecond,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var at []time.Duration
				refused := errors.New("no route to host")
				s := newFake(func([]byte, int, netip.AddrPort) error {
					at = append(at, time.Since(start))
					return refused
				}).socket()
				dst := netip.MustParseAddrPort("192.0.2.1:3478")
				_, _, err := s.RoundTrip(t.Context(), bindingRequest(), dst, tt.opts...)

				if !slices.Equal(at, tt.at) {
					t.Errorf("sent at %v, want %v", at, tt.at)
				}
				if got := time.Since(start); got != tt.end {
					t.Errorf("ended after %v, want %v", got, tt.end)
				}
				var timeout *TimeoutError
				if !errors.As(err, &timeout) || timeout.Dst != dst || timeout.Sends != len(tt.at) || timeout.After != tt.end {
					t.Fatalf("error %#v", err)
				}
				if !errors.Is(err, ErrTimeout) || !os.IsTimeout(timeout) {
					t.Errorf("%v is no timeout", err)
				}
				if !errors.Is(err, refused) {
					t.Errorf("%v does not tell why the sends failed", err)
				}
			})
		})
	}
}

func milliseconds(ms ...int) (d []time.Duration) {
	for _, n := range ms {
		d = append(d, time.Duration(n)*time.Millisecond)
	}
	return d
}

func TestRoundTripContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFake(func([]byte, int, netip.AddrPort) error { return nil }).socket()
		why := errors.New("a better path was found")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
		_, _, err := s.RoundTrip(ctx, bindingRequest(), netip.MustParseAddrPort("192.0.2.1:3478"))
		if !errors.Is(err, why) || errors.Is(err, ErrTimeout) {
			t.Errorf("RoundTrip = %v", err)
		}
		if got, want := err.Error(), "no answer from 192.0.2.1:3478 to 3 requests: a better path was found"; got != want {
			t.Errorf("error %q, want %q", got, want)
		}
	})
}

func TestRoundTripTwiceTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFake(func([]byte, int, netip.AddrPort) error { return nil }).socket()
		dst := netip.MustParseAddrPort("192.0.2.1:3478")
		req := bindingRequest()
		go s.RoundTrip(t.Context(), req, dst)
		synctest.Wait()
		if _, _, err := s.RoundTrip(t.Context(), req, dst); err == nil || errors.Is(err, ErrTimeout) {
			t.Errorf("second RoundTrip of one transaction: %v", err)
		}
		s.Close()
	})
}

// An answer that arrives in the instant in which hope ends still counts.
func TestAnswerAtTheEnd(t *testing.T) {
	w := &waiter{got: make(chan answer, 1)}
	w.got <- answer{src: peer}
	if a, err := w.last(ErrTimeout); err != nil || a.src != peer {
		t.Errorf("last = %v, %v", a, err)
	}
	if _, err := w.last(ErrTimeout); err != ErrTimeout {
		t.Errorf("last without an answer = %v", err)
	}
}
