package forward

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func addrPorts(text string) (out []netip.AddrPort) {
	for _, a := range strings.Fields(text) {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func TestInterleave(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"10.0.0.1:1", "10.0.0.1:1"},
		{"[::1]:1 [::2]:1 [::3]:1 10.0.0.1:1 10.0.0.2:1", "[::1]:1 10.0.0.1:1 [::2]:1 10.0.0.2:1 [::3]:1"},
		{"10.0.0.1:1 [::1]:1 [::2]:1", "10.0.0.1:1 [::1]:1 [::2]:1"},
		{"10.0.0.2:1 10.0.0.1:1", "10.0.0.2:1 10.0.0.1:1"},
	} {
		if got := spaced(interleave(addrPorts(tt.in))); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

// host is what an address does with who dials it; the zero value never answers.
type host struct {
	after time.Duration
	err   error
	up    bool
	deaf  bool // to an end of the attempt: connects all the same
}

// network is a dialer over simulated hosts, in the time of a synctest bubble.
type network struct {
	hosts map[string]host
	began time.Time

	mu    sync.Mutex
	tried []string // address@when
	open  int      // connections that nobody closed
}

type wire struct {
	net  *network
	addr netip.AddrPort
}

func (w wire) Close() error { w.net.count(-1); return nil }

func (n *network) count(conns int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open += conns
}

func (n *network) dial(ctx context.Context, a netip.AddrPort) (wire, error) {
	n.mu.Lock()
	n.tried = append(n.tried, a.Addr().String()+"@"+time.Since(n.began).String())
	n.mu.Unlock()
	h := n.hosts[a.Addr().String()]
	answer := time.NewTimer(h.after)
	defer answer.Stop()
	if h.err == nil && !h.up {
		answer.Stop()
	}
	ended := ctx.Done()
	if h.deaf {
		ended = nil
	}
	select {
	case <-answer.C:
	case <-ended:
		return wire{}, ctx.Err()
	}
	if h.err != nil {
		return wire{}, h.err
	}
	n.count(1)
	return wire{n, a}, nil
}

func TestRace(t *testing.T) {
	const ms = time.Millisecond
	refused, unreachable := host{err: syscall.ECONNREFUSED, after: ms}, host{err: syscall.ENETUNREACH}
	dead, quick, slow := host{}, host{up: true, after: ms}, host{up: true, after: 400 * ms}
	for _, tt := range []struct {
		name  string
		addrs string
		hosts map[string]host
		won   string
		took  time.Duration
		tried string
		err   string // all of it
	}{
		{"the first one answers", "[::6]:1 10.0.0.4:1", map[string]host{"::6": quick, "10.0.0.4": quick},
			"[::6]:1", ms, "::6@0s", ""},
		{"the first one is dead", "[::6]:1 10.0.0.4:1", map[string]host{"::6": dead, "10.0.0.4": quick},
			"10.0.0.4:1", 251 * ms, "::6@0s 10.0.0.4@250ms", ""},
		{"no route to the first one", "[::6]:1 10.0.0.4:1", map[string]host{"::6": unreachable, "10.0.0.4": quick},
			"10.0.0.4:1", ms, "::6@0s 10.0.0.4@0s", ""},
		{"the first one refuses later", "[::6]:1 10.0.0.4:1 [::7]:1", map[string]host{"::6": {err: syscall.ECONNREFUSED, after: 300 * ms}, "10.0.0.4": dead, "::7": quick},
			"[::7]:1", 301 * ms, "::6@0s 10.0.0.4@250ms ::7@300ms", ""},
		{"the first one is slow, and still first", "[::6]:1 10.0.0.4:1", map[string]host{"::6": slow, "10.0.0.4": slow},
			"[::6]:1", 400 * ms, "::6@0s 10.0.0.4@250ms", ""},
		{"two at once", "[::6]:1 10.0.0.4:1", map[string]host{"::6": {up: true, after: 251 * ms, deaf: true}, "10.0.0.4": {up: true, after: ms, deaf: true}},
			"any", 251 * ms, "::6@0s 10.0.0.4@250ms", ""},
		{"a loser that cannot be stopped", "[::6]:1 10.0.0.4:1", map[string]host{"::6": {up: true, after: 2 * time.Second, deaf: true}, "10.0.0.4": quick},
			"10.0.0.4:1", 2 * time.Second, "::6@0s 10.0.0.4@250ms", ""},
		{"all refuse", "[::6]:1 10.0.0.4:1", map[string]host{"::6": unreachable, "10.0.0.4": refused},
			"", ms, "::6@0s 10.0.0.4@0s", "dial [::6]:1: network is unreachable; dial 10.0.0.4:1: connection refused"},
		{"all are dead", "[::6]:1 10.0.0.4:1", nil,
			"", 10 * time.Second, "::6@0s 10.0.0.4@250ms", "dial [::6]:1: no answer in 10 s; dial 10.0.0.4:1: no answer in 9.8 s"},
		{"one refuses, one is dead", "[::6]:1 10.0.0.4:1", map[string]host{"::6": dead, "10.0.0.4": refused},
			"", 10 * time.Second, "::6@0s 10.0.0.4@250ms", "dial [::6]:1: no answer in 10 s; dial 10.0.0.4:1: connection refused"},
		{"no address", "", nil, "", 0, "", "no address to dial"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: tt.hosts, began: time.Now()}
				ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
				defer cancel()
				won, err := race(ctx, addrPorts(tt.addrs), n.dial)
				if got := time.Since(n.began); got != tt.took {
					t.Errorf("took %v, want %v", got, tt.took)
				}
				if got := strings.Join(n.tried, " "); got != tt.tried {
					t.Errorf("tried %q, want %q", got, tt.tried)
				}
				if tt.won == "" {
					if err == nil || err.Error() != tt.err || n.open != 0 {
						t.Errorf("error %q, want %q; %d connections open", err, tt.err, n.open)
					}
					return
				}
				if err != nil || tt.won != "any" && won.addr.String() != tt.won || n.open != 1 {
					t.Errorf("connected to %v %v, want %s; %d connections open", won.addr, err, tt.won, n.open)
				}
			})
		})
	}
}

// An error names the addresses that were tried, and no other.
func TestRaceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := strings.TrimSpace(strings.Repeat("10.0.0.1:1 ", maxAttempts+3))
		n := &network{hosts: map[string]host{"10.0.0.1": {err: syscall.ECONNREFUSED}}, began: time.Now()}
		_, err := race(t.Context(), addrPorts(many), n.dial)
		if len(n.tried) != maxAttempts || !strings.HasSuffix(err.Error(), "; 3 more addresses were not tried") {
			t.Errorf("%d tried: %v", len(n.tried), err)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the cause is lost: %v", err)
		}

		n = &network{began: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
		defer cancel()
		_, err = race(ctx, addrPorts("10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1"), n.dial)
		const want = "dial 10.0.0.1:1: no answer in 600 ms; dial 10.0.0.2:1: no answer in 350 ms; dial 10.0.0.3:1: no answer in 100 ms; 1 more addresses were not tried"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}
