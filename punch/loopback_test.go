package punch

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

var _ Sender = (*udpsock.Socket)(nil)

// endpoint is a real socket with a mux on it.
type endpoint struct {
	sock *udpsock.Socket
	mux  *Mux
}

func (e *endpoint) HandleData(p *udpsock.Packet)            { p.Release() }
func (e *endpoint) HandleSTUN(b []byte, src netip.AddrPort) { e.mux.HandleSTUN(b, src) }
func (e *endpoint) candidate() candidates.Candidate {
	return candidates.Candidate{Type: candidates.Host, Addr: e.sock.LocalAddr()}
}

func newEndpoint(t *testing.T, network, addr string) *endpoint {
	sock, err := udpsock.Listen(udpsock.Config{Network: network, Addr: netip.MustParseAddrPort(addr)})
	if err != nil {
		t.Skipf("no socket on %s: %v", addr, err)
	}
	e := &endpoint{sock: sock}
	e.mux = NewMux(sock, nil)
	served := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(served); sock.Serve(ctx, e) }()
	t.Cleanup(func() {
		e.mux.Close()
		cancel()
		sock.Close()
		<-served
	})
	return e
}

// Real sockets, many attempts one after another on the same two.
func TestLoopback(t *testing.T) {
	for _, tt := range []struct{ network, addr string }{{"udp4", "127.0.0.1:0"}, {"udp6", "[::1]:0"}} {
		t.Run(tt.network, func(t *testing.T) {
			a, b := newEndpoint(t, tt.network, tt.addr), newEndpoint(t, tt.network, tt.addr)
			var took []time.Duration
			for range 20 {
				took = append(took, meet(t, a, b))
			}
			slices.Sort(took)
			t.Logf("median %s, slowest %s", took[len(took)/2], took[len(took)-1])
		})
	}
}

// meet makes one attempt between two endpoints and returns how long it took.
func meet(t *testing.T, a, b *endpoint) time.Duration {
	ca, cb := NewCredentials(), NewCredentials()
	opened, selected := [2]chan struct{}{make(chan struct{}), make(chan struct{})}, [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	tell := func(c chan struct{}) func(context.Context) error {
		return func(context.Context) error { close(c); return nil }
	}
	config := func(i int, e, peer *endpoint, local, remote Credentials) Config {
		return Config{ID: "loopback", Controlling: i == 0, Muxes: []*Mux{e.mux}, Local: local, Remote: remote,
			Candidates: []candidates.Candidate{peer.candidate()}, Timeout: 20 * time.Second, Linger: 20 * time.Second,
			Opened: tell(opened[i]), PeerOpened: opened[1-i], Selected: tell(selected[i]), PeerSelected: selected[1-i]}
	}
	configs := [2]Config{config(0, a, b, ca, cb), config(1, b, a, cb, ca)}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range configs {
		wg.Go(func() {
			res, err := Run(t.Context(), configs[i])
			if err != nil || !res.PeerSelected || res.Remote != configs[i].Candidates[0].Addr || res.RTT == 0 {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}
