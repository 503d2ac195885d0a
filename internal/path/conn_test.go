package path

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestFirstPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		a, b := testConn(t, true), testConn(t, false)
		sa := add(t, a, w.carrier("192.0.2.1:1"), Direct)
		sb := add(t, b, w.carrier("192.0.2.2:2"), Direct)

		start := time.Now()
		try(t, a, sa, sb, Direct)
		usable(t, a)
		if d := time.Since(start); d > 12*time.Millisecond {
			t.Errorf("usable after %v, with a round trip of 10 ms", d)
		}
		usable(t, b) // by the initiator's probe alone
		time.Sleep(50 * time.Millisecond)
		for _, c := range []*Conn{a, b} {
			s, ok := c.Active()
			if !ok || s.Size != DefaultMaxDatagram || s.Kind != Direct || s.State != Alive || s.RTT != 10*time.Millisecond {
				t.Errorf("active path: %+v", s)
			}
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.direct(t)
		usable(t, s.a, s.b)
		waiting := testConn(t, true)
		errs := make(chan error, 2)
		go func() {
			_, _, err := s.a.ReadFrom(make([]byte, 1500))
			errs <- err
		}()
		go func() { errs <- waiting.WaitUsable(context.Background()) }()
		synctest.Wait()
		if err := s.a.Close(); err != nil {
			t.Error(err)
		}
		if err := waiting.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
		}
		if err := s.a.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
		if _, err := s.a.WriteTo([]byte{0x40}, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if _, _, err := s.a.ReadFrom(make([]byte, 1500)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if err := s.a.AddCarrier(s.wire.carrier("192.0.2.9:9"), Direct, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("add carrier: %v", err)
		}
		if err := s.a.Try(s.directA, s.directB.addr, Direct); !errors.Is(err, net.ErrClosed) {
			t.Errorf("try: %v", err)
		}
		s.a.Nudge()
		s.a.Expect(s.directB.addr)
		if got := s.a.Status(); len(got) != 0 {
			t.Errorf("paths %+v", got)
		}
	})
}

func TestReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testConn(t, true)
		read := func() error {
			_, _, err := c.ReadFrom(make([]byte, 1500))
			return err
		}
		start := time.Now()
		c.SetReadDeadline(start.Add(time.Second))
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it does not stay: %v", err)
		}
		c.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Minute)
			c.SetReadDeadline(time.Now()) // reaches a read that waits
		}()
		start = time.Now()
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestConfig(t *testing.T) {
	key := make([]byte, 32)
	for name, cfg := range map[string]Config{
		"short key":      {Key: key[:8], ID: "x"},
		"no id":          {Key: key},
		"contradiction":  {Key: key, ID: "x", RequireDirect: true, RelayOnly: true},
		"huge datagrams": {Key: key, ID: "x", MaxDatagram: 9000},
	} {
		if c, err := New(cfg); err == nil {
			c.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

var _ io.Closer = (*Conn)(nil)
