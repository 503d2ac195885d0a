package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// Allocation is a relayed transport address on a TURN server, and the way to send
// from it. All methods may be called concurrently, but not by the handler given
// to Serve, except for Send and the ones that return what is known.
type Allocation struct {
	// Constant after Allocate.
	cfg             ClientConfig
	conn            clientConn
	tx              *transactions
	relayed, mapped netip.AddrPort
	life            time.Duration // as granted

	auth     credentials
	channels channels
	duties   duties
	reading  sync.WaitGroup

	deliver sync.Mutex // held while in serves the handler
	in      unpacker   // guarded by deliver

	done    chan struct{}
	endOnce sync.Once
	err     error // written before done is closed

	closeOnce sync.Once
	closeErr  error
}

func newAllocation(c ClientConfig, conn clientConn) (*Allocation, error) {
	tx, err := newTransactions(conn, c.Server, c.times.retry)
	if err != nil {
		return nil, err
	}
	a := &Allocation{cfg: c, conn: conn, tx: tx, done: make(chan struct{})}
	a.auth.username, a.auth.password = c.Username, c.Password
	a.channels.init()
	a.duties.wake = make(chan struct{}, 1)
	a.in.response = tx.answered
	a.reading.Go(func() {
		if err := conn.serve(a.read); !errors.Is(err, net.ErrClosed) {
			a.end(fmt.Errorf("connection to %s: %w", c.name(), err))
		}
	})
	return a, nil
}

// read takes what came from the server.
func (a *Allocation) read(p *udpsock.Packet) {
	a.deliver.Lock()
	defer a.deliver.Unlock()
	a.in.peers = a.channels.table.Load().peers
	a.in.unpack(p)
}

// setHandler is false when there is one already.
func (a *Allocation) setHandler(h udpsock.Handler) bool {
	a.deliver.Lock()
	defer a.deliver.Unlock()
	if h != nil && a.in.h != nil {
		return false
	}
	a.in.h = h
	return true
}

var errServing = errors.New("relay: Serve is running already")

// Serve gives h what peers send, as a [udpsock.Socket] would: data in batches,
// STUN checked and one by one, both with the peer's address as source. Meanwhile
// it keeps the allocation, its permissions and its channels alive. It returns the
// cause of ctx when that ends, which leaves the allocation as it is, or what
// [Allocation.Err] says. No call of h is under way when it returns.
func (a *Allocation) Serve(ctx context.Context, h udpsock.Handler) error {
	if !a.setHandler(h) {
		return errServing
	}
	defer a.setHandler(nil)
	return a.keepUp(ctx)
}

// LocalAddr is the relayed transport address.
func (a *Allocation) LocalAddr() netip.AddrPort { return a.relayed }

// Mapped is our server-reflexive address, as the TURN server saw it.
func (a *Allocation) Mapped() netip.AddrPort { return a.mapped }

// Server is the server's address.
func (a *Allocation) Server() netip.AddrPort { return a.cfg.Server }

// Transport is "udp", "tcp" or "tls": how the server is reached.
func (a *Allocation) Transport() string { return a.cfg.Transport }

// Network is "relay".
func (a *Allocation) Network() string { return "relay" }

// Offload tells whether the kernel cuts what is sent to the server into
// datagrams, and whether it coalesces what comes from there. Over a stream there
// are none.
func (a *Allocation) Offload() (gso, gro bool) {
	if s := a.conn.udp(); s != nil {
		return s.Offload()
	}
	return false, false
}

// Counters are those of the socket to the server, zero over a stream.
func (a *Allocation) Counters() udpsock.Counters {
	if s := a.conn.udp(); s != nil {
		return s.Counters()
	}
	return udpsock.Counters{}
}

// Done is closed when the allocation has ended, by Close or otherwise.
func (a *Allocation) Done() <-chan struct{} { return a.done }

// Err says why the allocation has ended: net.ErrClosed after Close, else what the
// server or the connection did. It is nil before.
func (a *Allocation) Err() error {
	if !a.ended() {
		return nil
	}
	return a.err
}

func (a *Allocation) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// end makes the allocation unusable; the first reason given is the reason.
func (a *Allocation) end(why error) {
	a.endOnce.Do(func() {
		a.err = why
		close(a.done)
	})
}

// errEnded is what Send says afterwards.
var errEnded error = endedError{}

// endedError is net.ErrClosed in words for people.
type endedError struct{}

func (endedError) Error() string        { return "relay: allocation has ended" }
func (endedError) Is(target error) bool { return target == net.ErrClosed }

// Close gives the allocation back to the server (a Refresh with lifetime 0), for
// which it waits at most a second, and closes the connection. Everything under
// way returns. Serve returns too, and is not waited for: whoever runs it does.
func (a *Allocation) Close() error {
	a.closeOnce.Do(func() {
		alive := !a.ended()
		a.end(net.ErrClosed) // first, so that a lost farewell looks like no failure
		if alive {
			ctx, cancel := context.WithTimeout(context.Background(), a.cfg.times.farewell)
			defer cancel()
			// Unanswered, the server forgets it when its lifetime is over.
			_, _ = a.tryRequest(ctx, "refresh", stunmsg.MethodRefresh, func(b *stunmsg.Builder) { b.Lifetime(0) })
		}
		a.closeErr = a.shut()
	})
	return a.closeErr
}

// abandon closes what did not become an allocation here, and perhaps became one
// on the server, whose answer was late: it is told without waiting.
func (a *Allocation) abandon() {
	b := stunmsg.NewRequest(stunmsg.MethodRefresh).Lifetime(0)
	if key := a.auth.sign(b); key != nil {
		f := a.conn.buffer()
		f.b = append(f.b, b.Bytes()...)
		_ = a.conn.send(f, 0)
	}
	a.end(net.ErrClosed)
	_ = a.shut()
}

// shut ends what runs below: transactions first, whose requests need the
// connection; then the connection, which ends the reader.
func (a *Allocation) shut() error {
	a.tx.close()
	err := a.conn.close()
	a.reading.Wait()
	return err
}
