package path

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A recorder keeps what a carrier sent.
type recorder struct {
	mu   sync.Mutex
	sent [][]byte
}

func (r *recorder) tap(b []byte, _ netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, append([]byte(nil), b...))
}

var attacker = netip.MustParseAddrPort("198.51.100.66:666")

// met returns two Conns with a direct path in use, and what a sent meanwhile.
func met(t *testing.T) (w *wire, a, b *Conn, sa, sb *simCarrier, rec *recorder) {
	w, rec = newWire(), new(recorder)
	a, b = testConn(t, true), testConn(t, false)
	sa = w.carrier("192.0.2.1:1")
	sa.tap = rec.tap
	add(t, a, sa, Direct)
	sb = add(t, b, w.carrier("192.0.2.2:2"), Direct)
	try(t, a, sa, sb, Direct)
	usable(t, a, b)
	time.Sleep(50 * time.Millisecond)
	return w, a, b, sa, sb, rec
}

// deliverable reads b until its deadline and returns what came.
func deliverable(t *testing.T, c *Conn) (got [][]byte) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		buf := make([]byte, 2000)
		n, addr, err := c.ReadFrom(buf)
		if err != nil {
			return got
		}
		if addr.String() != c.PeerAddr().String() {
			t.Errorf("a datagram from %v", addr)
		}
		got = append(got, buf[:n])
	}
}

func TestOnlyThePeerDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, b, sa, sb, _ := met(t)
		d := datagram(1200, 0)
		w.transmit(attacker, sb.addr, d, len(d))
		f := appendFragments(nil, d, 2, 600, 1)
		w.transmit(attacker, sb.addr, f, 608)
		if got := deliverable(t, b); len(got) != 0 {
			t.Errorf("%d datagrams of a stranger were delivered", len(got))
		}
		if l := b.Losses(); l.Untrusted != 3 {
			t.Errorf("losses %+v", l)
		}

		w.transmit(sa.addr, sb.addr, d, len(d))
		w.transmit(sa.addr, sb.addr, f, 608)
		if got := deliverable(t, b); len(got) != 2 {
			t.Errorf("%d datagrams of the peer were delivered", len(got))
		}

		// The peer falls silent: 30 seconds later its address is nobody's.
		w.set(sa, sb, func(l *link) { l.down = true })
		time.Sleep(trustFor + time.Second)
		w.set(sa, sb, func(l *link) { l.down = false })
		w.transmit(sa.addr, sb.addr, d, len(d))
		time.Sleep(6 * time.Millisecond)
		if l := b.Losses(); l.Untrusted != 4 {
			t.Errorf("losses %+v", l)
		}
	})
}

func TestForgedProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, _, sb, _ := met(t)
		wrong := newProber([]byte("fedcba9876543210"), "link", true, 1)
		raw, _, _ := wrong.request(probeMark{seq: 1, needed: true}, 0)
		w.transmit(attacker, sb.addr, raw, len(raw))
		time.Sleep(50 * time.Millisecond)
		if n, l := len(b.Status()), b.Losses(); n != 1 || l.Forged != 1 {
			t.Errorf("%d paths, losses %+v", n, l)
		}
		if sb.sentTo(attacker) != 0 {
			t.Error("the forger was answered")
		}

		// A request of the peer's side that is reflected to it.
		raw, _, _ = a.prober.request(probeMark{seq: 1 << 30, needed: true}, 0)
		w.transmit(attacker, netip.MustParseAddrPort("192.0.2.1:1"), raw, len(raw))
		time.Sleep(50 * time.Millisecond)
		if n := len(a.Status()); n != 1 {
			t.Errorf("%d paths after a reflected request", n)
		}
	})
}

func TestReplayedProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, b, _, sb, rec := met(t)
		rec.mu.Lock()
		sent := rec.sent
		rec.mu.Unlock()
		var n uint64
		for _, m := range sent {
			if h, err := stunmsg.Parse(m); err == nil && h.Class == stunmsg.ClassRequest {
				n++
			}
			w.transmit(attacker, sb.addr, m, len(m))
		}
		time.Sleep(50 * time.Millisecond)
		if n == 0 || b.Losses().Replayed != n {
			t.Errorf("%d requests were recorded, losses %+v", n, b.Losses())
		}
		if len(b.Status()) != 1 || sb.sentTo(attacker) != 0 {
			t.Errorf("a replayed request made a path: %+v", b.Status())
		}
	})
}

// A genuine request that was held back and comes first from elsewhere makes a
// path to be probed, and no more than that.
func TestDivertedProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, _, sb, _ := met(t)
		raw, _, _ := a.prober.request(probeMark{seq: 1 << 30, needed: true}, 0)
		w.transmit(attacker, sb.addr, raw, len(raw))
		time.Sleep(time.Second)
		if p, _ := b.Active(); p.Remote == attacker {
			t.Error("payload goes to where a diverted probe came from")
		}
		time.Sleep(tryFor)
		if n := len(b.Status()); n != 1 {
			t.Errorf("%d paths are left", n)
		}
	})
}

func TestAnswersFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		a, b := testConn(t, true), testConn(t, false)
		sa := add(t, a, w.carrier("192.0.2.1:1"), Direct)
		silent := w.carrier("192.0.2.3:3") // nobody reads it
		probes := make(chan []byte, 64)
		sa.tap = func(m []byte, _ netip.AddrPort) { probes <- m }
		try(t, a, sa, silent, Direct)
		h, err := stunmsg.Parse(<-probes)
		if err != nil {
			t.Fatal(err)
		}
		// The peer's genuine answer, but from another address than was asked.
		raw, _ := b.prober.answer(h, probeMark{}, sa.addr)
		w.transmit(attacker, sa.addr, raw, len(raw))
		time.Sleep(50 * time.Millisecond)
		if s := a.Status(); len(s) != 1 || s[0].RTT != 0 {
			t.Errorf("the answer counted: %+v", s)
		}
		// The same from the right one.
		w.transmit(silent.addr, sa.addr, raw, len(raw))
		time.Sleep(50 * time.Millisecond)
		if s := a.Status(); s[0].RTT == 0 {
			t.Error("the right answer did not count")
		}
	})
}

func TestManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, _, sb, _ := met(t)
		for i := range 200 {
			raw, _, _ := a.prober.request(probeMark{seq: uint64(1<<30 + i), needed: true}, 0)
			w.transmit(netip.AddrPortFrom(attacker.Addr(), uint16(1000+i)), sb.addr, raw, len(raw))
		}
		time.Sleep(50 * time.Millisecond)
		if n := len(b.Status()); n != 1+maxUnproven {
			t.Errorf("%d paths", n)
		}
		if p, ok := b.Active(); !ok || p.Remote.Addr() == attacker.Addr() {
			t.Errorf("active %+v", p)
		}
	})
}

func TestOtherSTUNIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		a := testConn(t, true)
		sa := w.carrier("192.0.2.1:1")
		var got []stunmsg.Class
		if err := a.AddCarrier(sa, Direct, func(b []byte, src netip.AddrPort) {
			h, _ := stunmsg.Parse(b)
			got = append(got, h.Class)
			if src != attacker {
				t.Errorf("from %v", src)
			}
		}); err != nil {
			t.Fatal(err)
		}
		req := stunmsg.NewRequest(stunmsg.MethodBinding).Username("ours:theirs").Sign([]byte("ice")).Bytes()
		h, _ := stunmsg.Parse(req)
		for _, m := range [][]byte{req, stunmsg.Success(h).XORMappedAddress(attacker).Fingerprint().Bytes(), stunmsg.Error(h, 400, "no").Bytes()} {
			w.transmit(attacker, sa.addr, m, len(m))
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		if len(got) != 3 {
			t.Errorf("passed on: %v", got)
		}
	})
}
