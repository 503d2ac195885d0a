package path

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// A quicPair is one QUIC connection over two packet conns.
type quicPair struct {
	client, server *quic.Conn
}

func quicConfig() *quic.Config {
	return &quic.Config{
		MaxIdleTimeout:             3 * time.Minute,
		KeepAlivePeriod:            25 * time.Second,
		InitialPacketSize:          1200,
		MaxStreamReceiveWindow:     16 << 20,
		MaxConnectionReceiveWindow: 24 << 20,
	}
}

// connect runs QUIC from a to b. Everything ends with the test.
func connect(t testing.TB, a, b net.PacketConn, dial net.Addr) quicPair {
	t.Helper()
	serverTLS, clientTLS := testTLS(t)
	ta, tb := &quic.Transport{Conn: a}, &quic.Transport{Conn: b}
	l, err := tb.Listen(serverTLS, quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var p quicPair
	accepted := make(chan error, 1)
	go func() {
		var err error
		p.server, err = l.Accept(ctx)
		accepted <- err
	}()
	p.client, err = ta.Dial(ctx, dial, clientTLS, quicConfig())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	if err := <-accepted; err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() {
		p.client.CloseWithError(0, "")
		p.server.CloseWithError(0, "")
		ta.Close()
		l.Close()
		tb.Close()
	})
	return p
}

func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"test"},
	}
	return server, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"test"}}
}

// A transfer is one stream of random bytes, sent at its own pace.
type transfer struct {
	received atomic.Int64
	lastAt   atomic.Int64 // UnixNano of the last bytes that came
	err      chan error
}

// send starts to move n bytes from one side to the other, checked by SHA-256.
// With a pause they go as 1 kB writes, else as fast as QUIC takes them.
func send(t testing.TB, from, to *quic.Conn, n int, pause time.Duration) *transfer {
	t.Helper()
	tr := &transfer{err: make(chan error, 2)}
	payload := make([]byte, n)
	rand.Read(payload)
	want := sha256.Sum256(payload)

	go func() {
		tr.err <- func() error {
			s, err := from.OpenUniStream()
			if err != nil {
				return err
			}
			for b := payload; len(b) > 0; {
				k := len(b)
				if pause > 0 {
					k = min(k, 1000)
					time.Sleep(pause)
				}
				if _, err := s.Write(b[:k]); err != nil {
					return err
				}
				b = b[k:]
			}
			return s.Close()
		}()
	}()
	go func() {
		tr.err <- func() error {
			s, err := to.AcceptUniStream(context.Background())
			if err != nil {
				return err
			}
			h, buf := sha256.New(), make([]byte, 64<<10)
			for {
				k, err := s.Read(buf)
				h.Write(buf[:k])
				tr.received.Add(int64(k))
				tr.lastAt.Store(time.Now().UnixNano())
				if errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return err
				}
			}
			if !bytes.Equal(h.Sum(nil), want[:]) {
				return errors.New("the bytes differ")
			}
			return nil
		}()
	}()
	return tr
}

// wait waits for both ends of the transfer.
func (tr *transfer) wait(t testing.TB) {
	t.Helper()
	timeout := time.After(3 * time.Minute)
	for range 2 {
		select {
		case err := <-tr.err:
			if err != nil {
				t.Fatal(err)
			}
		case <-timeout:
			t.Fatalf("transfer stuck at %d bytes", tr.received.Load())
		}
	}
}

// progress waits for the next bytes and returns how long that took.
func (tr *transfer) progress(t testing.TB, atMost time.Duration) time.Duration {
	t.Helper()
	was, start := tr.received.Load(), time.Now()
	for tr.received.Load() == was {
		if time.Since(start) > atMost {
			t.Fatalf("nothing received for %v", atMost)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(start)
}
