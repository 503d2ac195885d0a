package path

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// overTCP is a relay's carrier whose server is reached over TCP.
type overTCP struct{ *simCarrier }

func (overTCP) Transport() string { return "tcp" }

// Payload on a relay that one side reaches over TCP moves to one over UDP, on both
// sides, when that has worked for a while; and back when it dies.
func TestRelayOverUDPTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		tcp := overTCP{s.wire.carrier("203.0.113.8:3000")}
		if err := s.a.AddCarrier(tcp, Relayed, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.a.Try(tcp, s.directB.addr, Direct); err != nil {
			t.Fatal(err)
		}
		usable(t, s.a, s.b)
		streams := func() (a, b bool) {
			pa, _ := s.a.Active()
			pb, _ := s.b.Active()
			return pa.Stream, pb.Stream
		}
		time.Sleep(time.Minute)
		if a, b := streams(); !a || !b {
			t.Fatalf("over TCP: a says %v, b says %v", a, b)
		}

		s.relay(t) // over UDP, b's
		time.Sleep(2 * time.Second)
		if a, b := streams(); !a || !b {
			t.Error("payload moved before the other path was known to last")
		}
		time.Sleep(4 * time.Second)
		if a, b := streams(); a || b {
			t.Errorf("payload goes over TCP still: a %v, b %v", a, b)
		}

		s.wire.set(s.directA, s.relayB, func(l *link) { l.down = true })
		time.Sleep(10 * time.Second)
		if a, b := streams(); !a || !b {
			t.Errorf("payload did not go back: a %v, b %v", a, b)
		}
		// UDP that comes and goes does not take payload along each time.
		before := moves(s.eventsA)
		for range 10 {
			s.wire.set(s.directA, s.relayB, func(l *link) { l.down = false })
			time.Sleep(2 * time.Second)
			s.wire.set(s.directA, s.relayB, func(l *link) { l.down = true })
			time.Sleep(8 * time.Second)
		}
		if n := moves(s.eventsA) - before; n != 0 {
			t.Errorf("payload moved %d times with a path that comes and goes", n)
		}
	})
}

func moves(e *events) (n int) {
	for _, ev := range e.list() {
		if _, ok := ev.(trace.PathChanged); ok {
			n++
		}
	}
	return n
}
