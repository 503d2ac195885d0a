package path

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestSuspectIsDoubled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		usable(t, s.a, s.b)
		s.on(t, Direct, time.Second)
		time.Sleep(3 * time.Second)

		d := datagram(1200, 0)
		before := s.relayB.sentPayload()
		s.b.WriteTo(d, nil)
		synctest.Wait()
		if s.relayB.sentPayload() != before {
			t.Error("doubled while nothing is wrong")
		}
		s.cut(true)
		for p, _ := s.b.Active(); p.State != Suspect; p, _ = s.b.Active() {
			time.Sleep(10 * time.Millisecond)
		}
		direct, relayed := s.directB.sentPayload(), s.relayB.sentPayload()
		s.b.WriteTo(d, nil)
		synctest.Wait()
		if n := s.directB.sentPayload() - direct; n != len(d) {
			t.Errorf("%d bytes over the suspect path", n)
		}
		if n := s.relayB.sentPayload() - relayed; n != len(d) {
			t.Errorf("%d bytes over the other one", n)
		}
		var doubled bool
		for _, p := range s.b.Status() {
			doubled = doubled || p.Duplicate && p.Kind == Relayed
		}
		if !doubled {
			t.Errorf("status %+v", s.b.Status())
		}
	})
}

// What was sent into a path that turned out dead arrives over the next one.
func TestReplayAtSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		usable(t, s.a, s.b)
		s.on(t, Direct, time.Second)
		time.Sleep(3 * time.Second)
		s.cut(true)
		d := datagram(1200, 9)
		s.b.WriteTo(d, nil)
		time.Sleep(2500 * time.Millisecond)
		got := deliverable(t, s.a)
		if !slices.ContainsFunc(got, func(b []byte) bool { return string(b) == string(d) }) {
			t.Errorf("%d datagrams came, not the one that was lost", len(got))
		}
		var replays uint64
		for _, p := range s.b.Status() {
			replays += p.Out.Replays
		}
		if replays == 0 {
			t.Error("no replay is counted")
		}
	})
}

func TestWritesBeforeTheFirstPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		d := datagram(1200, 9)
		if _, err := s.a.WriteTo(d, nil); err != nil {
			t.Fatal(err)
		}
		s.direct(t)
		usable(t, s.a, s.b)
		if got := deliverable(t, s.b); len(got) != 1 || string(got[0]) != string(d) {
			t.Errorf("%d datagrams came", len(got))
		}
	})
}

// The NAT of a forgets its mapping: the peer's packets go nowhere, and ours
// come from elsewhere.
func TestMappingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		a, b := testConn(t, true), testConn(t, false)
		sa := add(t, a, w.carrier("192.0.2.1:1000"), Direct)
		sb := add(t, b, w.carrier("192.0.2.2:2000"), Direct)
		try(t, a, sa, sb, Direct)
		usable(t, a, b)
		q := connect(t, a, b, a.PeerAddr())
		there := send(t, q.client, q.server, 500_000, 20*time.Millisecond)
		back := send(t, q.server, q.client, 500_000, 20*time.Millisecond)
		time.Sleep(3500 * time.Millisecond)

		w.remap(sa, "192.0.2.1:1001")
		time.Sleep(6 * time.Millisecond)
		d1 := there.progress(t, 3*time.Second)
		d2 := back.progress(t, 3*time.Second)
		t.Logf("after the mapping changed: there %v, back %v more", d1, d2)
		there.wait(t)
		back.wait(t)
	})
}

// A NAT or firewall swallows one direction only: payload that goes on coming in
// must not hide it.
func TestOneWayCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		s.on(t, Direct, time.Second)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		there := send(t, q.client, q.server, 500_000, 20*time.Millisecond)
		back := send(t, q.server, q.client, 500_000, 20*time.Millisecond)
		time.Sleep(3500 * time.Millisecond)
		s.wire.setOneWay(s.directA, s.directB, func(l *link) { l.down = true })
		time.Sleep(6 * time.Millisecond)
		there.progress(t, 3*time.Second)
		there.wait(t)
		back.wait(t)
		s.on(t, Relayed, 0)
	})
}

func TestFreshSocketReplacesOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.direct(t)
		usable(t, s.a, s.b)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		tr := send(t, q.client, q.server, 200_000, 20*time.Millisecond)
		time.Sleep(time.Second)
		fresh := add(t, s.a, s.wire.carrier("192.0.2.1:1001"), Direct)
		try(t, s.a, fresh, s.directB, Direct)
		time.Sleep(500 * time.Millisecond)
		s.a.RemoveCarrier(s.directA)
		tr.progress(t, time.Second)
		tr.wait(t)
		if p, _ := s.a.Active(); p.Local != fresh.addr {
			t.Errorf("active %+v", p)
		}
		s.a.RemoveCarrier(s.directA) // gone already
		if err := s.a.Try(s.directA, s.directB.addr, Direct); err == nil {
			t.Error("a removed carrier was tried")
		}
	})
}

func TestCarrierFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := make(chan Change, 100)
		s := newSite(t, func(c *Config) {
			if c.Initiator {
				c.OnChange = func(ch Change) { changes <- ch }
			}
		})
		s.relay(t)
		s.direct(t)
		s.on(t, Direct, time.Second)
		extra := add(t, s.a, s.wire.carrier("192.0.2.1:9"), Direct)
		extra.Close() // by itself: its Serve returns
		for ch := range changes {
			if ch.Event == CarrierFailed {
				if ch.Carrier != Carrier(extra) || !errors.Is(ch.Err, net.ErrClosed) {
					t.Errorf("change %+v", ch)
				}
				break
			}
		}
	})
}

func TestShorterRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.direct(t)
		usable(t, s.a, s.b)
		s.wire.set(s.directA, s.directB, func(l *link) { l.delay = 50 * time.Millisecond })
		time.Sleep(30 * time.Second)
		near := add(t, s.b, s.wire.carrier("192.0.2.3:3"), Direct)
		try(t, s.a, s.directA, near, Direct)
		time.Sleep(2 * time.Second)
		if p, _ := s.a.Active(); p.Remote != s.directB.addr {
			t.Error("moved at once")
		}
		time.Sleep(3 * time.Second)
		if p, _ := s.a.Active(); p.Remote != near.addr {
			t.Errorf("not moved: %+v", s.a.Status())
		}
	})
}

// A direct path that comes and goes does not take the payload with it.
func TestFlappingIsQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		s.on(t, Direct, time.Second)
		for range 10 {
			s.cut(true)
			time.Sleep(8 * time.Second)
			s.cut(false)
			time.Sleep(4 * time.Second)
		}
		var moves int
		for _, e := range s.eventsA.list() {
			if _, ok := e.(trace.PathChanged); ok {
				moves++
			}
		}
		if moves > 8 {
			t.Errorf("%d moves in two minutes", moves)
		}
		s.on(t, Direct, time.Minute)
	})
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		usable(t, s.a)
		s.direct(t)
		s.on(t, Direct, time.Second)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		send(t, q.client, q.server, 100_000, 0).wait(t)
		s.cut(true)
		s.on(t, Relayed, 8*time.Second)
		s.a.RemoveCarrier(s.directA)

		var got []string
		for _, e := range s.eventsA.list() {
			switch e := e.(type) {
			case trace.PathAdded:
				got = append(got, "added "+e.Path.Kind)
			case trace.PathSuspected:
				got = append(got, "suspected "+e.Path.Kind)
			case trace.PathChanged:
				got = append(got, "changed: "+e.Why)
				if e.From == nil && e.To == nil || e.To == nil && e.From.Kind != "relayed" {
					t.Errorf("a move from %+v to %+v", e.From, e.To)
				}
			case trace.PathClosed:
				got = append(got, "closed "+e.Path.Kind+": "+e.Why)
				if e.Path.Kind == "direct" && e.BytesOut < 100_000 {
					t.Errorf("%d bytes out", e.BytesOut)
				}
			}
		}
		want := []string{
			"added relayed", "changed: first path", "added direct", "changed: direct path",
			"suspected direct", "changed: path dead", "closed relayed: carrier removed",
			"changed: path closed", "closed direct: carrier removed",
		}
		slices.Sort(got[len(got)-3:]) // both paths used that carrier; no order is promised
		slices.Sort(want[len(want)-3:])
		if !slices.Equal(got, want) {
			t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestLossyPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, c := range []*simCarrier{s.directB, s.relayB} {
			s.wire.set(s.directA, c, func(l *link) { l.loss = 0.05 })
		}
		s.relay(t)
		s.direct(t)
		usable(t, s.a, s.b)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		send(t, q.client, q.server, 2<<20, 0).wait(t)
		send(t, q.server, q.client, 2<<20, 0).wait(t)
	})
}

// A path that carries little still carries QUIC, in fragments.
func TestSmallPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.wire.set(s.directA, s.directB, func(l *link) { l.mtu = 600 })
		s.direct(t)
		usable(t, s.a, s.b)
		q := connect(t, s.a, s.b, s.a.PeerAddr())
		send(t, q.client, q.server, 2<<20, 0).wait(t)
		if p, _ := s.a.Active(); p.Size != sizeFloor || p.Out.Fragments == 0 || p.Out.Payload > p.Out.Fragments/10 {
			t.Errorf("%+v", p)
		}
		if n := s.directA.longestDatagram(); n > 600 {
			t.Errorf("a datagram of %d bytes was sent", n)
		}
	})
}

// Our own network takes only shorter datagrams from now on, as after a move to
// another one: nothing is lost, and nothing waits.
func TestOwnNetworkRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, sa, _, _ := met(t)
		time.Sleep(3 * time.Second)
		sa.refuseLonger(1300)
		var batch []byte
		for i := range 5 {
			batch = append(batch, datagram(1440, byte(i))...)
		}
		batch = append(batch, datagram(1290, 5)...)
		if err := a.write(batch, 1440); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p, _ := a.Active(); p.Size != 1280 {
			t.Errorf("size %d after the first write", p.Size)
		}
		seen := map[string]bool{}
		for _, d := range deliverable(t, b) {
			seen[string(d)] = true
		}
		for i := range 5 {
			if !seen[string(datagram(1440, byte(i)))] {
				t.Errorf("datagram %d did not come", i)
			}
		}
		if !seen[string(datagram(1290, 5))] {
			t.Error("the shorter datagram did not come")
		}
		if l := a.Losses(); l.Sends != 0 {
			t.Errorf("losses %+v", l)
		}

		// There is an end to it.
		sa.refuseLonger(400)
		if err := a.write(batch, 1440); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if l := a.Losses(); l.Sends == 0 {
			t.Errorf("losses %+v", l)
		}
	})
}

func TestNudgeFindsDeadPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.relay(t)
		s.direct(t)
		s.on(t, Direct, time.Second)
		time.Sleep(3 * time.Second)
		s.cut(true)
		s.a.Nudge()
		time.Sleep(400 * time.Millisecond)
		if p, _ := s.a.Active(); p.State != Suspect {
			t.Errorf("400 ms after the nudge: %+v", p)
		}
	})
}
