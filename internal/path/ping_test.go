package path

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A ping is a round trip of its own and no estimate, over the path in use.
func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		if _, _, err := s.a.Ping(t.Context()); !errors.Is(err, ErrNoActivePath) {
			t.Errorf("without a path: %v", err)
		}
		s.direct(t)
		usable(t, s.a, s.b)
		time.Sleep(time.Minute)
		for _, rtt := range []time.Duration{10 * time.Millisecond, 200 * time.Millisecond, 20 * time.Millisecond} {
			s.wire.set(s.directA, s.directB, func(l *link) { l.delay = rtt / 2 })
			p, got, err := s.a.Ping(t.Context())
			if err != nil || got != rtt || p.Kind != Direct || !p.Active {
				t.Errorf("%v over %+v, %v; want %v", got, p, err, rtt)
			}
		}

		s.wire.set(s.directA, s.directB, func(l *link) { l.down = true })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if p, _, err := s.a.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) || p.Kind != Direct {
			t.Errorf("without an answer: %v over %+v", err, p)
		}
		s.a.mu.Lock()
		waiting := len(s.a.pings)
		s.a.mu.Unlock()
		if waiting != 0 {
			t.Errorf("%d still wait", waiting)
		}
		closed := make(chan error)
		go func() {
			_, _, err := s.a.Ping(context.Background())
			closed <- err
		}()
		synctest.Wait()
		s.a.Close()
		if err := <-closed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("of a closed one: %v", err)
		}
	})
}
