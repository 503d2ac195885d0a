package lab

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// startResponder runs an RFC 5780 responder in the signal node until the test ends:
// two addresses, two ports, and the answer from where CHANGE-REQUEST asks for it.
func startResponder(t *testing.T, l *Lab) {
	t.Helper()
	stop, err := runResponder(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func runResponder(ctx context.Context, l *Lab) (stop func(), err error) {
	var socks [2][2]*net.UDPConn
	var wait sync.WaitGroup
	for a, prefix := range signalLink().far {
		for p, port := range []uint16{3478, 3479} {
			socks[a][p], err = l.Node(Signal).ListenUDP(ctx, netip.AddrPortFrom(prefix.Addr(), port).String())
			if err != nil {
				return nil, err
			}
		}
	}
	for a := range socks {
		for p := range socks[a] {
			wait.Go(func() { respond(socks, a, p) })
		}
	}
	return func() {
		for _, row := range socks {
			for _, c := range row {
				c.Close()
			}
		}
		wait.Wait()
	}, nil
}

func respond(socks [2][2]*net.UDPConn, a, p int) {
	b := make([]byte, 1500)
	for {
		n, src, err := socks[a][p].ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		m, err := stunmsg.Decode(b[:n])
		if err != nil {
			continue
		}
		toA, toP := a, p
		if address, port, ok := m.ChangeRequest(); ok {
			if address {
				toA = 1 - a
			}
			if port {
				toP = 1 - p
			}
		}
		from := socks[toA][toP]
		res := stunmsg.Success(m.Header).XORMappedAddress(src).
			ResponseOrigin(local(from)).OtherAddress(local(socks[1-a][1-p])).Fingerprint()
		from.WriteToUDPAddrPort(res.Bytes(), src)
	}
}

func local(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }
