package punch

import (
	"context"
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// OpenerTTL is the TTL with which a first packet passes our own NATs and dies
// right behind them: their number and one. nats is how many there are in a row
// when that was measured, 0 when not; one is assumed then. Where nothing is
// translated there is nothing to open, and the packet would get too far: 0,
// no opener. The same holds when it is not known whether there is a NAT, since
// then no STUN server answered.
func OpenerTTL(nat candidates.NAT, nats int) int {
	if nat.Translated == nil || !*nat.Translated {
		return 0
	}
	return max(nats, 1) + 1
}

// Fallback is how long to wait for the peer's "opened" when a round trip
// through signaling takes rtt; 0 is not measured. It leaves most of an attempt to
// the checks, however slow signaling is.
func Fallback(rtt time.Duration) time.Duration {
	return min(max(defaultFallback, rtt+rtt/2), maxFallback)
}

// An opener is a Binding indication: should it arrive after all, nobody
// answers it.
func openerPacket() []byte {
	return stunmsg.NewIndication(stunmsg.MethodBinding).Fingerprint().Bytes()
}

// sendOpeners sends one opener to dst from each IPv4 socket, and returns how
// many left. IPv6 has none: its firewalls translate no port, so that nothing
// can go wrong for the first packet.
func (r *run) sendOpeners(ctx context.Context, dst netip.AddrPort) int {
	if r.cfg.OpenerTTL == 0 || !dst.Addr().Is4() {
		return 0
	}
	sent := 0
	for _, m := range r.cfg.Muxes {
		if m.sender.Network() != "udp4" {
			continue
		}
		if !r.awaitToken(ctx) {
			return sent
		}
		if err := m.sender.SendTTL(openerPacket(), dst, r.cfg.OpenerTTL); err != nil {
			r.attempt.failed(dst, err)
			continue
		}
		sent++
	}
	return sent
}

// awaitToken waits until the attempt may send an opener. Unlike a check, an
// opener is not repeated.
func (r *run) awaitToken(ctx context.Context) bool {
	for !r.attempt.mayOpen(time.Now()) {
		select {
		case <-time.After(time.Second / sendRate):
		case <-ctx.Done():
			return false
		}
	}
	return true
}
