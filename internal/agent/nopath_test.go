package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/punch"
	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
)

// Both kinds of path have their reason, and the relay's names its server.
func TestWhyNoPath(t *testing.T) {
	failed := func(err error) error {
		return &noRelayError{[]loss{{turnAt(t, "turn:turn.example", "192.0.2.1"), err}}}
	}
	silent := failed(&relay.RequestError{Err: relay.ErrNoAnswer})
	punched := &punch.NoPathError{Candidates: 2, Counts: punch.Counts{ChecksSent: 100}}
	for _, tt := range []struct {
		name   string
		f      facts
		why    string
		remedy string
	}{
		{"silent, relay only", facts{RelayErr: silent, RelayOnly: true},
			"no relay (turn.example:3478 (192.0.2.1): no answer over UDP); no direct path is looked for with --relay-only",
			"is the server running, and are its ports open, UDP and TCP?"},
		{"and none direct", facts{RelayErr: silent, LastErr: punched, Attempts: 1},
			"no relay (turn.example:3478 (192.0.2.1): no answer over UDP); 100 checks were sent to the peer (2 of its addresses), and none of the peer's arrived here: a router or firewall drops them",
			"is the server running, and are its ports open, UDP and TCP?"},
		{"no credentials", facts{RelayErr: failed(errNoCredentials), RelayOnly: true},
			"no relay (turn.example:3478 (192.0.2.1): no credentials); no direct path is looked for with --relay-only",
			"give the server's user and password with --turn-auth-file"},
		{"wrong credentials", facts{RelayErr: failed(&relay.RequestError{Code: 401, Err: relay.ErrCredentials}), PeerRelayOnly: true},
			"no relay (turn.example:3478 (192.0.2.1): credentials refused (401) over UDP); the peer was told to use the relay only",
			"check the user and password in --turn-auth-file"},
		{"wrong credentials of signaling's", facts{RelayErr: failed(&relay.RequestError{Code: 401, Err: relay.ErrCredentials}), Minted: true},
			"no relay (turn.example:3478 (192.0.2.1): credentials refused (401) over UDP); no attempt for a direct path has ended yet",
			"do signaling and relay use the same --turn-secret-file, and is the time right there?"},
		{"no server", facts{RelayErr: errNoServers, RelayOnly: true},
			"no relay (the signaling server names no TURN server); no direct path is looked for with --relay-only",
			"start `signal` with its relay, or name a server with --turn"},
		{"the peer's is missing", facts{Relayed: "192.0.2.1:50000", RelayOnly: true},
			"nothing of the peer came over the relay 192.0.2.1:50000; no direct path is looked for with --relay-only",
			"look at the other side: does it say why it has no path?"},
		{"too early", facts{}, "no relay has been tried yet; no attempt for a direct path has ended yet", "give it more time: --timeout"},
	} {
		if why, remedy := whyNoPath(tt.f); why != tt.why || remedy != tt.remedy {
			t.Errorf("%s: %q, try %q\nwant %q, try %q", tt.name, why, remedy, tt.why, tt.remedy)
		}
	}
}

// A relay that is not there is told of by name, once; and a link that has no path
// for that ends with the same words.
func TestRelayMissing(t *testing.T) {
	var dead string
	_, a, b, _ := twoMachinesOf(t, deployWith(t, func(cfg *signaling.ServerConfig, _ []byte) {
		dead = silence(t) // over UDP; nobody listens there for TCP
		cfg.TURN = []string{"turn:" + dead + "?transport=tcp"}
	}))
	a.cfg.RelayOnly, b.cfg.RelayOnly = true, true
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, err := NewConnector(a.cfg, peer, ConnectConfig{Timeout: absence})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(t.Context())
	var none *noPathError
	if !errors.As(err, &none) || !errors.Is(err, ErrNoPath) {
		t.Fatalf("ended with %v", err)
	}
	for _, want := range []string{"within 3 s", dead + ": connection refused over TCP", "--relay-only"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q says nothing of %q", err, want)
		}
	}
	if none.Hint() == "" {
		t.Error("no advice")
	}
	at := 0
	for range 2 { // tries that found none
		_, at = await(t, b.events, at, func(e trace.RelayRefused) bool { return e.What == "allocate" })
	}
	e, at := await(t, b.events, 0, func(trace.RelayMissing) bool { return true })
	if want := dead + ": connection refused over TCP"; e.Why != want || e.Remedy == "" {
		t.Errorf("told %+v, want %q", e, want)
	}
	_, again, _ := find(b.events, at, func(trace.RelayMissing) bool { return true })
	if again != 0 {
		t.Error("told twice")
	}
}
