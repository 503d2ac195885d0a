package measure

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// overSession is a [Link] over a real session, whose one path is whichever is
// asked for.
type overSession struct {
	*session.Session

	mu   sync.Mutex
	kind string
}

func (l *overSession) Open(ctx context.Context, target string) (Stream, error) {
	return l.Session.Open(ctx, session.Header{Kind: session.KindMeasure, Target: target})
}

func (l *overSession) SendDatagram(b []byte) error {
	return l.Session.SendDatagram(session.KindMeasure, b)
}

func (l *overSession) ReceiveDatagrams(ctx context.Context, handle func([]byte)) error {
	return l.Session.ReceiveDatagrams(ctx, session.KindMeasure, handle)
}

func (l *overSession) Hold(kind string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kind = kind
	return nil
}

func (l *overSession) Look() Look {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Look{Active: l.kind, Works: true}
}

func (l *overSession) RelayTraffic(context.Context) (in, out uint64, word RelayWord) { return }
func (l *overSession) Verdict() (trace.Verdict, bool)                                { return trace.Verdict{}, true }

// sessions are the two ends of one over loopback; the second one serves.
func sessions(t *testing.T) (a, b *overSession) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"p2pagent/1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: priv}},
		ClientAuth:   tls.RequireAnyClientCert, InsecureSkipVerify: true,
	}
	var conns [2]*net.UDPConn
	for i := range conns {
		if conns[i], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[i].Close() })
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	accepted := make(chan error, 1)
	b = new(overSession)
	go func() {
		var err error
		b.Session, err = session.Accept(ctx, session.Config{Conn: conns[1], TLS: cfg})
		accepted <- err
	}()
	dialed, err := session.Dial(ctx, session.Config{Conn: conns[0], Peer: conns[1].LocalAddr(), TLS: cfg})
	if err := errors.Join(err, <-accepted); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	server := NewServer(b, End{Name: "bob"})
	go func() {
		defer close(served)
		b.Serve(context.Background(), func(ctx context.Context, h session.Header, st *session.Stream) {
			server.Serve(ctx, h.Target, st)
		})
	}()
	t.Cleanup(func() {
		dialed.Close(session.CodeShutdown, "test over")
		b.Close(session.CodeShutdown, "test over")
		<-served
	})
	return &overSession{Session: dialed}, b
}

// Streams, datagrams and their ends as they really are.
func TestOverSession(t *testing.T) {
	a, _ := sessions(t)
	plan := Plan{Path: Direct, Wait: time.Minute, Options: Options{
		Seconds: 2, Skip: 0.1, Rounds: 1, Streams: 4, Direction: "both",
	}}
	r, err := Run(t.Context(), a, alice, plan)
	if err != nil {
		t.Fatal(err)
	}
	for i, round := range r.Rounds {
		if round.Error != "" || round.Bytes == 0 {
			t.Errorf("round %d: %d bytes, %q", i, round.Bytes, round.Error)
		}
	}
	plan.UDPMbps, plan.Rounds, plan.Direction = 5, 1, "receive"
	if r, err = Run(t.Context(), a, alice, plan); err != nil { // right after the last one
		t.Fatal(err)
	}
	if r.Direct == nil || r.Direct.Loss == nil || r.Direct.Goodput < 1 {
		t.Errorf("datagrams: %+v, rounds %+v", r.Direct, r.Rounds)
	}
}
