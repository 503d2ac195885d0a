package agent

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
)

// silence is a UDP port where nobody answers.
func silence(t *testing.T) string {
	t.Helper()
	s, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.LocalAddr().String()
}

// overTCPAlone has a deployment name a TURN server that answers over TCP alone.
func overTCPAlone(t *testing.T, cfg *signaling.ServerConfig) {
	t.Helper()
	for i, uri := range cfg.TURN {
		if strings.HasSuffix(uri, "udp") {
			cfg.TURN[i] = "turn:" + silence(t) + "?transport=udp"
		}
	}
}

// expiredCredentials are ones that no relay takes any more.
func expiredCredentials(secret []byte, user string, now time.Time) (name, pass string) {
	return relay.Mint(secret, user, time.Minute, now.Add(-time.Hour))
}

// mustNotWait fails when a link waited for a server that does not answer before
// it got an allocation over TCP.
func mustNotWait(t *testing.T, m *machine, at int) {
	t.Helper()
	_, got := await(t, m.events, at, func(e trace.RelayAllocated) bool { return e.Transport == "tcp" })
	given, silent, _ := find(m.events, at, func(e trace.RelayRefused) bool { return strings.Contains(e.Why, relay.ErrNoAnswer.Error()) })
	if silent > 0 && silent < got {
		m.events.dump(t)
		t.Errorf("%s was given up on before the relay was there", given.Server)
	}
}

// Where UDP is silent and TCP refuses the credentials, new ones are asked for, and
// nobody waits for the silent one.
func TestRefusedCredentialsAreRenewed(t *testing.T) {
	var minted atomic.Int32
	_, _, a, b := relayedBy(t, deployWith(t, func(cfg *signaling.ServerConfig, secret []byte) {
		overTCPAlone(t, cfg)
		good := cfg.Mint
		cfg.Mint = func(user string, now time.Time) signaling.Credentials {
			c := good(user, now)
			if minted.Add(1) <= 2 { // one for each
				c.Username, c.Password = expiredCredentials(secret, user, now)
			}
			return c
		}
	}))
	for _, m := range []*machine{a, b} {
		await(t, m.events, 0, func(e trace.RelayRefused) bool { return e.Code == 401 })
		mustNotWait(t, m, 0)
	}
}

// A try with credentials that had expired starts anew when new ones come.
func TestNewCredentialsRestartATry(t *testing.T) {
	var secret []byte
	l, _, m, _ := relayedBy(t, deployWith(t, func(cfg *signaling.ServerConfig, s []byte) {
		overTCPAlone(t, cfg)
		secret = s
	}))
	at := m.events.len()
	onLoop(l, func() {
		fresh := l.servers
		l.enc.Store(nil) // signaling is away
		l.servers.user, l.servers.pass = expiredCredentials(secret, "somebody", time.Now())
		l.servers.expires = time.Now().Add(-time.Second)
		l.dropAllocation()
		l.allocate()
		if l.relaying.try == nil || !l.relaying.try.stale {
			t.Error("nothing is tried with the old credentials")
		}
		l.useServers(fresh)
		if l.relaying.try == nil || l.relaying.try.stale {
			t.Error("nothing is tried with the new credentials")
		}
	})
	mustNotWait(t, m, at)
}

// Credentials that are refused again and again are not asked for all the time.
func TestRefusalsSlowDown(t *testing.T) {
	var minted atomic.Int32
	d := deployWith(t, func(cfg *signaling.ServerConfig, secret []byte) {
		good := cfg.Mint
		cfg.Mint = func(user string, now time.Time) signaling.Credentials {
			minted.Add(1)
			c := good(user, now)
			c.Username, c.Password = expiredCredentials(secret, user, now)
			return c
		}
	})
	_, a, b, _ := twoMachinesOf(t, d)
	peer, _ := befriend(t, a, b)
	startListener(t, b)
	c, _ := startConnector(t, a, peer, ConnectConfig{})
	at := 0
	for range 2 { // tries that were refused
		_, at = await(t, a.events, at, func(e trace.RelayRefused) bool { return e.Code == 401 })
	}
	r := &c.env.live()[0].relaying
	eventually(t, c.env.live()[0], "a pause after refusals", func() bool { return r.failures > 2 && time.Until(r.retryAt) > time.Second })
	if n := minted.Load(); n > 10 {
		t.Errorf("%d credentials for two machines", n)
	}
}
