package relay

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// ask has the guard take a request of user, as from a client of its own on
// 127.0.0.1. Nobody reads the answer.
func (s *Server) ask(user string, client uint16, b *stunmsg.Builder) {
	username, password := Mint(testSecret, user, time.Hour, s.now())
	b.Username(username).Realm(s.cfg.Realm).Nonce(s.auth.nonces.mint(loopback, s.now()))
	b.Sign(stunmsg.LongTermKey(username, s.cfg.Realm, password))
	s.message(b.Bytes(), source{fiveTuple{0, netip.AddrPortFrom(loopback, client)}, "udp", discard{}}, stunAddr{}, true)
}

// An allocation that expires while its client asks for permissions ends, and
// nothing else does: what pion does at the end is never beside a request. Each
// attempt hits the moment by chance, hence their number.
func TestExpiryDuringRequests(t *testing.T) {
	s := startServer(t, labConfig())
	const clients, gap = 150, 3 * time.Millisecond
	begin := time.Now()
	user := func(i int) string { return fmt.Sprint("u", i) }
	for i := range clients {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * gap)))
		s.ask(user(i), uint16(1000+i), stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP).Lifetime(time.Second))
	}
	for i := range clients {
		end := begin.Add(time.Duration(i)*gap + time.Second)
		time.Sleep(time.Until(end.Add(-gap / 3)))
		for k := 0; k < 20 && time.Until(end) > -gap/2; k++ {
			b := stunmsg.NewRequest(stunmsg.MethodCreatePermission)
			for j := range 3 {
				b.XORPeerAddress(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(k), byte(j)}), 0))
			}
			s.ask(user(i), uint16(1000+i), b)
		}
	}
	waitFor(t, "all to expire", func() bool { return s.places() == 0 })
	checkRelay(t, s, "udp")
}

// whoEnds tells the stacks of the goroutines that end allocations.
type whoEnds struct {
	slog.Handler
	stacks chan string
}

func (h whoEnds) Enabled(context.Context, slog.Level) bool { return true }

func (h whoEnds) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" && a.Value.String() == "ended" {
			b := make([]byte, 64<<10)
			h.stacks <- string(b[:runtime.Stack(b, false)])
		}
		return true
	})
	return nil
}

// However an allocation ends, it ends in the goroutine in which pion handles
// requests.
func TestAllocationsEndInOneGoroutine(t *testing.T) {
	stacks := make(chan string, 1)
	cfg := labConfig()
	cfg.Log = slog.New(whoEnds{slog.DiscardHandler, stacks})
	s := startServer(t, cfg)
	for _, tc := range []struct {
		how, transport string
		lifetime       time.Duration // asked for
		end            func(*turnClient)
	}{
		{"Refresh with 0", "udp", time.Minute, func(c *turnClient) { wantCode(t, c.refresh(0), 0) }},
		{"expiry", "udp", time.Second, func(c *turnClient) {}},
		{"expiry after a Refresh", "udp", time.Minute, func(c *turnClient) { wantCode(t, c.refresh(time.Second), 0) }},
		{"end of the stream", "tcp", time.Minute, func(c *turnClient) { c.conn.Close() }},
	} {
		t.Run(tc.how, func(t *testing.T) {
			c := dialTURN(t, s, tc.transport, "u")
			wantCode(t, c.tryAllocate(tc.lifetime), 0)
			tc.end(c)
			if stack := <-stacks; !strings.Contains(stack, "turn/v3.(*Server).readLoop") {
				t.Errorf("ended by\n%s", stack)
			}
		})
	}
}

// A Refresh counts from when it comes, shorter or longer than before.
func TestRefreshSetsTheLifetime(t *testing.T) {
	s := startServer(t, labConfig())
	shorter := dialTURN(t, s, "udp", "u")
	shorter.allocate()
	longer := brief(t, s, "udp", func(c *turnClient) *stunmsg.Message { return c.refresh(time.Minute) })
	wantCode(t, shorter.refresh(time.Second), 0)
	waitFor(t, "one to expire", func() bool { return s.ledger.live() == 1 })
	wantCode(t, shorter.refresh(time.Minute), codeAllocationMismatch)
	wantCode(t, longer.refresh(time.Minute), 0)
}
