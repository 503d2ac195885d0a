package session

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTLS is one certificate for both sides; pinning is identity's own test.
func testTLS(t *testing.T) *tls.Config {
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
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: priv}},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true,
		NextProtos:         []string{"p2pagent/1"},
	}
}

func loopback(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pair returns two ends of a session over loopback.
func pair(t *testing.T) (client, server *Session) {
	t.Helper()
	return pairOver(t, loopback(t), loopback(t))
}

// pairOver returns two ends of a session over two conns.
func pairOver(t *testing.T, a, b net.PacketConn) (client, server *Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg := testTLS(t)
	accepted := make(chan error, 1)
	go func() {
		var err error
		server, err = Accept(ctx, Config{Conn: b, TLS: cfg})
		accepted <- err
	}()
	client, err := Dial(ctx, Config{Conn: a, Peer: b.LocalAddr(), TLS: cfg})
	if err := errors.Join(err, <-accepted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close(CodeShutdown, "test over")
		server.Close(CodeShutdown, "test over")
	})
	return client, server
}

// serve runs handle for each stream of s until the test ends.
func serve(t *testing.T, s *Session, handle func(context.Context, Header, *Stream)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, handle)
	}()
	t.Cleanup(func() { cancel(); s.Close(CodeShutdown, "test over"); <-done })
}

func open(t *testing.T, s *Session, h Header) *Stream {
	t.Helper()
	stream, err := s.Open(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Both directions carry data, and one ends before the other.
func TestHalfClose(t *testing.T) {
	client, server := pair(t)
	serve(t, server, func(_ context.Context, h Header, s *Stream) {
		if h != (Header{KindDial, "localhost:7"}) {
			s.Refuse(CodeProtocol, "unexpected header")
			return
		}
		s.Accept()
		sum := sha256.New()
		if _, err := io.Copy(sum, s); err != nil { // until the client's clean end
			s.Reset(CodeReset)
			return
		}
		s.Write(sum.Sum(nil))
		s.CloseWrite()
	})
	stream := open(t, client, Header{KindDial, "localhost:7"})
	payload := make([]byte, 3<<20)
	rand.Read(payload)
	if _, err := stream.Write(payload); err != nil {
		t.Fatal(err)
	}
	stream.CloseWrite()
	got, err := io.ReadAll(stream)
	want := sha256.Sum256(payload)
	if err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("got %x %v, want %x", got, err, want)
	}
}

func TestRefusal(t *testing.T) {
	client, server := pair(t)
	serve(t, server, func(_ context.Context, _ Header, s *Stream) {
		s.Refuse(CodeNotAllowed, "10.0.0.1:22 is not on this side's list")
	})
	stream := open(t, client, Header{KindDial, "10.0.0.1:22"})
	_, err := stream.Read(make([]byte, 1))
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Code != CodeNotAllowed || !strings.Contains(refused.Reason, "not on this side's list") {
		t.Fatalf("got %v, want a refusal with code and sentence", err)
	}
	if err := stream.Accepted(); !errors.As(err, &refused) {
		t.Errorf("asked again: %v, want the same refusal", err)
	}
}

// A lost tail is never a clean end, and a reset does not overtake what was
// written before it.
func TestResetComesAfterTheData(t *testing.T) {
	client, server := pair(t)
	serve(t, server, func(_ context.Context, _ Header, s *Stream) {
		s.Accept()
		s.Write([]byte("head"))
		s.Reset(CodeUnreachable)
	})
	for range 50 {
		stream := open(t, client, Header{KindDial, "x:1"})
		got, err := io.ReadAll(stream)
		var reset *ResetError
		if string(got) != "head" || !errors.As(err, &reset) || reset.Code != CodeUnreachable {
			t.Fatalf("got %q, %v, want what was written and then a reset with its code", got, err)
		}
	}
}

// All that was written is delivered, also what the peer had not granted a window
// for yet when the stream was reset; and the session does not mind.
func TestResetOfAFullStream(t *testing.T) {
	client, server := pair(t)
	full := make(chan int, 1)
	serve(t, server, func(_ context.Context, h Header, s *Stream) {
		s.Accept()
		if h.Target == "echo" {
			io.Copy(s, s)
			s.CloseWrite()
			return
		}
		var sent int
		for {
			if sent >= initialStreamWindow-1000 { // the window is used up, or nearly so
				s.SetDeadline(time.Now().Add(300 * time.Millisecond))
			}
			n, err := s.Write(make([]byte, 1000))
			sent += n
			if err != nil {
				break
			}
		}
		s.Reset(CodeReset)
		full <- sent
	})
	stream := open(t, client, Header{KindDial, "full"})
	if err := stream.Accepted(); err != nil {
		t.Fatal(err)
	}
	sent := <-full
	got, err := io.ReadAll(stream)
	var reset *ResetError
	if len(got) != sent || sent < initialStreamWindow-1000 || !errors.As(err, &reset) {
		t.Errorf("%d bytes arrived of %d, %v; want all, of a full window of %d, and a reset", len(got), sent, err, initialStreamWindow)
	}
	other := open(t, client, Header{KindDial, "echo"})
	other.Write([]byte("x"))
	other.CloseWrite()
	if got, err := io.ReadAll(other); string(got) != "x" || err != nil {
		t.Errorf("another stream: %q, %v", got, err)
	}
}

// As many connections as there may be leave room for a measurement.
func TestRoomBesideAllConnections(t *testing.T) {
	client, server := pair(t)
	over := make(chan struct{})
	serve(t, server, func(_ context.Context, _ Header, s *Stream) { s.Accept(); <-over; s.Reset(CodeShutdown) })
	defer close(over)
	for range MaxConnections {
		open(t, client, Header{KindDial, "x:1"})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i := range 60 {
		if _, err := client.Open(ctx, Header{KindMeasure, "x"}); err != nil {
			t.Fatalf("stream %d of a measurement: %v", i, err)
		}
	}
}

// A peer that allows no more streams is waited for no longer than the caller wants.
func TestOpenEndsWithContext(t *testing.T) {
	client, server := pair(t)
	over := make(chan struct{})
	serve(t, server, func(_ context.Context, _ Header, s *Stream) { s.Accept(); <-over; s.Reset(CodeShutdown) })
	defer close(over)
	for range maxStreams - 1 { // the control stream is one
		open(t, client, Header{KindDial, "x:1"})
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, ErrNoStream)
	defer cancel()
	if _, err := client.Open(ctx, Header{KindDial, "x:1"}); !errors.Is(err, ErrNoStream) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

// The words of a user are ours, not those of a library.
func TestErrorsOfAnEndedStream(t *testing.T) {
	client, server := pair(t)
	serve(t, server, func(_ context.Context, _ Header, s *Stream) {
		s.StopReading(CodeNotAllowed)
		<-s.Stopped()
		s.Reset(CodeNotAllowed)
	})
	stream := open(t, client, Header{KindDial, "x:1"})
	<-stream.Stopped()
	var reset *ResetError
	if _, err := stream.Write([]byte("x")); !errors.As(err, &reset) || reset.Code != CodeNotAllowed {
		t.Errorf("write to a peer that stopped reading: %v", err)
	}
	if err := stream.CloseWrite(); !errors.As(err, &reset) || reset.Code != CodeNotAllowed {
		t.Errorf("clean end towards a peer that stopped reading: %v", err)
	}
	stream.Reset(CodeReset)
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read of a stream that this side reset: %v", err)
	}
	other := open(t, client, Header{KindDial, "x:1"})
	other.Reset(CodeReset)
	if _, err := other.Write([]byte("x")); !errors.Is(err, ErrReset) {
		t.Errorf("write to a stream that this side reset: %v", err)
	}
}

func TestMalformedHeaderIsAnswered(t *testing.T) {
	client, server := pair(t)
	serve(t, server, func(context.Context, Header, *Stream) { t.Error("a malformed header reached the handler") })
	qs, err := client.conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	qs.Write([]byte("\x09\x02\x00\x00"))
	err = (&Stream{qs: qs, local: true}).Accepted()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Code != CodeProtocol {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestControl(t *testing.T) {
	client, server := pair(t)
	for _, size := range []int{1, 1000, MaxFrame} {
		frame := bytes.Repeat([]byte{'x'}, size)
		if err := client.Control().Send(frame); err != nil {
			t.Fatal(err)
		}
		got, err := server.Control().Receive()
		if err != nil || !bytes.Equal(got, frame) {
			t.Fatalf("frame of %d bytes: got %d bytes, %v", size, len(got), err)
		}
	}
	for _, size := range []int{0, MaxFrame + 1} {
		if err := server.Control().Send(make([]byte, size)); err == nil {
			t.Errorf("frame of %d bytes was sent", size)
		}
	}
}

func TestCloseTellsThePeerWhy(t *testing.T) {
	client, server := pair(t)
	stream := open(t, client, Header{KindDial, "x:1"})
	client.Close(CodeShutdown, "going to sleep")
	<-server.Done()
	var closed *PeerClosedError
	if err := server.Err(); !errors.As(err, &closed) || closed.Reason != "going to sleep" {
		t.Errorf("server: %v", err)
	}
	if err := client.Err(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("client: %v, want net.ErrClosed", err)
	}
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read on a closed session: %v", err)
	}
	if _, err := client.Control().Receive(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("control on a closed session: %v", err)
	}
}

func TestDialEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, Config{Conn: loopback(t), Peer: loopback(t).LocalAddr(), TLS: testTLS(t)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	if _, err := Accept(ctx, Config{Conn: loopback(t), TLS: testTLS(t)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

// A client whose certificate is refused learns it from Dial, not later.
func TestRefusedCertificateFailsDial(t *testing.T) {
	a, b := loopback(t), loopback(t)
	server := testTLS(t)
	server.VerifyConnection = func(tls.ConnectionState) error { return errors.New("not the pinned key") }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := Accept(ctx, Config{Conn: b, TLS: server}); done <- err }()
	s, err := Dial(ctx, Config{Conn: a, Peer: b.LocalAddr(), TLS: testTLS(t)})
	if err == nil {
		s.Close(CodeShutdown, "")
		t.Error("dial succeeded with a refused certificate")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("accept: %v, want it to have gone on waiting", err)
	}
}

func TestDatagrams(t *testing.T) {
	client, server := pair(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("no datagram came"))
	defer cancel()
	got := make(chan string, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- server.ReceiveDatagrams(ctx, KindMeasure, func(b []byte) { got <- string(b) })
	}()
	if err := client.SendDatagram(KindDial, []byte("of another kind")); err != nil {
		t.Fatal(err)
	}
	if err := client.SendDatagram(KindMeasure, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-got:
		if s != "hello" {
			t.Errorf("got %q", s)
		}
	case err := <-ended:
		t.Fatal(err)
	}

	var large *TooLargeError
	if err := client.SendDatagram(KindMeasure, make([]byte, 4000)); !errors.As(err, &large) || large.Most < 1000 || large.Most > 1452 {
		t.Fatalf("4000 bytes: %v", err)
	}
	if err := client.SendDatagram(KindMeasure, make([]byte, large.Most)); err != nil {
		t.Errorf("%d bytes, which are said to fit: %v", large.Most, err)
	}
	if s := <-got; len(s) != large.Most {
		t.Errorf("%d bytes arrived, want %d", len(s), large.Most)
	}
	client.Close(CodeShutdown, "done")
	var closed *PeerClosedError
	if err := <-ended; !errors.As(err, &closed) {
		t.Errorf("ended with %v", err)
	}
	if err := client.SendDatagram(KindMeasure, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("sent on a closed session: %v", err)
	}
}
