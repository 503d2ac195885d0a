package relay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

func TestMint(t *testing.T) {
	user, pass := Mint([]byte("secret"), "alice", time.Hour, time.Unix(1_700_000_000, 0))
	// printf 1700003600:alice | openssl dgst -sha1 -hmac secret -binary | base64
	if user != "1700003600:alice" || pass != "LLPLO4qjdVL2qZhwr3eImhn7J20=" {
		t.Errorf("Mint = %q, %q", user, pass)
	}
}

func TestIdentity(t *testing.T) {
	for in, want := range map[string]string{
		"170:alice": "alice", "171:alice": "alice", "170:a:b": "a:b", "170": "170", "170:": "170:",
	} {
		if got := identity(in); got != want {
			t.Errorf("identity(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestExpiry(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, tc := range []struct {
		name string
		ok   bool
	}{
		{"1700000001:u", true},
		{"1699999900:u", true},  // within the skew
		{"1699999870:u", false}, // 130 s ago
		{"9999999999999:u", true},
		{"alice", false},
		{":alice", false},
		{"-5:alice", false},
		{"", false},
	} {
		if err := checkExpiry(tc.name, now); (err == nil) != tc.ok {
			t.Errorf("checkExpiry(%q) = %v", tc.name, err)
		}
	}
}

func TestNonces(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	n := nonces{[]byte("key"), time.Hour}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	nonce := n.mint(a, now)
	if len(nonce) != 16 {
		t.Errorf("nonce %q: %d bytes make a long 401", nonce, len(nonce))
	}
	for name, tc := range map[string]struct {
		nonce string
		from  netip.Addr
		at    time.Time
		ours  bool
		fresh bool
	}{
		"fresh":            {nonce, a, now, true, true},
		"an hour later":    {nonce, a, now.Add(time.Hour), true, true},
		"older":            {nonce, a, now.Add(time.Hour + 2*time.Second), true, false},
		"from the future":  {nonce, a, now.Add(-2 * time.Minute), true, false},
		"another address":  {nonce, b, now, false, false},
		"another server":   {nonces{[]byte("other"), time.Hour}.mint(a, now), a, now, false, false},
		"empty":            {"", a, now, false, false},
		"not ours":         {"0123456789abcdef", a, now, false, false},
		"not even base 64": {"!!!!!!!!!!!!!!!!", a, now, false, false},
	} {
		if ours, fresh := n.check(tc.nonce, tc.from, tc.at); ours != tc.ours || fresh != tc.fresh {
			t.Errorf("%s: ours %v, fresh %v", name, ours, fresh)
		}
	}
}

// clock is a time that tests move.
type clock struct{ offset chan time.Duration }

func newClock() *clock {
	c := &clock{make(chan time.Duration, 1)}
	c.offset <- 0
	return c
}

func (c *clock) now() time.Time {
	d := <-c.offset
	c.offset <- d
	return time.Now().Add(d)
}

func (c *clock) advance(d time.Duration) { c.offset <- <-c.offset + d }

// An expired credential allocates no more, but keeps what it has.
func TestExpiredCredentialKeepsItsAllocation(t *testing.T) {
	clk := newClock()
	cfg := labConfig()
	cfg.Now = clk.now
	s := startServer(t, cfg)
	user, pass := Mint(testSecret, "u", time.Minute, clk.now())
	c, late := dialTURNAs(t, s, "udp", user, pass), dialTURNAs(t, s, "udp", user, pass)
	p := newPeer(t)
	relayed := c.allocate()

	clk.advance(30 * time.Minute)
	wantCode(t, c.refresh(10*time.Minute), 0)
	wantCode(t, c.bind(0x4000, p.addr()), 0)
	clk.advance(9 * time.Minute) // past the permission, not past the channel
	wantCode(t, c.permit(p.addr()), 0)
	c.sendChannel(0x4000, "still here")
	p.want(relayed, "still here")
	clk.advance(50 * time.Minute) // and the nonce is stale now
	wantCode(t, c.refresh(10*time.Minute), 0)
	wantCode(t, c.permit(p.addr()), 0)

	wantCode(t, late.exchange(stunmsg.NewRequest(stunmsg.MethodAllocate)), codeUnauthenticated)
	late.challenge()
	resp := late.exchange(late.signed(stunmsg.MethodAllocate, requestUDP))
	wantCode(t, resp, codeUnauthenticated)
	if resp.Nonce() == "" || resp.Realm() == "" {
		t.Error("401 without a challenge")
	}
	wantCode(t, c.refresh(0), 0)
	resp = c.exchange(c.signed(stunmsg.MethodAllocate, requestUDP))
	wantCode(t, resp, codeUnauthenticated)
}

// challenge fetches realm and nonce.
func (c *turnClient) challenge() {
	c.t.Helper()
	resp := c.exchange(stunmsg.NewRequest(stunmsg.MethodRefresh))
	wantCode(c.t, resp, codeUnauthenticated)
	c.realm, c.nonce = resp.Realm(), resp.Nonce()
}

func (c *turnClient) signed(m stunmsg.Method, attrs func(*stunmsg.Builder)) *stunmsg.Builder {
	b := stunmsg.NewRequest(m)
	attrs(b)
	return b.Username(c.username).Realm(c.realm).Nonce(c.nonce).Sign(c.key())
}

func TestAuthentication(t *testing.T) {
	old, current := []byte("old secret"), []byte("new secret")
	cfg := labConfig()
	cfg.Secrets = [][]byte{current, old}
	s := startServer(t, cfg)
	for name, tc := range map[string]struct {
		secret []byte
		user   string // replaces what was minted
		code   int
	}{
		"current secret":       {current, "", 0},
		"secret rotated out":   {old, "", 0},
		"unknown secret":       {[]byte("guess"), "", codeUnauthenticated},
		"not a REST username":  {current, "alice", codeUnauthenticated},
		"another's time stamp": {current, "9999999999:u", codeUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			user, pass := Mint(tc.secret, "u", time.Hour, time.Now())
			if tc.user != "" {
				user = tc.user
			}
			c := dialTURNAs(t, s, "udp", user, pass)
			c.challenge()
			wantCode(t, c.exchange(c.signed(stunmsg.MethodAllocate, requestUDP)), tc.code)
		})
	}

	c := dialTURN(t, s, "udp", "u")
	c.challenge()
	unsigned := stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(protocolUDP)
	wantCode(t, c.exchange(unsigned), codeUnauthenticated)
	noNonce := stunmsg.NewRequest(stunmsg.MethodAllocate).Username(c.username).Realm(c.realm).Sign(c.key())
	wantCode(t, c.exchange(noNonce), codeBadRequest)
	c.nonce = "0123456789abcdef"
	resp := c.exchange(c.signed(stunmsg.MethodAllocate, requestUDP))
	wantCode(t, resp, codeStaleNonce)
	if resp.Nonce() == "" {
		t.Error("438 without a nonce")
	}
}

// Whoever shares the 5-tuple of an allocation, knowing a credential of its
// own, cannot touch it; the same user with a newer credential can.
func TestAllocationBelongsToItsUser(t *testing.T) {
	s := startServer(t, labConfig())
	c := dialTURN(t, s, "udp", "owner")
	c.allocate()
	mine, password := c.username, c.password
	c.username, c.password = Mint(testSecret, "intruder", time.Hour, time.Now())
	wantCode(t, c.refresh(0), codeWrongCredentials)
	wantCode(t, c.permit(netip.MustParseAddrPort("127.0.0.1:9")), codeWrongCredentials)
	wantCode(t, c.bind(0x4000, netip.MustParseAddrPort("127.0.0.1:9")), codeWrongCredentials)
	wantCode(t, c.tryAllocate(0), codeWrongCredentials)
	c.username, c.password = Mint(testSecret, "owner", 2*time.Hour, time.Now())
	wantCode(t, c.refresh(time.Minute), 0)
	c.username, c.password = mine, password
	wantCode(t, c.refresh(0), 0)
}

func TestQuotas(t *testing.T) {
	cfg := labConfig()
	cfg.Limits = Limits{AllocationsPerUser: 2, AllocationsPerIP: 4, Allocations: 100, PeersPerAllocation: 3}
	s := startServer(t, cfg)
	first := dialTURN(t, s, "udp", "u")
	first.allocate()
	dialTURN(t, s, "tcp", "u").allocate()
	third := dialTURN(t, s, "udp", "u")
	wantCode(t, third.tryAllocate(0), codeQuotaReached)
	wantCode(t, first.refresh(0), 0)
	third.allocate()

	dialTURN(t, s, "udp", "v").allocate()
	c := dialTURN(t, s, "udp", "w")
	c.allocate()
	wantCode(t, dialTURN(t, s, "udp", "x").tryAllocate(0), codeQuotaReached) // of the address

	at := netip.MustParseAddrPort
	wantCode(t, c.permit(at("127.0.0.2:1"), at("127.0.0.3:1")), 0)
	wantCode(t, c.bind(0x4000, at("127.0.0.4:1")), 0)
	wantCode(t, c.permit(at("127.0.0.3:1")), 0) // has one already
	wantCode(t, c.permit(at("127.0.0.5:1")), codeInsufficientCapacity)
	wantCode(t, c.bind(0x4001, at("127.0.0.5:1")), codeInsufficientCapacity)
	wantCode(t, c.bind(0x4001, at("127.0.0.4:2")), 0)
	wantCode(t, c.bind(0x4002, at("127.0.0.4:3")), 0)
	wantCode(t, c.bind(0x4003, at("127.0.0.4:4")), codeInsufficientCapacity)
}
