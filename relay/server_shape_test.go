package relay

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A session gets its rate in each direction, and no more for a second
// allocation of the same user.
func TestSessionRate(t *testing.T) {
	const rate = 8e6 // bits per second
	cfg := labConfig()
	cfg.Limits.SessionRate = rate
	s := startServer(t, cfg)
	p := newPeer(t)
	payload := make([]byte, 1000)
	message := stunmsg.AppendChannelData(nil, 0x4000, payload, false)
	stop := make(chan struct{})
	var senders sync.WaitGroup
	flood := func(send func()) { // at 1.6 times the rate, also when it is woken late
		senders.Go(func() {
			began, sent := time.Now(), 0
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					due := int(time.Since(began).Seconds() * 1.6 * rate / 8 / float64(len(payload)))
					for sent = max(sent, due-100); sent < due; sent++ {
						send()
					}
				}
			}
		})
	}
	start := func() {
		c := dialTURN(t, s, "udp", "u")
		relayed := c.allocate()
		wantCode(t, c.bind(0x4000, p.addr()), 0)
		flood(func() { c.conn.Write(message) })
		flood(func() { p.conn.WriteToUDPAddrPort(payload, relayed) })
	}
	// measure sees that it is never more, and looks for a moment when it is no less:
	// a machine that is late with its timers, and with the senders, has others too.
	// What it counts has passed in a time between the shortest and the longest that
	// it may have taken to look.
	measure := func(what string) {
		t.Helper()
		earliest := time.Now()
		first := s.Stats().Relay
		for before, end := first, earliest.Add(patience); ; {
			began := time.Now()
			time.Sleep(500 * time.Millisecond)
			least := 0.95 * rate / 8 * time.Since(began).Seconds()
			now := s.Stats().Relay
			longest := time.Since(earliest)
			most := rate/8*(longest+shapeBurst).Seconds() + float64(len(payload))
			toPeer, toClient := float64(now.ToPeerBytes-first.ToPeerBytes), float64(now.ToClientBytes-first.ToClientBytes)
			if max(toPeer, toClient) > most {
				t.Errorf("%s: %.0f bytes to the peer, %.0f to the client in %v", what, toPeer, toClient, longest)
				return
			}
			toPeer, toClient = float64(now.ToPeerBytes-before.ToPeerBytes), float64(now.ToClientBytes-before.ToClientBytes)
			if min(toPeer, toClient) >= least {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%s: only %.0f bytes to the peer, %.0f to the client where %.0f may pass", what, toPeer, toClient, least)
				return
			}
			before = now
		}
	}
	defer senders.Wait()
	defer close(stop)
	start()
	measure("one allocation")
	start()
	measure("two allocations of one user")
	waitFor(t, "something to be dropped", func() bool { return s.count.drops[dropBudget].Load() > 0 })
}

// What waits leaves in order; what would wait for more than shapeDelay is
// dropped at once.
func TestShaperQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dropped := 0
		s := newShaper(8e6, func(n int) { dropped += n }) // a byte per microsecond
		var got []byte
		began := time.Now()
		var last time.Duration
		send := func(data []byte, _ int, _ netip.AddrPort) {
			got = append(got, data...)
			last = time.Since(began)
		}
		const n = 60 // datagrams in each of three batches
		for i := range 3 {
			data := make([]byte, n*1000)
			for j := range data {
				data[j] = byte(i*n + j/1000)
			}
			s.pass(parcel{send: send, data: data, seg: 1000})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		const admitted = 10 + 100 // burst and queue
		if d := 3*n - len(got)/1000; d != 3*n-admitted || dropped != d {
			t.Errorf("%d datagrams dropped, %d not sent", dropped, d)
		}
		if last < 100*time.Millisecond || last > 102*time.Millisecond {
			t.Errorf("100 kB waited %v for 1 MB/s", last)
		}
		for i := range len(got) / 1000 {
			if int(got[i*1000]) != i {
				t.Fatalf("datagram %d where %d belongs", got[i*1000], i)
			}
		}
		s.close()
		s.pass(parcel{send: send, data: make([]byte, 50000), seg: 1000})
		s.release()
	})
}

// A datagram longer than the burst passes all the same, and is paid for.
func TestShaperLongDatagram(t *testing.T) {
	s := newShaper(1e6, func(int) {})
	defer s.close()
	sent := 0
	send := func(data []byte, _ int, _ netip.AddrPort) { sent += len(data) }
	s.pass(parcel{send: send, data: make([]byte, 9000)})
	s.pass(parcel{send: send, data: nil})
	if s.mu.Lock(); sent != 9000 || s.budget.tokens > 0 {
		t.Errorf("%d bytes sent, %.0f left", sent, s.budget.tokens)
	}
	s.mu.Unlock()
}

// An empty datagram waits its turn behind others, and is not free.
func TestShaperEmptyDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dropped := 0
		s := newShaper(8e6, func(n int) { dropped += n }) // a byte per microsecond
		defer s.close()
		var got []int
		send := func(data []byte, _ int, _ netip.AddrPort) { got = append(got, len(data)) }
		s.pass(parcel{send: send})
		for range 11 { // the burst, and one to wait
			s.pass(parcel{send: send, data: make([]byte, 1000), seg: 1000})
		}
		s.pass(parcel{send: send})
		if s.mu.Lock(); len(got) != 10 || got[0] != 0 {
			t.Errorf("sent at once: %v", got)
		}
		s.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got) != 13 || got[12] != 0 {
			t.Errorf("sent: %v", got)
		}

		got = got[:0]
		const n = 200_000
		for range n {
			s.pass(parcel{send: send})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got) > 111_000 || len(got)+dropped != n {
			t.Errorf("%d empty datagrams sent at once, %d dropped", len(got), dropped)
		}
	})
}

func TestSessions(t *testing.T) {
	now := time.Unix(1000, 0)
	none := sessions{byUser: make(map[string]*session)}
	if none.join("u", now) != nil {
		t.Error("a session without a rate")
	}
	none.leave("u", now)

	all := sessions{rate: 1e6, byUser: make(map[string]*session)}
	first := all.join("u", now)
	if all.join("u", now) != first {
		t.Error("a second allocation got a budget of its own")
	}
	all.leave("u", now)
	all.leave("u", now)
	if all.join("u", now.Add(time.Hour)) != first {
		t.Error("an allocation after the last got a fresh budget")
	}
	all.leave("u", now)
	for range 3 {
		all.join("v", now.Add(time.Hour))
	}
	if len(all.byUser) != 1 || all.idle != 0 {
		t.Errorf("%d sessions, %d idle, want that of v", len(all.byUser), all.idle)
	}
}
