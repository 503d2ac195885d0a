package relay

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// streamTURN accepts one TCP connection, answers requests as a scriptedTURN would
// until an allocation is made, and gives the connection to f.
func streamTURN(t *testing.T, write func(net.Conn, []byte) error, f func(net.Conn)) ClientConfig {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scriptedTURN{t: t, nonce: "first", requests: make(map[stunmsg.Method]int)}
	var wait sync.WaitGroup
	var conn net.Conn
	accepted := make(chan struct{})
	wait.Go(func() {
		defer close(accepted)
		if conn, err = l.Accept(); err != nil {
			return
		}
		wait.Go(func() {
			r := stunmsg.NewFramer(conn)
			for s.count(stunmsg.MethodAllocate) == 0 {
				b, err := r.Next()
				if err != nil {
					return
				}
				m, err := stunmsg.Decode(b)
				if err != nil {
					t.Error(err)
					return
				}
				if err := write(conn, s.answer(m, netip.AddrPortFrom(loopback, 9))); err != nil {
					return
				}
			}
			f(conn)
		})
	})
	t.Cleanup(func() {
		l.Close()
		<-accepted
		if conn != nil {
			conn.Close()
		}
		wait.Wait()
	})
	times := impatient
	times.retry = time.Minute // TCP loses nothing, and a second request may meet a closed connection
	times.farewell = 100 * time.Millisecond
	return ClientConfig{
		Server: l.Addr().(*net.TCPAddr).AddrPort(), Transport: "tcp",
		Username: testUser, Password: testPassword, times: times,
	}
}

// atOnce and drip are two ways to write.
func atOnce(c net.Conn, b []byte) error { _, err := c.Write(b); return err }

func drip(c net.Conn, b []byte) error {
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// TestStreamDrip has a server write byte by byte.
func TestStreamDrip(t *testing.T) {
	frame := stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peerA).Data([]byte("\x40slowly")).Bytes()
	c := streamTURN(t, drip, func(conn net.Conn) {
		for drip(conn, frame) == nil {
			continue // what comes before Serve goes nowhere
		}
	})
	_, in := allocateAnd(t, c)
	for range 3 {
		if p := in.packet(t); string(p.Data) != "\x40slowly" || p.Src != peerA {
			t.Fatalf("got %q from %v", p.Data, p.Src)
		}
	}
}

// TestStreamFlood has a server write junk in correct frames as fast as it can,
// which must neither block nor grow anything, nor keep Close waiting.
func TestStreamFlood(t *testing.T) {
	junk := stunmsg.AppendChannelData(nil, 0x4FFF, make([]byte, 1400), true)
	data := stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peerA).Data([]byte("\x40found")).Bytes()
	c := streamTURN(t, atOnce, func(conn net.Conn) {
		for i := 0; ; i++ {
			b := junk
			if i%100 == 99 {
				b = data
			}
			if atOnce(conn, b) != nil {
				return
			}
		}
	})
	a, in := allocateAnd(t, c)
	for range 10 {
		if p := in.packet(t); string(p.Data) != "\x40found" {
			t.Fatalf("got %q", p.Data)
		}
	}
	a.Close()
}

// TestStreamEnds looks at how the end of a connection is told.
func TestStreamEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func(net.Conn)
		want string
		is   error
	}{
		{"closed", func(c net.Conn) { c.Close() }, "EOF", io.EOF},
		{"cut in a frame", func(c net.Conn) { _ = atOnce(c, []byte{0x40, 0, 0, 9, 1}); c.Close() }, "unexpected EOF", io.ErrUnexpectedEOF},
		{"another protocol", func(c net.Conn) { _ = atOnce(c, []byte{0x16, 3, 1, 0, 9}) }, "framing", stunmsg.ErrFraming},
		{"cut in a frame too long", func(c net.Conn) { _ = atOnce(c, []byte{0x40, 0, 0xFF, 0xFC, 0, 0, 0, 0, 0}); c.Close() }, "unexpected EOF", io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, _ := allocateAnd(t, streamTURN(t, atOnce, tt.f))
			select {
			case <-a.Done():
			case <-time.After(patience):
				t.Fatal("the client does not notice")
			}
			if err := a.Err(); !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "over tcp") {
				t.Fatalf("error %v, want %v", err, tt.is)
			}
		})
	}
}

// TestStreamLongFrames has a server pass on what a peer sent, however long: that
// is no reason to lose the relay.
func TestStreamLongFrames(t *testing.T) {
	data := stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peerA).Data([]byte("\x40found")).Bytes()
	var all []byte
	for _, n := range []int{1577, 2000, 0xFFFC, 0xFFFF} {
		all = stunmsg.AppendChannelData(all, 0x4000, make([]byte, n), true)
		all = append(all, stunmsg.NewIndication(stunmsg.MethodData).XORPeerAddress(peerA).Data(make([]byte, 1600)).Bytes()...)
	}
	all = append(all, data...)
	_, in := allocateAnd(t, streamTURN(t, atOnce, func(c net.Conn) {
		for atOnce(c, all) == nil {
			continue // what comes before Serve goes nowhere
		}
	}))
	for range 3 {
		if p := in.packet(t); string(p.Data) != "\x40found" {
			t.Fatalf("got %q", p.Data)
		}
	}
}

// TestStreamStalls has a server that stops reading: sends are dropped and say so,
// nothing blocks, and after a while the connection is given up.
func TestStreamStalls(t *testing.T) {
	stalled := make(chan struct{})
	c := streamTURN(t, atOnce, func(net.Conn) { <-stalled })
	defer close(stalled)
	c.times.writeWait = 300 * time.Millisecond
	a, _ := allocateAnd(t, c)
	batch := make([]byte, 20*1200)
	lost := 0
	for deadline := time.Now().Add(patience); ; {
		err := a.Send(batch, 1200, peerA)
		if errors.Is(err, net.ErrClosed) {
			break
		}
		var loss *udpsock.LossError
		if errors.As(err, &loss) {
			lost++
			time.Sleep(time.Millisecond) // as a sender that is told of losses slows down
		}
		if q := a.conn.(*streamConn).queued.Load(); q > maxQueuedBytes+int64(len(batch)) {
			t.Fatalf("%d bytes wait to be written", q)
		}
		if time.Now().After(deadline) {
			t.Fatal("the client does not give up")
		}
	}
	if lost == 0 {
		t.Error("no send was reported lost")
	}
	<-a.Done()
	if err := a.Err(); !strings.Contains(err.Error(), "write") {
		t.Errorf("error %v", err)
	}
}

// TestStreamTooLong refuses what the server would not take.
func TestStreamTooLong(t *testing.T) {
	c := streamTURN(t, atOnce, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	a, _ := allocateAnd(t, c)
	var loss *udpsock.LossError
	if err := a.Send(make([]byte, 1600), 0, peerA); !errors.As(err, &loss) || !strings.Contains(err.Error(), "too long") {
		t.Errorf("error %v", err)
	}
	if err := a.Send(make([]byte, 1452), 0, peerA); err != nil {
		t.Errorf("a full QUIC packet: %v", err)
	}
}

// TestTLSUntrusted has a server with a certificate that nobody vouches for.
func TestTLSUntrusted(t *testing.T) {
	c := startPion(t, 0).config("tls")
	c.RootCAs = nil
	if _, err := Allocate(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("error %v", err)
	}
	c = startPion(t, 0).config("tls")
	c.ServerName = "turn.example.org"
	if _, err := Allocate(t.Context(), c); err == nil || !strings.Contains(err.Error(), "turn.example.org") {
		t.Fatalf("error %v", err)
	}
}
