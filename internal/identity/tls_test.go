package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// ends are the two results of a TLS connection over which one byte went each way.
type ends struct {
	server, client           error
	serverState, clientState tls.ConnectionState
}

// connect runs a handshake and an echo of one byte between two configurations.
// The byte matters: a client learns only then that the server refused it.
func connect(t *testing.T, server, client *tls.Config) (e ends) {
	t.Helper()
	sp, cp := net.Pipe()
	deadline := time.Now().Add(30 * time.Second)
	for _, p := range []net.Conn{sp, cp} {
		if err := p.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer sp.Close()
		conn := tls.Server(sp, server)
		if e.server = conn.Handshake(); e.server != nil {
			return
		}
		e.serverState = conn.ConnectionState()
		var b [1]byte
		if _, e.server = io.ReadFull(conn, b[:]); e.server == nil {
			_, e.server = conn.Write(b[:])
		}
	}()
	conn := tls.Client(cp, client)
	e.client = conn.Handshake()
	if e.client == nil {
		e.clientState = conn.ConnectionState()
		// A server that refuses sends its alert now; over a pipe both would wait
		// for each other to read, so writing does not wait for the answer.
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_, _ = conn.Write([]byte{1})
		}()
		var b [1]byte
		_, e.client = io.ReadFull(conn, b[:])
		_ = cp.Close()
		<-wrote
	}
	_ = cp.Close()
	<-done
	return e
}

func TestTLS(t *testing.T) {
	l, c := mustKey(t), mustKey(t)
	e := connect(t, ServerTLS(l, c.Fingerprint()), ClientTLS(c, l.Fingerprint()))
	if e.server != nil || e.client != nil {
		t.Fatalf("server: %v, client: %v", e.server, e.client)
	}
	for _, s := range []tls.ConnectionState{e.serverState, e.clientState} {
		if s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != ALPN || s.DidResume {
			t.Errorf("version %x, protocol %q, resumed %t", s.Version, s.NegotiatedProtocol, s.DidResume)
		}
	}
}

// Each side refuses a peer that is not the pinned one, also when that one has been
// paired with somebody else, shows no certificate, or shows the right certificate
// behind its own.
func TestTLSWrongPeer(t *testing.T) {
	l, c, mallory := mustKey(t), mustKey(t), mustKey(t)
	server, client := ServerTLS(l, c.Fingerprint()), ClientTLS(c, l.Fingerprint())

	behind := func(k, pinned *Key) tls.Certificate {
		cert := k.Certificate()
		cert.Certificate = append(append([][]byte(nil), cert.Certificate...), pinned.Certificate().Certificate...)
		return cert
	}
	malloryClient := ClientTLS(mallory, l.Fingerprint())
	malloryClient2 := ClientTLS(mallory, l.Fingerprint())
	malloryClient2.Certificates = []tls.Certificate{behind(mallory, c)}
	noCert := ClientTLS(c, l.Fingerprint())
	noCert.Certificates = nil
	stolen := ClientTLS(mallory, l.Fingerprint())
	stolen.Certificates = []tls.Certificate{{Certificate: c.Certificate().Certificate, PrivateKey: mallory.private}}
	malloryServer := ServerTLS(mallory, c.Fingerprint())
	malloryServer2 := ServerTLS(mallory, c.Fingerprint())
	malloryServer2.Certificates = []tls.Certificate{behind(mallory, l)}

	serverRefuses := map[string]*tls.Config{
		"another key":                  malloryClient,
		"the pinned certificate added": malloryClient2,
		"no certificate":               noCert,
		"a stolen certificate":         stolen,
		"another kind of key":          withECDSA(t, ClientTLS(mallory, l.Fingerprint())),
	}
	for name, cfg := range serverRefuses {
		t.Run("server/"+name, func(t *testing.T) {
			e := connect(t, server, cfg)
			if e.server == nil || e.client == nil {
				t.Errorf("server: %v, client: %v; want both refused", e.server, e.client)
			}
		})
	}
	for name, cfg := range map[string]*tls.Config{
		"another key":                  malloryServer,
		"the pinned certificate added": malloryServer2,
		"another kind of key":          withECDSA(t, ServerTLS(mallory, c.Fingerprint())),
	} {
		t.Run("client/"+name, func(t *testing.T) {
			e := connect(t, cfg, client)
			var wrong ErrWrongPeer
			if !errors.As(e.client, &wrong) || wrong.Want != l.Fingerprint() || wrong.Got == wrong.Want || e.server == nil {
				t.Errorf("server: %v, client: %v", e.server, e.client)
			}
		})
	}
	t.Run("nobody is pinned", func(t *testing.T) {
		if e := connect(t, ServerTLS(l, Fingerprint{}), ClientTLS(c, Fingerprint{})); e.server == nil || e.client == nil {
			t.Errorf("server: %v, client: %v", e.server, e.client)
		}
	})
}

func withECDSA(t *testing.T, cfg *tls.Config) *tls.Config {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}
	return cfg
}

func TestTLSVersionAndProtocol(t *testing.T) {
	l, c := mustKey(t), mustKey(t)
	tests := map[string]struct {
		change func(*tls.Config)
		want   string // what the side that was not changed says
	}{
		"TLS 1.2":          {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "version"},
		"another protocol": {func(c *tls.Config) { c.NextProtos = []string{"h3"} }, "protocol"},
		"no protocol":      {func(c *tls.Config) { c.NextProtos = nil }, "protocol"},
	}
	for name, tt := range tests {
		t.Run("client with "+name, func(t *testing.T) {
			changed := ClientTLS(c, l.Fingerprint())
			tt.change(changed)
			changed.VerifyConnection = nil // a client that does not care
			e := connect(t, ServerTLS(l, c.Fingerprint()), changed)
			if e.server == nil || e.client == nil || !strings.Contains(e.server.Error(), tt.want) {
				t.Errorf("server: %v, client: %v", e.server, e.client)
			}
		})
		t.Run("server with "+name, func(t *testing.T) {
			changed := ServerTLS(l, c.Fingerprint())
			tt.change(changed)
			changed.VerifyConnection = nil
			e := connect(t, changed, ClientTLS(c, l.Fingerprint()))
			if e.server == nil || e.client == nil || !strings.Contains(e.client.Error(), tt.want) {
				t.Errorf("server: %v, client: %v", e.server, e.client)
			}
		})
	}
}

// Not even two sides of which one offers tickets resume a session.
func TestTLSNoResumption(t *testing.T) {
	l, c := mustKey(t), mustKey(t)
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	server, client := ServerTLS(l, c.Fingerprint()), ClientTLS(c, l.Fingerprint())
	client.ClientSessionCache = cache
	client.ServerName = "peer" // the key of the cache
	for range 2 {
		e := connect(t, server, client)
		if e.server != nil || e.client != nil || e.serverState.DidResume || e.clientState.DidResume {
			t.Fatalf("server: %v, client: %v, resumed %t", e.server, e.client, e.clientState.DidResume)
		}
	}
	if cache.puts != 0 {
		t.Errorf("our server issued %d tickets", cache.puts)
	}

	// Even a server that issues tickets does not get our client to resume.
	server.SessionTicketsDisabled = false
	client = ClientTLS(c, l.Fingerprint())
	client.ServerName = "peer"
	for range 2 {
		if e := connect(t, server, client); e.client != nil || e.clientState.DidResume {
			t.Fatalf("client: %v, resumed %t", e.client, e.clientState.DidResume)
		}
	}
	// And verify refuses it whatever the configuration.
	if err := verify(tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: ALPN, DidResume: true}, l.Fingerprint()); err == nil {
		t.Error("a resumed session was taken")
	}
}

type countingCache struct {
	tls.ClientSessionCache
	puts int
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.puts++
	}
	c.ClientSessionCache.Put(key, s)
}
