package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"golang.org/x/sync/errgroup"
)

// The addresses that a bind may mean, IPv4 first.
var (
	loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	everyone  = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
)

// bindPorts is how many ports are tried for a bind to port 0 until one is free
// at every address.
const bindPorts = 8

// errBindName is a bind to a name other than localhost.
var errBindName = errors.New("give an address, not a name")

// bindAddrs are the addresses that a bind HOST:PORT asks for: both loopbacks for
// localhost, every address of both families for an empty host, else the one
// that is written there, 0.0.0.0 for IPv4 alone.
func bindAddrs(bind string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, fmt.Errorf("address to listen on %q is not HOST:PORT", bind)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address to listen on %q has no valid port", bind)
	}
	var hosts []netip.Addr
	switch {
	case host == "":
		hosts = everyone
	case strings.EqualFold(host, "localhost"):
		hosts = loopbacks
	default:
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("address to listen on %q: %w", bind, errBindName)
		}
		hosts = []netip.Addr{a.Unmap()}
	}
	var out []netip.AddrPort
	for _, h := range hosts {
		out = append(out, netip.AddrPortFrom(h, uint16(port)))
	}
	return out, nil
}

// Listeners are the sockets of one -L or -R, all with the same port.
type Listeners []net.Listener

// Listen opens the port of a -L; see [Spec] for what bind may be.
func Listen(ctx context.Context, bind string) (Listeners, error) {
	addrs, err := bindAddrs(bind)
	if errors.Is(err, errBindName) {
		addrs, err = resolve(ctx, bind, 0)
	}
	if err != nil {
		return nil, err
	}
	return ListenOn(ctx, addrs)
}

// ListenOn opens a port at each of the addresses, which have the same port
// number; for port 0, one that is free at all of them. An address of a family
// that this machine does not have is left out while there is another one. Any
// other error is an error of the whole: a client of localhost would reach the
// program that has the port at the other loopback, and take it for the target.
// The error says what to do about it.
func ListenOn(ctx context.Context, addrs []netip.AddrPort) (Listeners, error) {
	for try := 1; ; try++ {
		ls, err := listenOnce(ctx, addrs)
		random := addrs[0].Port() == 0
		if err == nil || !random || try == bindPorts || !cli.InUse(err) {
			return ls, err
		}
	}
}

func listenOnce(ctx context.Context, addrs []netip.AddrPort) (Listeners, error) {
	var ls Listeners
	var absent error
	port := addrs[0].Port()
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr(), cmp.Or(a.Port(), port))
		network := "tcp4" // "tcp" means both families for an unspecified address of either
		if a.Addr().Is6() {
			network = "tcp6"
		}
		var lc net.ListenConfig
		lc.SetMultipathTCP(false) // its connections end in other ways, see ends.go
		ln, err := lc.Listen(ctx, network, a.String())
		switch {
		case err == nil:
			ls = append(ls, ln)
			port = ls.Addr().Port()
		case len(addrs) > 1 && cli.NoAddress(err):
			absent = cmp.Or(absent, error(&bindError{a, others(addrs, a), err}))
		default:
			ls.Close()
			return nil, &bindError{a, others(addrs, a), err}
		}
	}
	if len(ls) == 0 {
		return nil, absent
	}
	return ls, nil
}

func others(addrs []netip.AddrPort, a netip.AddrPort) (out []netip.Addr) {
	for _, o := range addrs {
		if o.Addr() != a.Addr() {
			out = append(out, o.Addr())
		}
	}
	return out
}

// A bindError is an address that could not be listened on.
type bindError struct {
	addr   netip.AddrPort
	others []netip.Addr // that were asked for along with it
	err    error
}

func (e *bindError) Unwrap() error { return e.err }

// Error names the address, the cause and the way out.
func (e *bindError) Error() string {
	cause := e.err
	var op *net.OpError
	if errors.As(cause, &op) {
		cause = op.Err // without the address once more
	}
	text := fmt.Sprintf("listen on %s: %v", e.addr, cause)
	if advice := cli.ListenAdvice(e.err, int(e.addr.Port())); advice != "" {
		text += "; " + advice
	}
	if cli.InUse(e.err) && len(e.others) > 0 {
		text += ", or name the one address that is meant, for example " + netip.AddrPortFrom(e.others[0], e.addr.Port()).String()
	}
	return text
}

// Addr is the first address; all have its port.
func (ls Listeners) Addr() netip.AddrPort { return addrOf(ls[0]) }

func addrOf(ln net.Listener) netip.AddrPort {
	a := ln.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// String lists the addresses.
func (ls Listeners) String() string {
	var texts []string
	for _, ln := range ls {
		texts = append(texts, ln.Addr().String())
	}
	return strings.Join(texts, " and ")
}

// Clash reports whether one of the addresses cannot be listened on while these
// are open.
func (ls Listeners) Clash(addrs []netip.AddrPort) bool {
	for _, ln := range ls {
		mine := addrOf(ln)
		for _, a := range addrs {
			same := mine.Addr() == a.Addr() || mine.Addr().Is4() == a.Addr().Is4() && (mine.Addr().IsUnspecified() || a.Addr().IsUnspecified())
			if same && mine.Port() == a.Port() {
				return true
			}
		}
	}
	return false
}

// Close closes all, which ends [Listeners.Serve].
func (ls Listeners) Close() {
	for _, ln := range ls {
		ln.Close()
	}
}

// Serve is [Serve] for all of them. It returns when each has ended, with the
// error of the first.
func (ls Listeners) Serve(ctx context.Context, h session.Header, open Opener, share *Share, rec *trace.Recorder) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, ln := range ls {
		g.Go(func() error { return Serve(ctx, ln, h, open, share, rec) })
	}
	return g.Wait()
}
