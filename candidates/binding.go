package candidates

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// answer is what one Binding request brought.
type answer struct {
	dst    netip.AddrPort
	src    netip.AddrPort // where the response came from
	mapped netip.AddrPort // zero when the server refused
	other  netip.AddrPort // OTHER-ADDRESS, zero when there was none
	rtt    time.Duration
	err    error
}

// Binding asks go out at 0, 50, 150, 350 and 750 ms and are waited for until
// 1550 ms: three of four may be lost, and nobody on earth is farther away.
const (
	bindingWait  = 50 * time.Millisecond
	bindingSends = 5
)

// binding sends a plain Binding request to dst.
func binding(ctx context.Context, sock *udpsock.Socket, dst netip.AddrPort) answer {
	return ask(ctx, sock, dst, stunmsg.NewRequest(stunmsg.MethodBinding), udpsock.Retry(bindingWait, bindingSends))
}

// ask sends req to dst until it is answered or the schedule ends.
func ask(ctx context.Context, sock *udpsock.Socket, dst netip.AddrPort, req *stunmsg.Builder, opts ...udpsock.Option) answer {
	a := answer{dst: dst}
	start := time.Now()
	m, src, err := sock.RoundTrip(ctx, req.Fingerprint().Bytes(), dst, opts...)
	a.src, a.rtt, a.err = src, time.Since(start), err
	if err != nil {
		return a
	}
	if code, reason, ok := m.ErrorCode(); ok {
		a.err = &refusalError{dst, code, reason}
		return a
	}
	a.mapped = mappedAddress(m, dst)
	if !a.mapped.IsValid() {
		a.err = fmt.Errorf("stun %s: answer without a usable mapped address", dst)
		return a
	}
	if other, ok := m.OtherAddress(); ok && plausibleOther(dst, other) {
		a.other = other
	}
	return a
}

// refusalError is an error response to a Binding request.
type refusalError struct {
	server netip.AddrPort
	code   int
	reason string
}

func (e *refusalError) Error() string {
	return fmt.Sprintf("stun %s: %d %q", e.server, e.code, e.reason)
}

// mappedAddress reads the source address that the server saw, from the XORed
// attribute or, from an old server, the plain one; zero if it makes no sense as
// the source of a packet to dst.
func mappedAddress(m *stunmsg.Message, dst netip.AddrPort) netip.AddrPort {
	mapped, ok := m.XORMapped()
	if !ok {
		mapped, _ = m.Mapped()
	}
	a := mapped.Addr()
	if !a.IsValid() || a.Is4() != dst.Addr().Is4() || a.IsUnspecified() || a.IsMulticast() || mapped.Port() == 0 {
		return netip.AddrPort{}
	}
	return mapped
}

// plausibleOther says whether an OTHER-ADDRESS may be sent to. A server names
// it at will, so it must not lead from a public server to a private network, nor
// from any network into this host.
func plausibleOther(server, other netip.AddrPort) bool {
	s, o := server.Addr(), other.Addr()
	switch {
	case o == s || o.Is4() != s.Is4() || other.Port() == server.Port() || other.Port() < minPort:
		return false // RFC 5780 section 6: another address and another port
	case s.IsLoopback():
		return o.IsLoopback()
	}
	return never(o) == "" && (!private(o) || private(s))
}

// sameFamily keeps the servers that sock can send to, each once.
func sameFamily(sock *udpsock.Socket, servers []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range servers {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if s.IsValid() && s.Addr().Is4() == (sock.Network() == "udp4") && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// localAddrs lists the addresses under which sock knows itself.
func localAddrs(sock *udpsock.Socket, ifaces []ifaceAddr) []netip.AddrPort {
	local := sock.LocalAddr()
	if !local.Addr().IsUnspecified() {
		return []netip.AddrPort{local}
	}
	out := []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), local.Port()),
		netip.AddrPortFrom(netip.IPv6Loopback(), local.Port()),
	}
	for _, a := range ifaces {
		out = append(out, netip.AddrPortFrom(a.Prefix.Addr(), local.Port()))
	}
	return out
}

// add files one answer to a plain Binding request.
func (o *observed) add(a answer) {
	var refusal *refusalError
	switch {
	case a.err == nil:
		o.Mappings = append(o.Mappings, mapping{a.dst, a.mapped})
	case errors.As(a.err, &refusal):
		o.Refused = true
	case errors.Is(a.err, udpsock.ErrTimeout) && !unroutable(a.err):
		o.Silent = append(o.Silent, a.dst)
	}
}

// unroutable reports that packets did not leave this host, for want of a network
// rather than because someone forbids UDP.
func unroutable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)
}
