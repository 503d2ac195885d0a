package path

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// BenchmarkQUIC compares one stream over a Conn and real sockets with one over
// plain quic-go. Run it several times with -benchtime 1500x (-count would not
// alternate the two) and compare within each run.
func BenchmarkQUIC(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		server, client := udpPair(b)
		benchmarkStream(b, connect(b, client, server, server.LocalAddr()))
	})
	b.Run("path", func(b *testing.B) {
		x, y, _, _ := loopback(b, false)
		benchmarkStream(b, connect(b, x, y, x.PeerAddr()))
		b.ReportMetric(float64(y.Losses().Queue), "queue-drops")
	})
}

func udpPair(b *testing.B) (x, y *net.UDPConn) {
	b.Helper()
	var pair [2]*net.UDPConn
	for i := range pair {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		pair[i] = c
	}
	return pair[0], pair[1]
}

// benchmarkStream moves b.N mebibytes.
func benchmarkStream(b *testing.B, q quicPair) {
	const chunk = 1 << 20
	b.SetBytes(chunk)
	done := make(chan error, 1)
	move := func(n int64) {
		go func() {
			s, err := q.server.AcceptUniStream(context.Background())
			if err == nil {
				_, err = io.Copy(io.Discard, s)
			}
			done <- err
		}()
		s, err := q.client.OpenUniStream()
		if err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, chunk)
		for range n {
			if _, err := s.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	move(64) // congestion window and packet size grow first
	b.ResetTimer()
	move(int64(b.N))
}

// BenchmarkWrite is one batch of 14 datagrams from QUIC to the carrier.
func BenchmarkWrite(b *testing.B) {
	c, k := benchConn(b)
	batch := make([]byte, 14*1440)
	b.ReportAllocs()
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		c.write(batch, 1440)
	}
	if k.sends == 0 {
		b.Fatal("nothing was sent")
	}
}

// BenchmarkRead is one read of 14 datagrams from the carrier to QUIC.
func BenchmarkRead(b *testing.B) {
	c, k := benchConn(b)
	batch := make([]byte, 14*1440)
	for i := 0; i < len(batch); i += 1440 {
		batch[i] = 0x40
	}
	buf := make([]byte, 1452)
	b.ReportAllocs()
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		k.h.HandleData(udpsock.NewPacket(batch, 1440, k.remote))
		for range 14 {
			if _, _, err := c.ReadFrom(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func TestDataPathDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops pooled buffers at random")
	}
	c, k := benchConn(t)
	batch := make([]byte, 14*1440)
	for i := 0; i < len(batch); i += 1440 {
		batch[i] = 0x40
	}
	buf := make([]byte, 1452)
	if n := testing.AllocsPerRun(1000, func() { c.write(batch, 1440) }); n >= 1 {
		t.Errorf("%v allocations per batch written", n)
	}
	c.route.Load().primary.size.Store(1400)
	if n := testing.AllocsPerRun(1000, func() { c.write(batch, 1440) }); n >= 1 {
		t.Errorf("%v allocations per batch written in fragments", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		k.h.HandleData(udpsock.NewPacket(batch, 1440, k.remote))
		for range 14 {
			c.ReadFrom(buf)
		}
	}); n >= 1 {
		t.Errorf("%v allocations per batch read", n)
	}
}

// A sink is a carrier that swallows what is sent.
type sink struct {
	h      udpsock.Handler
	ready  chan struct{}
	remote netip.AddrPort
	sends  int
}

func (s *sink) Serve(ctx context.Context, h udpsock.Handler) error {
	s.h = h
	close(s.ready)
	<-ctx.Done()
	return ctx.Err()
}
func (s *sink) Send([]byte, int, netip.AddrPort) error { s.sends++; return nil }
func (s *sink) LocalAddr() netip.AddrPort              { return netip.MustParseAddrPort("192.0.2.1:1") }
func (s *sink) Network() string                        { return "sink" }
func (s *sink) Close() error                           { return nil }

// benchConn returns a Conn with a path over a sink that counts as proved.
func benchConn(b testing.TB) (*Conn, *sink) {
	b.Helper()
	c, err := New(Config{Key: make([]byte, 32), ID: "bench", Initiator: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	k := &sink{remote: netip.MustParseAddrPort("192.0.2.2:2"), ready: make(chan struct{})}
	if err := c.AddCarrier(k, Direct, nil); err != nil {
		b.Fatal(err)
	}
	<-k.ready
	p := &path{id: 1, carrier: c.carriers[k], remote: k.remote}
	p.size.Store(1452)
	p.trustedUntil.Store(int64(time.Hour))
	p.consentUntil.Store(int64(time.Hour))
	p.carrier.admit(p)
	c.route.Store(&route{primary: p})
	return c, k
}
