package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// narrow has both routers pass no IP packet longer than mtu to each other or, if
// toRelay is set, to the relay, and say nothing: the sender is told by nobody.
func (s *standing) narrow(toRelay bool, mtu int) {
	s.t.Helper()
	for _, r := range []struct{ node, core, other string }{
		{"nat-a", "198.51.100.1", publicB}, {"nat-b", "203.0.113.1", publicA},
	} {
		to := r.other
		if toRelay {
			to = ourRelay
		}
		s.must(r.node, "ip", "route", "replace", to+"/32", "via", r.core, "mtu", "lock", strconv.Itoa(mtu))
		s.must(r.node, "iptables", "-I", "OUTPUT", "-p", "icmp", "--icmp-type", "fragmentation-needed", "-j", "DROP")
	}
	if toRelay { // and the way back
		for _, to := range []string{publicA, publicB} {
			s.must("signal", "ip", "route", "replace", to+"/32", "via", "192.0.2.1", "mtu", "lock", strconv.Itoa(mtu))
		}
	}
}

// cutDirect stops what goes from router to router, and heal lets it pass again.
func (s *standing) cutDirect() (heal func()) {
	s.t.Helper()
	rules := [][]string{{"-s", publicB}, {"-d", publicB}}
	for _, r := range rules {
		s.must("nat-a", append([]string{"iptables", "-I", "FORWARD", "1", "-p", "udp", "-j", "DROP"}, r...)...)
	}
	return func() {
		for _, r := range rules {
			s.must("nat-a", append([]string{"iptables", "-D", "FORWARD", "-p", "udp", "-j", "DROP"}, r...)...)
		}
	}
}

// The ports of the stream programs, and how much they send.
const (
	streamPort = 7001
	streamRate = 20 << 20 // bytes per second
)

// under sends a stream through the link, calls change in the middle of it, and
// returns the longest pause from then on. Every byte has to arrive.
func (s *standing) under(lasts time.Duration, change func()) time.Duration {
	s.t.Helper()
	address := loopbackPort(streamPort)
	receiver := s.stream("peer-b", "receive", address, 0, 0)
	sender := s.stream("peer-a", "send", address, streamRate, lasts)
	time.Sleep(lasts / 4)
	at := time.Now()
	change()
	sent, got := s.report(sender, lasts+time.Minute), s.report(receiver, time.Minute)
	if sent.SHA256 != got.SHA256 || sent.Bytes != got.Bytes || sent.Bytes == 0 {
		s.t.Errorf("sent %d bytes %s, received %d bytes %s", sent.Bytes, sent.SHA256, got.Bytes, got.SHA256)
	}
	pause := longest(got.Gaps, at, time.Now())
	s.t.Logf("%d MB arrived, the longest pause after the change was %v (0: shorter than %v)", got.Bytes>>20, pause, worthAGap)
	return pause
}

// A live session that moves from the relayed path to the direct one, where these
// carry packets of different lengths, does not stand still and loses nothing.
func TestMoveBetweenMTUs(t *testing.T) {
	needLab(t)
	for _, c := range []struct{ relayed, direct int }{{1500, 1400}, {1500, 1280}, {1280, 1500}, {1400, 1280}} {
		t.Run(fmt.Sprintf("%d to %d", c.relayed, c.direct), func(t *testing.T) {
			if c.relayed != 1500 || c.direct != 1280 {
				needFull(t, "the largest step is enough for every day")
			}
			s := stand(t, "port-restricted", "port-restricted")
			s.narrow(true, c.relayed)
			s.narrow(false, c.direct)
			heal := s.cutDirect()
			a, _ := s.agents([]int{streamPort})
			onPath(t, a, "relayed")
			if pause := s.under(8*time.Second, func() { heal(); onPath(t, a, "direct") }); pause >= time.Second {
				t.Errorf("it stood still for %v", pause)
			}
			if _, ok := movedTo(s.moves("a.jsonl"), "direct", time.Time{}); !ok {
				t.Error("it did not move")
			}
		})
	}
}

// A path that shrinks under load, without a word from the router that drops,
// carries on within five seconds, and nothing is lost.
func TestPathShrinks(t *testing.T) {
	for _, mtu := range []int{1400, 1280} {
		t.Run(strconv.Itoa(mtu), func(t *testing.T) {
			if mtu != 1280 {
				needFull(t, "the largest step is enough for every day")
			}
			s := stand(t, "port-restricted", "port-restricted")
			a, _ := s.agents([]int{streamPort})
			onPath(t, a, "direct")
			// Full-size packets have to be in use before they can be lost.
			awaitEvent(t, a, "a path proved for 1452 bytes", func(e trace.Event) bool {
				size, ok := e.(trace.PathSize)
				return ok && size.To == 1452 && size.Path.Kind == "direct"
			})
			if pause := s.under(12*time.Second, func() { s.narrow(false, mtu) }); pause > 5*time.Second {
				t.Errorf("it stood still for %v", pause)
			}
		})
	}
}
