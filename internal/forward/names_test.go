package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestReachOf(t *testing.T) {
	for text, want := range map[string]reach{
		"127.0.0.1":          inMachine,
		"127.8.8.8":          inMachine,
		"::1":                inMachine,
		"::ffff:127.0.0.1":   inMachine,
		"64:ff9b::7f00:1":    inMachine,
		"10.1.2.3":           inSite,
		"172.31.255.255":     inSite,
		"172.32.0.0":         anywhere,
		"192.168.1.1":        inSite,
		"100.64.0.1":         inSite,
		"fd12::1":            inSite,
		"2002:a00:1::1":      inSite,
		"64:ff9b::c0a8:101":  inSite,
		"::192.168.1.1":      inSite,
		"8.8.8.8":            anywhere,
		"2001:4860::1":       anywhere,
		"64:ff9b::808:808":   anywhere,
		"169.254.169.254":    nowhere,
		"64:ff9b::a9fe:a9fe": nowhere,
		"fe80::1%eth0":       nowhere,
		"fd00:ec2::254":      nowhere,
		"fd20:ce::254":       nowhere,
		"168.63.129.16":      nowhere,
		"100.100.100.200":    nowhere,
		"0.0.0.0":            nowhere,
		"0.1.2.3":            nowhere,
		"::":                 nowhere,
		"224.0.0.1":          nowhere,
		"255.255.255.255":    nowhere,
		"ff02::1":            nowhere,
	} {
		if got := reachOf(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
	if reachOf(netip.Addr{}) != nowhere {
		t.Error("no address is one that can be dialed")
	}
}

// Where a name may go, by where it was when it first had an address: any place as
// far out or further, no place further in.
func TestNameMoves(t *testing.T) {
	for _, tt := range []struct{ name, first, then, dialed, refused string }{
		{"within the site", "10.0.0.1", "192.168.0.1", "192.168.0.1", ""},
		{"to the other family", "10.0.0.1", "fd00::1", "fd00::1", ""},
		{"a public one moves", "8.8.8.8", "8.8.4.4", "8.8.4.4", ""},
		{"out of the site", "10.0.0.1", "8.8.8.8", "8.8.8.8", ""},
		{"rebinding: public, then of the site", "8.8.8.8", "192.168.0.1", "8.8.8.8", "192.168.0.1"},
		{"rebinding: public, then loopback", "8.8.8.8", "127.0.0.1", "8.8.8.8", "127.0.0.1"},
		{"rebinding: of the site, then loopback", "10.0.0.1", "127.0.0.1 ::1", "10.0.0.1", "127.0.0.1 ::1"},
		{"rebinding in another spelling", "8.8.8.8", "::ffff:127.0.0.1 64:ff9b::c0a8:1", "8.8.8.8", "127.0.0.1 64:ff9b::c0a8:1"},
		{"rebinding beside a good one", "8.8.8.8", "8.8.4.4 10.0.0.1", "8.8.4.4", "10.0.0.1"},
		{"metadata", "10.0.0.1", "169.254.169.254", "10.0.0.1", "169.254.169.254"},
		{"metadata, from loopback on", "127.0.0.1", "169.254.169.254", "127.0.0.1", "169.254.169.254"},
		{"loopback moves anywhere", "127.0.0.1", "127.0.0.2 10.0.0.1", "127.0.0.2 10.0.0.1", ""},
		{"inside and outside at first", "8.8.8.8 10.0.0.1", "192.168.0.1", "192.168.0.1", ""},
		{"only useless ones at first", "169.254.169.254", "127.0.0.1", "127.0.0.1", ""},
		{"no address any more", "10.0.0.1", "", "10.0.0.1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPin("host")
			p.take(addrs(strings.Fields(tt.first)...), nil)
			e, _ := p.take(addrs(strings.Fields(tt.then)...), nil)
			var refused []netip.Addr
			for _, r := range e.Refused {
				refused = append(refused, r.Addr)
			}
			if spaced(p.addrs) != tt.dialed || spaced(e.Addrs) != tt.dialed || spaced(refused) != tt.refused {
				t.Errorf("dialed %v, refused %v, want %s and %s", e.Addrs, refused, tt.dialed, tt.refused)
			}
		})
	}
}

// What is news of a name, and what is not.
func TestNews(t *testing.T) {
	p := newPin("host")
	noHost := &net.DNSError{Err: "no such host", Name: "host", IsNotFound: true}
	noServer := func(port string) error {
		return &net.DNSError{Err: "read udp 127.0.0.1:" + port + "->127.0.0.1:53: read: connection refused", Name: "host"}
	}
	for i, tt := range []struct {
		answer string
		err    error
		news   bool
		says   string
		failed int
		before string
	}{
		{"", noServer("1001"), true, "does not resolve: connection refused", 0, ""},
		{"", noServer("1002"), false, "does not resolve: connection refused", 1, ""},
		{"", noHost, true, "does not resolve: no such host", 2, ""},
		{"10.0.0.1 10.0.0.2", nil, true, "", 3, ""},
		{"10.0.0.2 10.0.0.1", nil, false, "", 0, ""}, // the server's round robin
		{"", noHost, true, "does not resolve: no such host", 0, ""},
		{"", noHost, false, "does not resolve: no such host", 1, ""},
		{"10.0.0.1 10.0.0.2", nil, true, "", 2, ""},
		{"10.0.0.3", nil, true, "", 0, "10.0.0.1 10.0.0.2"},
		{"10.0.0.3 127.0.0.1", nil, true, "", 0, ""},
		{"127.0.0.1 10.0.0.3", nil, false, "", 0, ""},
		{"127.0.0.1", nil, true, "has no address that may be dialed", 0, ""},
	} {
		e, news := p.take(addrs(strings.Fields(tt.answer)...), tt.err)
		if news != tt.news || e.Err != tt.says || e.Failed != tt.failed || spaced(e.Before) != tt.before {
			t.Errorf("lookup %d: news %v, %+v, want %+v", i, news, e, tt)
		}
	}
}

func TestLookupPause(t *testing.T) {
	last := time.Duration(0)
	for fails := 1; fails < 100; fails++ {
		p := lookupPause(fails)
		if p < last || p < time.Second || p > maxLookupPause {
			t.Errorf("after %d: %v", fails, p)
		}
		last = p
	}
	if last != maxLookupPause {
		t.Errorf("ends at %v", last)
	}
}

// dns is a Resolver whose answers change, in the time of a synctest bubble.
type dns struct {
	mu      sync.Mutex
	answer  map[string][]netip.Addr
	takes   time.Duration
	lookups map[string]int
}

func newDNS() *dns { return &dns{answer: make(map[string][]netip.Addr), lookups: make(map[string]int)} }

func (d *dns) set(host string, addrs ...netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer[host] = addrs
}

// slow makes answers take that long from now on.
func (d *dns) slow(takes time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takes = takes
}

func (d *dns) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	d.lookups[host]++
	answer, takes := d.answer[host], d.takes
	d.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if len(answer) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return answer, nil
}

func (d *dns) count(host string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lookups[host]
}

// watched runs f with a list of names in simulated time; events holds what was
// recorded.
func watched(t *testing.T, d *dns, f func(t *testing.T, list *AllowList, events func() []trace.TargetResolved), entries ...string) {
	synctest.Test(t, func(t *testing.T) {
		list, err := ParseAllow(d, entries)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var events []trace.TargetResolved
		rec := trace.New("a", trace.SinkFunc(func(r trace.Record) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, r.Event.(trace.TargetResolved))
		}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); list.Watch(ctx, rec) }()
		f(t, list, func() []trace.TargetResolved {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(events)
		})
		cancel()
		<-ended
	})
}

// dialable is what a connection that comes now finds, and how long it waits.
func dialable(t *testing.T, list *AllowList, target string) (string, time.Duration, error) {
	t.Helper()
	at := time.Now()
	got, err := list.Dialable(t.Context(), target)
	return spaced(got), time.Since(at), err
}

// Without DNS at the start a name is refused at once, and dialed as soon as it
// resolves, whether or not anybody asks for it meanwhile.
func TestNameResolvesLate(t *testing.T) {
	d := newDNS()
	watched(t, d, func(t *testing.T, list *AllowList, events func() []trace.TargetResolved) {
		for range 100 {
			if got, waited, err := dialable(t, list, "nas.home:22"); !errors.Is(err, ErrUnresolved) || waited != 0 {
				t.Errorf("got %v %v after %v", got, err, waited)
			}
		}
		if e := events(); len(e) != 1 || e[0].Err != "does not resolve: no such host" || e[0].Name != "nas.home" {
			t.Errorf("events %+v", e)
		}
		time.Sleep(time.Hour)
		if n := d.count("nas.home"); n < 110 || n > 130 {
			t.Errorf("%d lookups in an hour, want one each 30 s", n)
		}
		d.set("nas.home", addrs("10.0.0.50")...)
		time.Sleep(maxLookupPause)
		if got, _, err := dialable(t, list, "NAS.home:22"); got != "10.0.0.50:22" {
			t.Errorf("got %v %v", got, err)
		}
		if e := events(); len(e) != 2 || spaced(e[1].Addrs) != "10.0.0.50" || e[1].Failed < 110 {
			t.Errorf("events %+v", e)
		}
	}, "nas.home:22")
}

// A name that moves is followed, by one lookup a minute at most, and only when
// somebody asks for it.
func TestNameIsFollowed(t *testing.T) {
	d := newDNS()
	d.set("nas.home", addrs("10.0.0.50")...)
	d.set("other", addrs("10.0.0.1")...)
	watched(t, d, func(t *testing.T, list *AllowList, events func() []trace.TargetResolved) {
		events()
		time.Sleep(time.Hour)
		if n := d.count("nas.home"); n != 1 {
			t.Errorf("%d lookups while nobody asked", n)
		}
		d.set("nas.home", addrs("10.0.0.51")...)
		if got, waited, err := dialable(t, list, "nas.home:22"); got != "10.0.0.51:22" || waited != 0 {
			t.Errorf("the first connection after the move: %v %v after %v", got, err, waited)
		}
		d.set("nas.home", addrs("10.0.0.52")...)
		for range 59 { // a connection each second
			if got, _, err := dialable(t, list, "nas.home:22"); got != "10.0.0.51:22" {
				t.Fatalf("within the minute: %v %v", got, err)
			}
			time.Sleep(time.Second)
		}
		if got, _, err := dialable(t, list, "10.0.0.51:22"); err != nil {
			t.Errorf("the address that the name has: %v %v", got, err)
		}
		time.Sleep(time.Second)
		if got, _, err := dialable(t, list, "nas.home:22"); got != "10.0.0.52:22" {
			t.Errorf("a minute later: %v %v", got, err)
		}
		if got, _, err := dialable(t, list, "10.0.0.51:22"); err == nil {
			t.Errorf("the address that the name had: %v", got)
		}
		if n := d.count("nas.home"); n != 3 {
			t.Errorf("%d lookups, want 3", n)
		}
		if n := d.count("other"); n != 1 {
			t.Errorf("%d lookups of a name that nobody asked for", n)
		}
		for _, theirs := range []string{"elsewhere.example:22", "nas.home:23", "nas:22", "nas.home.:22"} {
			if got, _, err := dialable(t, list, theirs); err == nil || errors.Is(err, ErrUnresolved) {
				t.Errorf("%s: %v %v", theirs, got, err)
			}
		}
		if n := len(d.lookups); n != 2 {
			t.Errorf("names of the peer were looked up: %v", d.lookups)
		}
		if e := events(); len(e) != 4 || spaced(e[2].Before)+spaced(e[3].Before) != "10.0.0.5010.0.0.51" {
			t.Errorf("events %+v", e)
		}
	}, "nas.home:22", "other:22")
}

// While the resolver fails or hangs, a connection goes to where the name was, and
// waits for that no longer than staleWait.
func TestNameOutlivesItsServer(t *testing.T) {
	d := newDNS()
	d.set("nas.home", addrs("10.0.0.50")...)
	watched(t, d, func(t *testing.T, list *AllowList, events func() []trace.TargetResolved) {
		events()
		d.set("nas.home") // no such host
		time.Sleep(time.Hour)
		if got, waited, err := dialable(t, list, "nas.home:22"); got != "10.0.0.50:22" || waited != 0 {
			t.Errorf("no such name any more: %v %v after %v", got, err, waited)
		}
		if e := events(); len(e) != 2 || e[1].Err == "" || spaced(e[1].Addrs) != "10.0.0.50" {
			t.Errorf("events %+v", e)
		}
		d.slow(time.Hour)
		time.Sleep(lookupGap)
		if got, waited, err := dialable(t, list, "nas.home:22"); got != "10.0.0.50:22" || waited != staleWait {
			t.Errorf("the server hangs: %v %v after %v", got, err, waited)
		}
		time.Sleep(lookupTimeout)
		if got, waited, err := dialable(t, list, "nas.home:22"); got != "10.0.0.50:22" || waited != 0 {
			t.Errorf("it is given up: %v %v after %v", got, err, waited)
		}
		d.slow(staleWait + time.Second)
		d.set("nas.home", addrs("10.0.0.51")...)
		time.Sleep(lookupGap)
		dialable(t, list, "nas.home:22")
		time.Sleep(time.Second)
		if got, _, err := dialable(t, list, "nas.home:22"); got != "10.0.0.51:22" {
			t.Errorf("an answer that came late: %v %v", got, err)
		}
	}, "nas.home:22")
}

// The first lookup of all is waited for, within bounds.
func TestFirstLookupIsAwaited(t *testing.T) {
	d := newDNS()
	d.set("nas.home", addrs("10.0.0.50")...)
	d.slow(time.Second)
	watched(t, d, func(t *testing.T, list *AllowList, _ func() []trace.TargetResolved) {
		if got, waited, err := dialable(t, list, "nas.home:22"); got != "10.0.0.50:22" || waited != time.Second {
			t.Errorf("got %v %v after %v", got, err, waited)
		}
	}, "nas.home:22")
	d.slow(time.Hour)
	watched(t, d, func(t *testing.T, list *AllowList, _ func() []trace.TargetResolved) {
		if got, waited, err := dialable(t, list, "nas.home:22"); !errors.Is(err, ErrUnresolved) || waited != firstWait {
			t.Errorf("got %v %v after %v", got, err, waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		at := time.Now()
		if _, err := list.Dialable(ctx, "nas.home:22"); err == nil || time.Since(at) != time.Second {
			t.Errorf("an end of the session: %v after %v", err, time.Since(at))
		}
	}, "nas.home:22")
}

// localhost is loopback whatever a resolver says, and needs none.
func TestLocalhostNeedsNoResolver(t *testing.T) {
	d := newDNS()
	d.set("localhost", addrs("10.0.0.1")...)
	watched(t, d, func(t *testing.T, list *AllowList, events func() []trace.TargetResolved) {
		if got, _, err := dialable(t, list, "localhost:22"); got != "127.0.0.1:22 [::1]:22" {
			t.Errorf("got %v %v", got, err)
		}
		if len(d.lookups)+len(events()) != 0 {
			t.Errorf("lookups %v, events %v", d.lookups, events())
		}
	}, "LocalHost:22")
}
