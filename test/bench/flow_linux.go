package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A flow is one client with its allocation and its peer, and packets from one to
// the other.
type flow struct {
	client, peer *net.UDPConn // connected to the server, and to the relayed address
	from         packetWriter
	to           packetReader
	toConn       *net.UDPConn

	// Sent is the sender's, the others are the receiver's.
	sent    atomic.Uint64
	arrived atomic.Uint64
	through atomic.Uint64 // the number after the highest that arrived
	news    chan struct{} // something has arrived
}

// An opener gives a socket in the network of the clients or in that of the peers,
// connected to an address.
type opener func(peers bool, to netip.AddrPort) (*net.UDPConn, error)

func newFlow(number int, load turnLoad, server netip.AddrPort, secret string, open opener) (*flow, error) {
	f := &flow{news: make(chan struct{}, 1)}
	if err := f.connect(fmt.Sprintf("flow-%d", number), load, server, secret, open); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// connect allocates, and binds a channel to the peer.
func (f *flow) connect(user string, load turnLoad, server netip.AddrPort, secret string, open opener) (err error) {
	if f.client, err = open(false, server); err != nil {
		return err
	}
	turn, err := allocateTURN(f.client, secret, user)
	if err != nil {
		return err
	}
	if f.peer, err = open(true, turn.relayed); err != nil {
		return err
	}
	const channel = 0x4000
	if err := turn.bind(channel, f.peer.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		return err
	}
	if load.toClient {
		f.from, f.toConn = newPacketWriter(f.peer, load.gso, nil), f.client
		f.to, err = newPacketReader(f.client, load.gso, stunmsg.ChannelDataHeaderSize)
		return err
	}
	head := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, channel), loadPayload)
	f.from, f.toConn = newPacketWriter(f.client, load.gso, head), f.peer
	f.to, err = newPacketReader(f.peer, load.gso, 0)
	return err
}

func (f *flow) close() {
	for _, c := range []*net.UDPConn{f.client, f.peer} {
		if c != nil {
			c.Close()
		}
	}
}

// receive counts until stopReceiving.
func (f *flow) receive() error {
	for {
		err := f.to.read(func(number uint64) {
			f.arrived.Add(1)
			f.through.Store(max(f.through.Load(), number+1))
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read packets from %v: %w", f.toConn.RemoteAddr(), err)
		}
		select {
		case f.news <- struct{}{}:
		default:
		}
	}
}

func (f *flow) stopReceiving() { f.toConn.SetReadDeadline(time.Now()) }

func (f *flow) write(packets int) error {
	if err := f.from.write(f.sent.Load(), packets); err != nil {
		return fmt.Errorf("send packets: %w", err)
	}
	f.sent.Add(uint64(packets))
	return nil
}

// sendPaced sends full bursts at an even rate until ctx ends. late is when the first
// one is due, so that the flows take turns.
func (f *flow) sendPaced(ctx context.Context, packetsPerSecond float64, late time.Duration) error {
	every := time.Duration(float64(f.from.burst()) / packetsPerSecond * float64(time.Second))
	timer := time.NewTimer(late)
	defer timer.Stop()
	for due := time.Now().Add(late); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		for ; !due.After(time.Now()); due = due.Add(every) {
			if err := f.write(f.from.burst()); err != nil {
				return err
			}
		}
		timer.Reset(time.Until(due))
	}
}

// sendFlatOut sends what the server takes until ctx ends.
func (f *flow) sendFlatOut(ctx context.Context) error {
	const most = 8 * gsoBurst           // packets on the way
	const stall = 50 * time.Millisecond // without any news, what is on the way is lost
	w := newWindow(most)
	timer := time.NewTimer(stall)
	defer timer.Stop()
	for {
		// A burst is worth waiting for, as long as the window has two of them.
		for n := w.room(); n >= min(f.from.burst(), max(int(w.size)/2, 1)); n = w.room() {
			n = min(n, f.from.burst())
			if err := f.write(n); err != nil {
				return err
			}
			w.took(n)
			if ctx.Err() != nil {
				return nil
			}
		}
		timer.Reset(stall)
		select {
		case <-ctx.Done():
			return nil
		case <-f.news:
			arrived, through := f.arrived.Load(), f.through.Load()
			w.heard(through, through-min(arrived, through))
		case <-timer.C:
			w.stalled()
		}
	}
}
