package agent

import (
	"net"
	"syscall"
	"testing"
	"time"
)

func TestNetworkWatch(t *testing.T) {
	prefixes := func(texts ...string) (out []net.Addr) {
		for _, s := range texts {
			ip, n, err := net.ParseCIDR(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		return out
	}
	home, both := prefixes("127.0.0.1/8", "10.1.0.2/24"), prefixes("127.0.0.1/8", "10.1.0.2/24", "10.9.0.2/24")
	swapped := prefixes("10.1.0.2/24", "127.0.0.1/8")
	noFiles := &net.OpError{Op: "route", Net: "ip+net", Err: syscall.EMFILE}
	type look struct {
		addrs          []net.Addr
		err            error
		after          time.Duration // since the look before; 0: watchInterval
		changed, slept bool
	}
	const nap = time.Minute - watchInterval
	for name, looks := range map[string][]look{
		"nothing changes":            {{addrs: home}, {addrs: home}, {addrs: swapped}},
		"another address":            {{addrs: home}, {addrs: both, changed: true}, {addrs: both}, {addrs: home, changed: true}},
		"all addresses go and come":  {{addrs: home}, {changed: true}, {addrs: home, changed: true}},
		"an error is no change":      {{addrs: home}, {err: noFiles}, {err: noFiles}, {addrs: home}},
		"a change behind an error":   {{addrs: home}, {err: noFiles}, {addrs: both, changed: true}},
		"an error at the start":      {{err: noFiles}, {addrs: home}, {addrs: both, changed: true}},
		"a sleep":                    {{addrs: home}, {addrs: home, after: time.Minute, slept: true}, {addrs: home}},
		"a sleep and an error":       {{addrs: home}, {err: noFiles, after: time.Minute, slept: true}, {addrs: home}},
		"a look that is a bit late":  {{addrs: home}, {addrs: home, after: 4 * time.Second}},
		"another address and a nap":  {{addrs: home}, {addrs: both, after: time.Minute, changed: true, slept: true}},
		"a network that is not seen": {{err: noFiles}, {err: noFiles}, {addrs: home}},
	} {
		var w networkWatch
		now := time.Now()
		for i, l := range looks {
			if l.after == 0 {
				l.after = watchInterval
			}
			now = now.Add(l.after)
			if changed, slept := w.look(now, l.addrs, l.err); changed != l.changed || (slept > 0) != l.slept || slept > nap {
				t.Errorf("%s, look %d: changed %v and slept %v, want %v and %v", name, i, changed, slept, l.changed, l.slept)
			}
		}
	}
}
