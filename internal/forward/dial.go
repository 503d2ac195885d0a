package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/units"
)

const (
	// dialTimeout bounds the connection to a target, all its addresses tried.
	dialTimeout = 10 * time.Second

	// attemptDelay is how long an address may take before the next one is tried
	// beside it: RFC 8305, section 5.
	attemptDelay = 250 * time.Millisecond

	// maxAttempts is how many addresses of a target are tried.
	maxAttempts = 16
)

// interleave puts addresses into the order in which they are tried: families in
// turn, beginning with that of the first one, each in the order it has (RFC 8305,
// section 4). So a family without a way out holds up no more than one attempt.
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	var families [2][]netip.AddrPort // that of the first address, and the other one
	for _, a := range addrs {
		i := 0
		if a.Addr().Is4() != addrs[0].Addr().Is4() {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	var out []netip.AddrPort
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out
}

// dialTarget connects to a target at one of its addresses, and no other.
func dialTarget(ctx context.Context, addrs []netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return race(ctx, interleave(addrs), func(ctx context.Context, a netip.AddrPort) (*net.TCPConn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", a.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	})
}

// race dials the addresses in their order, each attemptDelay after the one before
// it or as soon as that has failed, and returns the first connection; the others
// are closed. The error names what each address that was tried had to say, and
// how many were not tried. It waits for all attempts to end.
//
// net.Dialer does the same for a name alone, and dials what it looks up itself.
func race[C io.Closer](ctx context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (C, error)) (won C, err error) {
	type result struct {
		of    int // in addrs
		after time.Duration
		conn  C
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(addrs))
	var attempts sync.WaitGroup
	defer func() {
		cancel()
		attempts.Wait()
		close(results)
		for r := range results {
			if r.err == nil {
				r.conn.Close() // it came second
			}
		}
	}()
	started, ended := 0, 0
	begin := func() {
		i := started
		started++
		attempts.Go(func() {
			at := time.Now()
			conn, err := dial(ctx, addrs[i])
			results <- result{i, time.Since(at), conn, err}
		})
	}
	next := time.NewTicker(attemptDelay)
	defer next.Stop()
	limit := min(len(addrs), maxAttempts)
	errs := make([]error, limit) // of the addresses, in their order
	for {
		if started < limit && ctx.Err() == nil {
			begin()
			next.Reset(attemptDelay)
		}
		if ended == started {
			return won, noneAnswered(errs[:started], len(addrs)-started)
		}
		select {
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			ended++
			errs[r.of] = attemptError(addrs[r.of], r.after, r.err)
		case <-next.C:
		}
	}
}

// attemptError names the address, and what became of the attempt.
func attemptError(a netip.AddrPort, after time.Duration, err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("dial %s: no answer in %s", a, units.Duration(after))
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the address once more
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err // without the name of the call, which is to dial
	}
	return fmt.Errorf("dial %s: %w", a, err)
}

// noneAnswered is one error of several, in one line.
func noneAnswered(errs []error, untried int) error {
	if untried > 0 {
		errs = append(errs, fmt.Errorf("%d more addresses were not tried", untried))
	}
	if len(errs) == 0 {
		return errors.New("no address to dial")
	}
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}

// resolve looks up a HOST:PORT that this side chose itself; its port is least or
// more.
func resolve(ctx context.Context, hostPort string, least int) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, portText, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := parsePort(portText, least)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	return out, nil
}
