package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// stunOfSize is a Send indication or request of n bytes in all that ends in a
// zero-length XOR-PEER-ADDRESS: what ends pion's process when the buffer
// happens to have no spare room.
func stunOfSize(typ uint16, n int) []byte {
	b := make([]byte, n)
	binary.BigEndian.PutUint16(b, typ)
	binary.BigEndian.PutUint16(b[2:], uint16(n-20))
	binary.BigEndian.PutUint32(b[4:], stunmsg.Cookie)
	if n > 24 { // a DATA attribute before it
		binary.BigEndian.PutUint16(b[20:], uint16(stunmsg.AttrData))
		binary.BigEndian.PutUint16(b[22:], uint16(n-28))
	}
	binary.BigEndian.PutUint16(b[n-4:], uint16(stunmsg.AttrXORPeerAddress))
	return b
}

func TestMalformedDatagrams(t *testing.T) {
	s := startServer(t, labConfig())
	c := dialTURN(t, s, "udp", "u")
	c.allocate() // only clients with an allocation reach pion's Send indications
	sent := int64(0)
	send := func(b []byte) { c.write(b); sent++ }
	for n := 28; n <= 512; n += 4 {
		send(stunOfSize(0x0016, n)) // Send indication
		send(stunOfSize(0x0008, n)) // CreatePermission
	}
	send(stunOfSize(0x0016, 24))
	send([]byte{0x40, 0x00, 0xff, 0xfc, 1, 2, 3})             // ChannelData longer than what came
	send([]byte{0x40, 0x00})                                  // and without a length
	send(bytes.Repeat([]byte{0xff}, 200))                     // nothing at all
	send(append(make([]byte, 4), []byte("no cookie....")...)) // nearly STUN
	many := stunmsg.NewRequest(stunmsg.MethodBinding).Bytes()
	for range stunmsg.MaxAttributes + 1 {
		many = append(many, 0x80, 0x22, 0, 0)
	}
	binary.BigEndian.PutUint16(many[2:], uint16(len(many)-stunmsg.HeaderSize))
	send(many)
	waitFor(t, "all to be dropped", func() bool { return s.count.drops[dropMalformed].Load() == sent })

	// Well-formed, and without meaning here.
	c.write(stunmsg.NewRequest(0x0ab).Bytes())
	c.write(stunmsg.NewIndication(stunmsg.MethodData).Bytes())
	c.write(stunmsg.NewIndication(stunmsg.MethodSend).Bytes())
	waitFor(t, "these as well", func() bool { return s.count.drops[dropUnexpected].Load() == 3 })
	c.sendChannel(0x4123, "not bound")
	waitFor(t, "and this", func() bool { return s.count.drops[dropNoChannel].Load() == 1 })
	dialTURN(t, s, "udp", "none").sendChannel(0x4123, "nothing allocated")
	waitFor(t, "and this", func() bool { return s.count.drops[dropNoAllocation].Load() == 1 })

	wantCode(t, c.refresh(time.Minute), 0)
	checkRelay(t, s, "udp")
}

// Error answers to who has not proved anything are few and small.
func TestUnauthenticatedAnswersAreLimited(t *testing.T) {
	clk := newClock()
	frozen := clk.now()
	cfg := labConfig()
	cfg.Limits.ErrorsPerSecond = 5
	cfg.Now = func() time.Time { d := <-clk.offset; clk.offset <- d; return frozen.Add(d) }
	s := startServer(t, cfg)
	c := dialTURN(t, s, "udp", "u")
	b := stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP).Bytes()
	const requests = 40
	for range requests {
		c.write(b)
	}
	for range 5 {
		if got := c.read(); len(got) > 2*len(b)+8 {
			t.Errorf("401 of %d bytes for a request of %d", len(got), len(b))
		}
	}
	waitFor(t, "silence", func() bool { return s.count.drops[dropSilenced].Load() == requests-5 })
	if raw, err := c.readWithin(50 * time.Millisecond); !isTimeout(err) {
		t.Errorf("one more answer: %x, %v", raw, err)
	}
	clk.advance(2 * time.Second)
	checkRelay(t, s, "udp")
}

// Who asks all the time is not served all the time, and nobody else notices.
func TestRequestsOfOneUserAreLimited(t *testing.T) {
	clk := newClock()
	frozen := clk.now()
	cfg := labConfig()
	cfg.Now = func() time.Time { d := <-clk.offset; clk.offset <- d; return frozen.Add(d) }
	s := startServer(t, cfg)
	refresh := func() { s.ask("u", 1000, stunmsg.NewRequest(stunmsg.MethodRefresh)) }
	for range 1500 {
		refresh()
	}
	limited := func() int64 { return s.count.drops[dropRequest].Load() }
	if n := limited(); n != 500 {
		t.Errorf("%d of 1500 requests at once met silence", n)
	}
	checkRelay(t, s, "udp")
	clk.advance(time.Second)
	for range 150 {
		refresh()
	}
	if n := limited(); n != 550 {
		t.Errorf("%d of 150 requests a second later met silence", n-500)
	}
}

// A user that has all it may have can renew all of it at the pace of a client
// that does so every four minutes.
func TestHonestUserIsNotLimited(t *testing.T) {
	clk := newClock()
	frozen := clk.now()
	cfg := labConfig()
	cfg.Now = func() time.Time { d := <-clk.offset; clk.offset <- d; return frozen.Add(d) }
	s := startServer(t, cfg)
	const allocations, peers = 32, 64
	for i := range allocations {
		s.ask("u", uint16(1000+i), stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP))
	}
	for range 3 {
		for i := range allocations {
			for p := range peers {
				at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(p)}), 9)
				s.ask("u", uint16(1000+i), stunmsg.NewRequest(stunmsg.MethodChannelBind).ChannelNumber(0x4000+uint16(p)).XORPeerAddress(at))
				s.ask("u", uint16(1000+i), stunmsg.NewRequest(stunmsg.MethodCreatePermission).XORPeerAddress(at))
			}
			s.ask("u", uint16(1000+i), stunmsg.NewRequest(stunmsg.MethodRefresh))
			clk.advance(4 * time.Minute / allocations)
		}
	}
	if st := s.Stats(); st.Allocations != allocations || len(st.Refused) != 0 || st.Dropped[dropRequest.String()] != 0 {
		t.Errorf("stats %+v", st)
	}
}

// Forged requests that take every error answer there is keep nobody from the
// nonce without which its allocation ends.
func TestFloodLeavesLiveAllocations(t *testing.T) {
	clk := newClock()
	frozen := clk.now()
	cfg := labConfig()
	cfg.Limits.ErrorsPerSecond, cfg.Limits.ErrorsPerSecondTotal = 5, 20
	cfg.Now = func() time.Time { d := <-clk.offset; clk.offset <- d; return frozen.Add(d) }
	s := startServer(t, cfg)
	c := dialTURN(t, s, "udp", "u")
	c.allocate()
	clk.advance(2 * time.Hour) // the nonce is stale
	forged := stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP).Bytes()
	for i := range 256 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{8, 8, 8, byte(i)}), 5)
		s.message(forged, source{fiveTuple{0, from}, "udp", discard{}}, stunAddr{}, true)
	}
	if n := s.count.drops[dropSilenced].Load(); n != 256-20 {
		t.Fatalf("%d requests met silence", n)
	}
	wantCode(t, c.refresh(time.Minute), 0)

	// Its own errors have a rate as before.
	c.nonce = s.auth.nonces.mint(loopback, s.now().Add(-2*time.Hour))
	stale := c.signed(stunmsg.MethodRefresh, func(*stunmsg.Builder) {}).Bytes()
	for range 10 {
		c.write(stale)
	}
	waitFor(t, "silence", func() bool { return s.count.drops[dropSilenced].Load() == 256-20+10-4 })
}

func TestStripChannelData(t *testing.T) {
	frame := func(ch uint16, payload string) []byte {
		return stunmsg.AppendChannelData(nil, ch, []byte(payload), false)
	}
	join := func(f ...[]byte) []byte { return bytes.Join(f, nil) }
	padded := func(ch uint16, payload string) []byte {
		return stunmsg.AppendChannelData(nil, ch, []byte(payload), true)
	}
	for name, tc := range map[string]struct {
		data []byte
		seg  int
		want string // runs, in words
	}{
		"one":            {frame(0x4000, "abc"), 7, "4000/3 abc."},
		"one, padded":    {padded(0x4000, "abc"), 8, "4000/3 abc."},
		"empty":          {frame(0x4000, ""), 4, "4000/1 ."},
		"batch":          {join(frame(0x4000, "abc"), frame(0x4000, "def"), frame(0x4000, "gh")), 7, "4000/3 abcdefgh."},
		"padded batch":   {join(padded(0x4000, "abc"), padded(0x4000, "def")), 8, "4000/3 abcdef."},
		"two channels":   {join(frame(0x4000, "abc"), frame(0x4001, "def")), 7, "4000/3 abc.4001/3 def."},
		"short between":  {join(padded(0x4000, "abc"), padded(0x4000, "d   ")[:8], padded(0x4000, "efg")), 8, "4000/3 abc.4000/4 d   efg."},
		"shorter within": {join(padded(0x4000, "abcd"), append(frame(0x4000, "e"), 0, 0, 0), padded(0x4000, "fghi")), 8, "4000/4 abcde.4000/4 fghi."},
		"bad first":      {[]byte{0x40, 0, 0, 9, 1}, 5, "bad1."},
		"bad second":     {join(frame(0x4000, "abc"), []byte{0x40, 0, 0, 9, 1, 2, 3}), 7, "4000/3 abc.bad1."},
		"then STUN":      {join(frame(0x4000, "abc"), []byte{0, 1, 0, 0, 1, 2, 3}), 7, "4000/3 abc.rest7"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			data := tc.data
			for len(data) > 0 {
				if !stunmsg.IsChannelData(data) {
					got += fmt.Sprintf("rest%d", len(data))
					break
				}
				run := stripChannelData(data, tc.seg)
				if len(run.rest) >= len(data) {
					t.Fatal("no progress")
				}
				data = run.rest
				if run.bad > 0 {
					got += fmt.Sprintf("bad%d.", run.bad)
					continue
				}
				got += fmt.Sprintf("%x/%d %s.", run.channel, run.size, run.payload)
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func FuzzStripChannelData(f *testing.F) {
	f.Add(stunmsg.AppendChannelData(nil, 0x4000, []byte("abc"), true), 8)
	f.Add([]byte{0x40, 0, 0, 0, 0x40, 0, 0, 0}, 4)
	f.Fuzz(func(t *testing.T, data []byte, seg int) {
		if seg < 1 || seg > 1<<16 {
			return
		}
		total, left := 0, len(data)
		for len(data) > 0 && stunmsg.IsChannelData(data) {
			run := stripChannelData(data, seg)
			if len(run.rest) >= len(data) {
				t.Fatalf("no progress at %x", data)
			}
			if len(run.payload) > 0 && run.size < 1 {
				t.Fatalf("payload of %d bytes in segments of %d", len(run.payload), run.size)
			}
			total += len(run.payload)
			data = run.rest
		}
		if total > left {
			t.Fatalf("%d bytes of payload from %d", total, left)
		}
	})
}

// Batches as our own agents send them keep their payload, order and size.
func TestBatchesBothWays(t *testing.T) {
	for _, portable := range []bool{false, true} {
		t.Run(fmt.Sprintf("portable %v", portable), func(t *testing.T) {
			cfg := labConfig()
			cfg.Portable = portable
			s := startServer(t, cfg)
			a, b := dialTURN(t, s, "udp", "a"), dialTURN(t, s, "tcp", "b")
			ra, rb := a.allocate(), b.allocate()
			wantCode(t, a.bind(0x4000, rb), 0)
			wantCode(t, b.bind(0x4000, ra), 0)
			random := make([]byte, 1000)
			rand.Read(random)
			for i := range 200 {
				a.sendChannel(0x4000, fmt.Sprintf("%d %s", i, random))
				b.wantChannel(0x4000, fmt.Sprintf("%d %s", i, random))
				b.sendChannel(0x4000, fmt.Sprint(i))
				a.wantChannel(0x4000, fmt.Sprint(i))
			}
			// Each packet went to a peer and came from one: two allocations.
			waitFor(t, "the counters", func() bool {
				st := s.Stats().Relay
				return st.ClientToPeerPackets == 400 && st.PeerToClientPackets == 400 && st.ClientToPeerBytes == st.PeerToClientBytes
			})
		})
	}
}

// What the kernel refuses to send is one packet lost, not an allocation.
func TestSendErrorsAreLosses(t *testing.T) {
	s := startServer(t, labConfig())
	c, p := dialTURN(t, s, "udp", "u"), newPeer(t)
	relayed := c.allocate()
	forbidden := netip.MustParseAddrPort("8.8.8.8:9") // no kernel sends there from 127.0.0.1
	wantCode(t, c.bind(0x4000, forbidden), 0)
	wantCode(t, c.bind(0x4001, p.addr()), 0)
	wantCode(t, c.permit(forbidden), 0)
	c.sendChannel(0x4000, "lost")
	c.sendIndication(forbidden, "lost too")
	waitFor(t, "two losses", func() bool { return s.count.drops[dropSend].Load() == 2 })

	gone := newPeer(t)
	wantCode(t, c.bind(0x4002, gone.addr()), 0)
	gone.conn.Close()
	for range 3 {
		c.sendChannel(0x4002, "port unreachable")
	}
	c.sendChannel(0x4001, "alive")
	p.want(relayed, "alive")
	p.send(relayed, "and well")
	c.wantChannel(0x4001, "and well")
}
