package path

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A site is two Conns that can meet directly and over one relay hop: a's
// socket to b's allocation.
type site struct {
	wire    *wire
	a, b    *Conn
	directA *simCarrier
	directB *simCarrier
	relayB  *simCarrier
	eventsA *events
}

// events keeps what a Conn recorded.
type events struct {
	mu  sync.Mutex
	all []trace.Event
}

func (e *events) Record(r trace.Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, r.Event)
}

func (e *events) list() []trace.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.all)
}

func newSite(t *testing.T, change ...func(*Config)) *site {
	s := &site{wire: newWire(), eventsA: new(events)}
	rec := trace.New("a", s.eventsA)
	s.a = testConn(t, true, append(change, func(c *Config) { c.Trace = rec })...)
	s.b = testConn(t, false, change...)
	s.directA = add(t, s.a, s.wire.carrier("192.0.2.1:1000"), Direct)
	s.directB = add(t, s.b, s.wire.carrier("192.0.2.2:2000"), Direct)
	s.relayB = add(t, s.b, s.wire.carrier("203.0.113.9:3000"), Relayed)
	s.wire.set(s.directA, s.relayB, func(l *link) { l.delay = 20 * time.Millisecond })
	return s
}

func (s *site) relay(t *testing.T) {
	try(t, s.a, s.directA, s.relayB, Relayed)
	try(t, s.b, s.relayB, s.directA, Direct)
}

func (s *site) direct(t *testing.T) {
	try(t, s.a, s.directA, s.directB, Direct)
	try(t, s.b, s.directB, s.directA, Direct)
}

// on waits until both sides send over paths of a kind.
func (s *site) on(t *testing.T, k Kind, atMost time.Duration) {
	t.Helper()
	start := time.Now()
	for {
		pa, _ := s.a.Active()
		pb, _ := s.b.Active()
		if pa.Kind == k && pb.Kind == k && pa.State == Alive && pb.State == Alive {
			return
		}
		if time.Since(start) > atMost {
			t.Fatalf("not %s after %v: a %+v, b %+v", k, atMost, s.a.Status(), s.b.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

// cut makes the direct path dead or alive.
func (s *site) cut(down bool) {
	s.wire.set(s.directA, s.directB, func(l *link) { l.down = down })
}

func TestSwitchUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, c := range []*simCarrier{s.directB, s.relayB} {
			s.wire.set(s.directA, c, func(l *link) { l.rate, l.queue = 1<<20, 50*time.Millisecond })
		}
		s.relay(t)
		usable(t, s.a, s.b)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		tr := send(t, q.client, q.server, 16<<20, 0)
		back := send(t, q.server, q.client, 8<<20, 0)

		tr.progress(t, time.Second)
		s.on(t, Relayed, 0)
		s.direct(t)
		s.on(t, Direct, 100*time.Millisecond)
		tr.progress(t, time.Second)
		s.cut(true)
		s.on(t, Relayed, 8*time.Second)
		tr.progress(t, time.Second)
		s.cut(false)
		s.on(t, Direct, 4*time.Second)
		tr.wait(t)
		back.wait(t)
	})
}

func TestDirectDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		usable(t, s.a, s.b)
		s.on(t, Direct, time.Second)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		tr := send(t, q.client, q.server, 1<<20, 20*time.Millisecond)
		time.Sleep(3 * time.Second)
		s.cut(true)
		time.Sleep(6 * time.Millisecond) // what was on its way
		if d := tr.progress(t, 5*time.Second); d > 2500*time.Millisecond {
			t.Errorf("data after %v", d)
		}
		s.on(t, Relayed, 7*time.Second)
		tr.wait(t)
	})
}

func TestBlackout(t *testing.T) {
	for _, outage := range []time.Duration{2 * time.Second, 20 * time.Second, 2 * time.Minute} {
		t.Run(outage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.direct(t)
				usable(t, s.a, s.b)
				q := connect(t, s.a, s.b, s.a.PeerAddr())
				tr := send(t, q.client, q.server, 200_000, 200*time.Millisecond)
				time.Sleep(5 * time.Second)
				s.cut(true)
				time.Sleep(outage)
				s.cut(false)
				d := tr.progress(t, 3*time.Second)
				t.Logf("first data %v after the end of an outage of %v", d, outage)
				if d > 1200*time.Millisecond {
					t.Errorf("first data %v after the end of an outage of %v", d, outage)
				}
				tr.wait(t)
			})
		})
	}
}

func TestHoleAfterDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.direct(t)
		usable(t, s.a, s.b)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		s.wire.set(s.directA, s.directB, func(l *link) { l.rate, l.queue = 1<<20, 50*time.Millisecond })
		tr := send(t, q.client, q.server, 15<<20, 0)
		time.Sleep(5 * time.Second)
		if n := s.directA.longestDatagram(); n < 1430 {
			t.Fatalf("QUIC found packets of %d bytes", n)
		}
		s.wire.set(s.directA, s.directB, func(l *link) { l.mtu = 1300 })
		time.Sleep(100 * time.Millisecond) // what was on its way
		d := tr.progress(t, 5*time.Second)
		t.Logf("data %v after the hole", d)
		if p, _ := s.a.Active(); p.Size != 1280 {
			t.Errorf("proved size %d", p.Size)
		}
		tr.wait(t)
		if l := s.b.Losses(); l.Joined == 0 {
			t.Errorf("nothing was joined: %+v", l)
		}

		s.wire.set(s.directA, s.directB, func(l *link) { l.mtu = 0 })
		time.Sleep(70 * time.Second)
		if p, _ := s.a.Active(); p.Size != DefaultMaxDatagram {
			t.Errorf("size %d a minute after the hole has gone", p.Size)
		}
	})
}

// Payload goes where it is held, and only probes cross the other path.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		usable(t, s.a, s.b)
		s.on(t, Direct, time.Second)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		for _, kind := range []Kind{Relayed, Direct, Relayed} {
			for _, c := range []*Conn{s.a, s.b} {
				if err := c.Hold(kind); err != nil {
					t.Fatal(err)
				}
			}
			s.on(t, kind, time.Second)
			time.Sleep(time.Second) // what was under way arrives
			before := elsewhere(s, kind)
			send(t, q.client, q.server, 1<<20, 0).wait(t)
			send(t, q.server, q.client, 1<<20, 0).wait(t)
			time.Sleep(3 * time.Second)
			after := elsewhere(s, kind)
			if after.Payload != before.Payload || after.Fragments != before.Fragments || after.Replays != before.Replays {
				t.Errorf("held %s, and across others went %+v, before %+v", kind, after, before)
			}
			if after.Probes == before.Probes {
				t.Errorf("held %s, and no probe kept the other path", kind)
			}
		}
		s.a.Hold("")
		s.b.Hold("")
		s.on(t, Direct, 0)

		// A path that dies is not held to.
		s.a.Hold(Direct)
		s.b.Hold(Direct)
		s.cut(true)
		s.on(t, Relayed, 8*time.Second)
		s.cut(false)
		s.on(t, Direct, 15*time.Second)
	})
}

// elsewhere is what both sides sent over paths of the other kind.
func elsewhere(s *site, kind Kind) (sum Bytes) {
	for _, c := range []*Conn{s.a, s.b} {
		for _, p := range c.Status() {
			if p.Kind != kind {
				sum.Payload += p.Out.Payload
				sum.Fragments += p.Out.Fragments
				sum.Replays += p.Out.Replays
				sum.Probes += p.Out.Probes
			}
		}
	}
	return sum
}
