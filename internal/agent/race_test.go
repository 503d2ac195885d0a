package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/relay"
)

// turnAt is a server: a URI, and where its name leads to.
func turnAt(t *testing.T, uri, addr string) turnServer {
	t.Helper()
	u, err := candidates.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return turnServer{u, netip.AddrPortFrom(netip.MustParseAddr(addr), u.Port)}
}

// A fakeAllocation is what a simulated server makes.
type fakeAllocation struct {
	of     turnServer
	mu     *sync.Mutex
	closed *[]string
}

func (f *fakeAllocation) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	*f.closed = append(*f.closed, f.of.uri.Transport)
	return nil
}

var errAnything = errors.New("anything")

func refusal(code int, why error) error {
	return &relay.RequestError{What: "allocate", Server: "turn", Code: code, Err: why}
}

// TestRace runs races against simulated servers in simulated time.
func TestRace(t *testing.T) {
	const silence = 6300 * time.Millisecond // relay gives up after it
	type answer struct {
		after time.Duration
		err   error
		ok    bool
	}
	yes := func(after time.Duration) answer { return answer{after: after, ok: true} }
	no := func(after time.Duration, err error) answer { return answer{after: after, err: err} }
	never := answer{}
	expired := refusal(401, relay.ErrCredentials)

	const one, two = "192.0.2.1", "192.0.2.2"
	for _, tt := range []struct {
		name    string
		servers []string // transport and address
		shared  bool
		answers map[string]answer
		cancel  time.Duration
		won     []string      // in order
		starts  string        // who was asked, and when, in milliseconds
		ends    time.Duration // when the race is over
		err     string        // contained in its error
		sofar   []string      // what it says meanwhile; nil: not checked
	}{
		{
			name: "the first", servers: []string{"udp " + one, "tcp " + one},
			answers: map[string]answer{"udp " + one: yes(20 * time.Millisecond)},
			won:     []string{"udp " + one}, starts: "udp 192.0.2.1 at 0", ends: 20 * time.Millisecond,
		},
		{
			name: "no UDP here", servers: []string{"udp " + one, "tcp " + one},
			answers: map[string]answer{"udp " + one: never, "tcp " + one: yes(20 * time.Millisecond)},
			won:     []string{"tcp " + one}, starts: "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200", ends: silence,
		},
		{
			name: "a lost answer", servers: []string{"udp " + one, "tcp " + one, "tls " + one},
			answers: map[string]answer{"udp " + one: yes(320 * time.Millisecond), "tcp " + one: yes(20 * time.Millisecond)},
			won:     []string{"tcp " + one, "udp " + one}, starts: "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200", ends: 320 * time.Millisecond,
		},
		{
			name: "TLS is no better than TCP", servers: []string{"tcp " + one, "tls " + one},
			answers: map[string]answer{"tcp " + one: yes(300 * time.Millisecond), "tls " + one: yes(10 * time.Millisecond)},
			won:     []string{"tls " + one}, starts: "tcp 192.0.2.1 at 200, tls 192.0.2.1 at 400", ends: 410 * time.Millisecond,
		},
		{
			name: "refused after another has won", servers: []string{"udp " + one, "udp " + two, "tcp " + one}, shared: true,
			answers: map[string]answer{"udp " + one: no(240*time.Millisecond, expired), "tcp " + one: yes(10 * time.Millisecond), "udp " + two: yes(10 * time.Millisecond)},
			won:     []string{"tcp " + one, "udp " + two}, starts: "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200, udp 192.0.2.2 at 240", ends: 250 * time.Millisecond,
		},
		{
			name: "what is known meanwhile", servers: []string{"udp " + one, "tcp " + one, "udp " + two},
			answers: map[string]answer{"udp " + one: never, "tcp " + one: no(10*time.Millisecond, errAnything), "udp " + two: no(10*time.Millisecond, refusal(401, relay.ErrCredentials))},
			starts:  "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200, udp 192.0.2.2 at 210", ends: silence, err: one + ":3478: no answer over UDP, anything over TCP; " + two,
			sofar: []string{
				one + ":3478: no answer yet over UDP, no answer yet over TCP; " + two + ":3478: no answer yet over UDP",
				one + ":3478: no answer yet over UDP, anything over TCP; " + two + ":3478: no answer yet over UDP",
				one + ":3478: no answer yet over UDP, anything over TCP; " + two + ":3478: credentials refused (401) over UDP",
				one + ":3478: no answer over UDP, anything over TCP; " + two + ":3478: credentials refused (401) over UDP",
			},
		},
		{
			name: "who fails makes room", servers: []string{"tls " + two, "tcp " + one, "udp " + one},
			answers: map[string]answer{"udp " + one: no(5*time.Millisecond, errAnything), "tcp " + one: no(5*time.Millisecond, errAnything), "tls " + two: yes(5 * time.Millisecond)},
			won:     []string{"tls " + two}, starts: "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 5, tls 192.0.2.2 at 10", ends: 15 * time.Millisecond,
		},
		{
			name: "all silent", servers: []string{"udp " + one, "tcp " + one}, answers: map[string]answer{"udp " + one: never, "tcp " + one: never},
			starts: "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200", ends: 200*time.Millisecond + silence,
			err: one + ":3478: no answer over UDP, no answer over TCP",
		},
		{
			// The credentials are the same everywhere: the silent one would refuse them too.
			name: "expired credentials", servers: []string{"udp " + one, "tcp " + one}, shared: true,
			answers: map[string]answer{"udp " + one: never, "tcp " + one: no(10*time.Millisecond, expired)},
			starts:  "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200", ends: 210 * time.Millisecond,
			err: one + ":3478: credentials refused (401) over TCP",
		},
		{
			name: "expired credentials, two servers of one secret", servers: []string{"udp " + one, "udp " + two}, shared: true,
			answers: map[string]answer{"udp " + one: no(10*time.Millisecond, expired)},
			starts:  "udp 192.0.2.1 at 0", ends: 10 * time.Millisecond, err: "credentials refused",
		},
		{
			name: "credentials of the user's own that one server does not know", servers: []string{"udp " + one, "udp " + two, "tcp " + one},
			answers: map[string]answer{"udp " + one: no(10*time.Millisecond, expired), "udp " + two: yes(10 * time.Millisecond)},
			won:     []string{"udp " + two}, starts: "udp 192.0.2.1 at 0, udp 192.0.2.2 at 10", ends: 20 * time.Millisecond,
		},
		{
			name: "a quota holds for all transports", servers: []string{"udp " + one, "tcp " + one, "tls " + one},
			answers: map[string]answer{"udp " + one: never, "tcp " + one: no(10*time.Millisecond, refusal(486, relay.ErrQuota))},
			starts:  "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 200", ends: 210 * time.Millisecond, err: "quota reached (486) over TCP",
		},
		{
			name: "an error of the server may pass", servers: []string{"udp " + one, "tcp " + one},
			answers: map[string]answer{"udp " + one: no(10*time.Millisecond, refusal(500, errAnything)), "tcp " + one: yes(10 * time.Millisecond)},
			won:     []string{"tcp " + one}, starts: "udp 192.0.2.1 at 0, tcp 192.0.2.1 at 10", ends: 20 * time.Millisecond,
		},
		{
			name: "a dead record first", servers: []string{"udp " + one, "udp " + two},
			answers: map[string]answer{"udp " + one: never, "udp " + two: yes(20 * time.Millisecond)},
			won:     []string{"udp " + two}, starts: "udp 192.0.2.1 at 0, udp 192.0.2.2 at 250", ends: 270 * time.Millisecond,
		},
		{
			name: "ended from outside", servers: []string{"udp " + one, "tcp " + one}, answers: map[string]answer{"udp " + one: never}, cancel: 100 * time.Millisecond,
			starts: "udp 192.0.2.1 at 0", ends: 100 * time.Millisecond, err: errNewCredentials.Error(),
		},
		{name: "nobody"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var list []turnServer
				for _, s := range tt.servers {
					transport, addr, _ := strings.Cut(s, " ")
					uri := "turn:" + addr + ":3478?transport=" + transport
					if transport == "tls" {
						uri = "turns:" + addr + ":3478"
					}
					list = append(list, turnAt(t, uri, addr))
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, func() { cancel(errNewCredentials) })
				}
				began := time.Now()
				var mu sync.Mutex
				var starts, won, closed, sofar []string
				err := runRace(ctx, newRace(servers{turn: list, minted: tt.shared, user: "u", pass: "p"}), func(ctx context.Context, s turnServer) (*fakeAllocation, error) {
					name := s.uri.Transport + " " + s.addr.Addr().String()
					mu.Lock()
					starts = append(starts, fmt.Sprintf("%s at %d", name, time.Since(began).Milliseconds()))
					mu.Unlock()
					a := tt.answers[name]
					if a == never {
						a = no(silence, refusal(0, relay.ErrNoAnswer))
					}
					select {
					case <-time.After(a.after):
					case <-ctx.Done():
						return nil, context.Cause(ctx)
					}
					if a.ok {
						return &fakeAllocation{s, &mu, &closed}, nil
					}
					return nil, a.err
				}, func(a *fakeAllocation) { won = append(won, a.of.uri.Transport+" "+a.of.addr.Addr().String()) }, func(err error) { sofar = append(sofar, fmt.Sprint(err)) })
				if got := strings.Join(starts, ", "); got != tt.starts {
					t.Errorf("asked %s; want %s", got, tt.starts)
				}
				if !slices.Equal(won, tt.won) {
					t.Errorf("won by %v, want %v", won, tt.won)
				}
				if took := time.Since(began); took != tt.ends {
					t.Errorf("over after %v, want %v", took, tt.ends)
				}
				if len(tt.won) == 0 && len(tt.servers) > 0 && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("error %v; want %q", err, tt.err)
				}
				if tt.sofar != nil && !slices.Equal(sofar, tt.sofar) {
					t.Errorf("said meanwhile %q, want %q", sofar, tt.sofar)
				}
				if len(closed) > 0 {
					t.Errorf("closed %v", closed)
				}
			})
		})
	}
}

// Two that are made at the same moment: one is wanted, the other given back.
func TestRaceKeepsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var closed []string
		won := 0
		list := []turnServer{turnAt(t, "turn:192.0.2.1?transport=tcp", "192.0.2.1"), turnAt(t, "turns:192.0.2.1", "192.0.2.1")}
		err := runRace(t.Context(), newRace(servers{turn: list, minted: true, user: "u", pass: "p"}), func(_ context.Context, s turnServer) (*fakeAllocation, error) {
			time.Sleep(map[string]time.Duration{"tcp": 300 * time.Millisecond, "tls": 100 * time.Millisecond}[s.uri.Transport])
			return &fakeAllocation{s, &mu, &closed}, nil // whatever its context says
		}, func(*fakeAllocation) { won++ }, func(error) {})
		if err != nil || won != 1 || len(closed) != 1 {
			t.Errorf("%v; %d won, %v closed", err, won, closed)
		}
	})
}

// What an error says of the servers: each that was tried, and why it failed.
func TestNoRelayError(t *testing.T) {
	err := &noRelayError{[]loss{
		{turnAt(t, "turn:turn.example", "192.0.2.1"), refusal(0, relay.ErrNoAnswer)},
		{turnAt(t, "turn:turn.example", "192.0.2.2"), refusal(486, relay.ErrQuota)},
		{turnAt(t, "turn:turn.example?transport=tcp", "192.0.2.1"), &relay.RequestError{Err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}}},
		{turnAt(t, "turn:[2001:db8::1]:99", "2001:db8::1"), errNoCredentials},
	}}
	want := "[2001:db8::1]:99: no credentials; turn.example:3478 (192.0.2.1): no answer over UDP, connection refused over TCP; turn.example:3478 (192.0.2.2): quota reached (486) over UDP"
	if got := err.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !errors.Is(err, relay.ErrQuota) || errors.Is(err, relay.ErrCredentials) {
		t.Error("what they said is lost")
	}
}

// Without credentials nobody is asked.
func TestNoCredentials(t *testing.T) {
	list := []turnServer{turnAt(t, "turn:192.0.2.1", "192.0.2.1"), turnAt(t, "turn:192.0.2.1?transport=tcp", "192.0.2.1")}
	r := newRace(servers{turn: list, user: "somebody"})
	if want := "192.0.2.1:3478: no credentials"; !r.over() || r.err().Error() != want {
		t.Errorf("over %v: %v, want %s", r.over(), r.err(), want)
	}
}
