package agent

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
)

// behindLossy puts a way before the UDP port of a relay that may lose what the relay
// sends: the n-th datagram to a client, from 1.
func behindLossy(t *testing.T, lose func(client netip.AddrPort, n int) bool) *deployment {
	t.Helper()
	return deployWith(t, func(cfg *signaling.ServerConfig, _ []byte) {
		for i, uri := range cfg.TURN {
			if server, ok := strings.CutSuffix(strings.TrimPrefix(uri, "turn:"), "?transport=udp"); ok {
				cfg.TURN[i] = "turn:" + lossyTo(t, "127.0.0.1", server, lose) + "?transport=udp"
			}
		}
	})
}

// lossyTo is such a way to any server, from an address of this machine.
func lossyTo(t *testing.T, host, server string, lose func(netip.AddrPort, int) bool) (addr string) {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	backs := make(map[netip.AddrPort]net.Conn)
	running.Go(func() {
		defer func() {
			for _, b := range backs {
				b.Close()
			}
		}()
		buf := make([]byte, 1<<16)
		for {
			n, client, err := front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			back := backs[client]
			if back == nil {
				if back, err = net.Dial("udp4", server); err != nil {
					t.Error(err)
					return
				}
				backs[client] = back
				running.Go(func() {
					buf := make([]byte, 1<<16)
					for i := 1; ; i++ {
						n, err := back.Read(buf)
						if err != nil {
							return
						}
						if !lose(client, i) {
							front.WriteToUDPAddrPort(buf[:n], client)
						}
					}
				})
			}
			back.Write(buf[:n])
		}
	})
	t.Cleanup(func() { front.Close(); running.Wait() })
	return front.LocalAddr().String()
}

// onUDP waits until the payload of both ends goes over relays by UDP alone, and
// does something meanwhile.
func onUDP(t *testing.T, meanwhile func(), ends ...*link) {
	t.Helper()
	moved := func(l *link) bool {
		p, ok := l.conn.Active()
		return ok && p.State == path.Alive && !p.Stream && p.Kind == path.Relayed
	}
	for deadline := time.Now().Add(patience); !moved(ends[0]) || !moved(ends[1]); meanwhile() {
		if time.Now().After(deadline) {
			t.Fatalf("a: %+v, b: %+v", ends[0].conn.Status(), ends[1].conn.Status())
		}
	}
}

func rest() { time.Sleep(10 * time.Millisecond) }

// overTCPFirst is relayedBy where the answers over UDP are lost until the link is up.
func overTCPFirst(t *testing.T) (a, b *link, ma, mb *machine) {
	t.Helper()
	var open atomic.Bool
	a, b, ma, mb = relayedBy(t, behindLossy(t, func(netip.AddrPort, int) bool { return !open.Load() }))
	open.Store(true)
	return a, b, ma, mb
}

// The first answers to Allocate over UDP are lost, so TCP is there first: the link
// comes up over it, and goes on over UDP.
func TestLostAnswersToAllocate(t *testing.T) {
	a, b, ma, mb := overTCPFirst(t)
	for _, m := range []*machine{ma, mb} {
		_, at := await(t, m.events, 0, func(e trace.RelayAllocated) bool { return e.Transport == "tcp" })
		await(t, m.events, at, func(e trace.RelayAllocated) bool { return e.Transport == "udp" })
	}
	onUDP(t, rest, a, b)
}

// UDP that begins to work later is found, payload moves to it without a loss, and
// the allocation over TCP is given back when nobody uses it.
func TestUDPRelayIsLookedForAgain(t *testing.T) {
	var open atomic.Bool
	d := behindLossy(t, func(netip.AddrPort, int) bool { return !open.Load() })
	_, ma, mb, target := twoMachinesOf(t, d)
	ma.cfg.RelayOnly, mb.cfg.RelayOnly = true, true
	peer, _ := befriend(t, ma, mb)
	ls, err := NewListener(mb.cfg, ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	start(t, ls.Run)
	c, _ := startConnector(t, ma, peer, ConnectConfig{Timeout: patience})
	local := forwardTo(t, c, target)
	roundTrip(t, local, 1000)
	ends := []*link{c.env.live()[0], ls.env.live()[0]}
	for _, l := range ends {
		if p, _ := l.conn.Active(); !p.Stream {
			t.Fatalf("in use is %+v", p)
		}
	}

	open.Store(true)
	streams := make(map[*link]*relay.Allocation)
	for _, l := range ends {
		onLoop(l, func() {
			streams[l] = l.relaying.alloc
			l.stopTrying(net.ErrClosed) // of the first try, as if it had ended
			l.planUDP()
			if wait := time.Until(l.relaying.udpAt); wait <= 0 || wait > 5*time.Second {
				t.Errorf("the next try over UDP is in %v", wait)
			}
			l.relaying.udpAt = time.Now() // time passes
			l.tick(time.Now())
		})
	}
	onUDP(t, func() { roundTrip(t, local, 4<<20) }, ends...)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		left := 0
		for _, l := range ends {
			onLoop(l, func() {
				if l.relaying.old != nil {
					left++
					l.retireDue(time.Now())
				}
			})
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the allocations over TCP are kept")
		}
	}
	for _, alloc := range streams {
		<-alloc.Done()
	}
	roundTrip(t, local, 1000)
	onUDP(t, rest, ends...)
}

// An allocation over UDP that is lost leaves the one over TCP that it has
// replaced, as long as there is one.
func TestUDPRelayIsLostAgain(t *testing.T) {
	l, _, _, _ := overTCPFirst(t)
	r := &l.relaying
	var tcp, udp *relay.Allocation
	eventually(t, l, "one over UDP beside one over TCP", func() bool {
		tcp, udp = r.old, r.alloc
		return tcp != nil && tcp.Transport() == "tcp" && udp.Transport() == "udp"
	})
	udp.Close()
	eventually(t, l, "the one over TCP alone", func() bool { return r.alloc == tcp && r.old == nil && !r.udpAt.IsZero() })
}

// A relay that is reached over IPv6 relays to IPv4, as any: behind NAT64 there is
// nothing else.
func TestRelayOverIPv6(t *testing.T) {
	if c, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
		t.Skip(err)
	} else {
		c.Close()
	}
	_, _, a, b := relayedBy(t, deployWith(t, func(cfg *signaling.ServerConfig, _ []byte) {
		server := strings.TrimSuffix(strings.TrimPrefix(cfg.TURN[0], "turn:"), "?transport=udp")
		cfg.TURN = []string{"turn:" + lossyTo(t, "::1", server, func(netip.AddrPort, int) bool { return false }) + "?transport=udp"}
	}))
	for _, m := range []*machine{a, b} {
		e, _ := await(t, m.events, 0, func(trace.RelayAllocated) bool { return true })
		if !strings.HasPrefix(e.Server, "[::1]:") || !e.Relayed.Addr().Is4() {
			t.Errorf("%s: %v on %s", m.cfg.Name, e.Relayed, e.Server)
		}
	}
}

func TestUDPBackoff(t *testing.T) {
	var got []time.Duration
	for n := 1; n < 8; n++ {
		got = append(got, udpBackoff(n)/time.Second)
	}
	want := []time.Duration{5, 10, 20, 40, 60, 60, 60}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("seconds %v, want %v", got, want)
			break
		}
	}
}
