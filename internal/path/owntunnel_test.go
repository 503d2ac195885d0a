package path

import (
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/p2pagent/p2pagent/internal/udpsock"
	"github.com/quic-go/quic-go"
)

// A tunnelEnd is a carrier whose packets go through a stream, as those of a VPN
// over TCP do, and are dropped where its queue is full.
type tunnelEnd struct {
	*simCarrier
	queue chan []byte
}

func (w *wire) tunnelEnd(addr string) *tunnelEnd {
	return &tunnelEnd{w.carrier(addr), make(chan []byte, 500)}
}

func (e *tunnelEnd) Send(b []byte, seg int, _ netip.AddrPort) error {
	for d := range udpsock.Cut(b, seg) {
		select {
		case e.queue <- slices.Clone(d):
		default:
		}
	}
	return nil
}

// pump moves packets from one end to the other through a stream, until the stream
// ends.
func pump(wg *sync.WaitGroup, from, to *tunnelEnd, out, in *quic.Stream) {
	wg.Go(func() {
		for {
			select {
			case d := <-from.queue:
				if _, err := out.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(d))), d...)); err != nil {
					return
				}
			case <-out.Context().Done():
				return
			}
		}
	})
	wg.Go(func() {
		for {
			var head [2]byte
			if _, err := io.ReadFull(in, head[:]); err != nil {
				return
			}
			d := make([]byte, binary.BigEndian.Uint16(head[:]))
			if _, err := io.ReadFull(in, d); err != nil {
				return
			}
			to.deliver(arrival{at: time.Now(), pkt: udpsock.NewPacket(d, len(d), from.addr)})
		}
	})
}

// stream opens a stream from one side to the other.
func (p quicPair) stream(t *testing.T) (near, far *quic.Stream) {
	t.Helper()
	near, err := p.client.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if far, err = p.server.AcceptStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// A VPN that runs through a forward of the link makes a direct path between the
// two, faster than the relay by what is measured. Payload moved there would carry
// itself. It stays where it is, and everything else on the link goes on.
func TestOwnTunnel(t *testing.T) {
	const (
		idle    = 0
		some    = 20 * time.Millisecond // between packets
		flatOut = -1
	)
	for _, tt := range []struct {
		name  string
		load  time.Duration
		known bool // for a tunnel, by its interface
	}{
		{"idle", idle, true},
		{"idle, not known for a tunnel", idle, false},
		{"some load", some, true},
		{"some load, not known for a tunnel", some, false},
		{"flat out", flatOut, true},
		{"flat out, not known for a tunnel", flatOut, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, func(c *Config) {
					if tt.known {
						c.Tunnel = func(dst netip.Addr) string {
							if netip.MustParsePrefix("10.99.0.0/24").Contains(dst) {
								return "zt0"
							}
							return ""
						}
					}
				})
				s.wire.set(s.directA, s.relayB, func(l *link) { l.rate, l.queue = 1<<20, 50*time.Millisecond })
				s.relay(t)
				usable(t, s.a, s.b)
				q := connect(t, s.a, s.b, s.a.PeerAddr())
				near, far := q.stream(t)
				var wg sync.WaitGroup
				vpnA, vpnB := s.wire.tunnelEnd("10.99.0.1:1"), s.wire.tunnelEnd("10.99.0.2:1")
				pump(&wg, vpnA, vpnB, near, far)
				pump(&wg, vpnB, vpnA, far, near)
				defer wg.Wait()
				defer q.client.CloseWithError(0, "")
				time.Sleep(time.Second)

				const lasts, atMost = 50 * time.Second, 3 * time.Second
				switch tt.load {
				case some:
					send(t, q.client, q.server, int(lasts/some)*1000, some)
				case flatOut:
					send(t, q.client, q.server, int(lasts/time.Second)<<20, 0)
				}
				for c, end := range map[*Conn]*tunnelEnd{s.a: vpnA, s.b: vpnB} {
					if err := c.AddCarrier(end, Direct, nil); err != nil {
						t.Fatal(err)
					}
				}
				for c, ends := range map[*Conn][2]*tunnelEnd{s.a: {vpnA, vpnB}, s.b: {vpnB, vpnA}} {
					if err := c.Try(ends[0], ends[1].addr, Direct); err != nil {
						t.Fatal(err)
					}
				}

				ask, echo := q.stream(t)
				wg.Go(func() { io.Copy(echo, echo) })
				worst := time.Duration(0)
				for start := time.Now(); time.Since(start) < lasts; time.Sleep(50 * time.Millisecond) {
					asked := time.Now()
					ask.SetDeadline(asked.Add(5 * time.Second))
					if _, err := ask.Write([]byte("ping")); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(ask, make([]byte, 4)); err != nil {
						t.Fatalf("no answer %v after the tunnel came: %v; a %+v", time.Since(start), err, s.a.Status())
					}
					worst = max(worst, time.Since(asked))
				}
				t.Logf("longest wait for an answer %v", worst)
				if worst > atMost {
					t.Errorf("an answer took %v", worst)
				}
				for _, c := range []*Conn{s.a, s.b} {
					paths := c.Status()
					if p, _ := c.Active(); p.Kind != Relayed {
						t.Errorf("payload goes over %+v", p)
					}
					if i := slices.IndexFunc(paths, func(p Status) bool { return p.Kind == Direct }); i < 0 || paths[i].Barred == "" || paths[i].Out.Payload > 0 {
						t.Errorf("paths %+v", paths)
					}
				}
			})
		})
	}
}
