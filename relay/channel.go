package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// Channel numbers of RFC 8656 section 12.
const (
	firstChannel = 0x4000
	lastChannel  = 0x4FFF
)

// channels is which peer has which channel. Reading it takes no lock.
type channels struct {
	mu    sync.Mutex // held by writers
	table atomic.Pointer[channelTable]
}

// channelTable does not change; a new one takes its place.
type channelTable struct {
	numbers map[netip.AddrPort]uint16 // asked for
	bound   map[netip.AddrPort]uint16 // and granted: for sending
	peers   map[uint16]netip.AddrPort // all that were asked for: for receiving
}

func (c *channels) init() { c.table.Store(&channelTable{}) }

func (c *channels) change(f func(*channelTable) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.table.Load()
	t := &channelTable{clone(old.numbers), clone(old.bound), clone(old.peers)}
	if err := f(t); err != nil {
		return err
	}
	c.table.Store(t)
	return nil
}

func clone[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}

var errNoChannels = errors.New("all channel numbers are taken")

// number returns the channel number for peer, the same one each time: a peer
// cannot have two, nor a number two peers, before the server has forgotten them.
func (c *channels) number(peer netip.AddrPort) (n uint16, err error) {
	err = c.change(func(t *channelTable) error {
		var known bool
		if n, known = t.numbers[peer]; known {
			return nil
		}
		if len(t.numbers) > lastChannel-firstChannel {
			return errNoChannels
		}
		n = uint16(firstChannel + len(t.numbers))
		t.numbers[peer], t.peers[n] = n, peer
		return nil
	})
	return n, err
}

// bind lets data to peer go through its channel; unbind undoes it.
func (c *channels) bind(peer netip.AddrPort) {
	_ = c.change(func(t *channelTable) error {
		t.bound[peer] = t.numbers[peer]
		return nil
	})
}

func (c *channels) unbind(peer netip.AddrPort) {
	_ = c.change(func(t *channelTable) error {
		delete(t.bound, peer)
		return nil
	})
}

// Send sends b to dst by way of the relay: cut into datagrams of seg bytes, of
// which the last may be shorter, or as one if seg is 0. Over a bound channel each
// gets four bytes in front and all leave in one batch; to other peers they go as
// Send indications. It never waits for a permission: without one the server
// drops them.
//
// An error is net.ErrClosed when the allocation is gone or closed, else a
// [udpsock.LossError].
func (a *Allocation) Send(b []byte, seg int, dst netip.AddrPort) error {
	if a.ended() {
		return errEnded
	}
	if seg <= 0 || seg > len(b) {
		seg = len(b)
	}
	if seg == 0 {
		return nil
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	w := framing{stream: a.conn.stream()}
	w.channel, w.bound = a.channels.table.Load().bound[dst]
	if !w.bound {
		w.indication = stunmsg.NewIndication(stunmsg.MethodSend).XORPeerAddress(dst).Bytes()
		if w.indication == nil {
			return &udpsock.LossError{Dst: dst, Err: errors.New("no address")}
		}
	}
	size := w.size(seg)
	if size > a.conn.limit() {
		return &udpsock.LossError{Dst: dst, Err: fmt.Errorf("datagram of %d bytes is too long for the relay", seg)}
	}
	var first error
	for len(b) > 0 {
		f := a.conn.buffer()
		for len(b) > 0 && len(f.b)+size <= cap(f.b) {
			n := min(seg, len(b))
			f.b = w.append(f.b, b[:n])
			b = b[n:]
		}
		if err := a.conn.send(f, size); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// SendTTL is Send of one datagram: a relay sends with its own time-to-live.
func (a *Allocation) SendTTL(b []byte, dst netip.AddrPort, _ int) error { return a.Send(b, 0, dst) }

// framing puts a message around each datagram: ChannelData or, without a bound
// channel, a Send indication.
type framing struct {
	stream     bool
	bound      bool
	channel    uint16
	indication []byte // all of it but DATA
}

const attributeHeader = 4

// size is how long the message with n bytes of data is.
func (w *framing) size(n int) int {
	switch {
	case !w.bound:
		return len(w.indication) + attributeHeader + padded4(n)
	case w.stream:
		return stunmsg.ChannelDataHeaderSize + padded4(n)
	}
	return stunmsg.ChannelDataHeaderSize + n
}

func (w *framing) append(dst, data []byte) []byte {
	if w.bound {
		return stunmsg.AppendChannelData(dst, w.channel, data, w.stream)
	}
	start := len(dst)
	dst = append(dst, w.indication...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(stunmsg.AttrData))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(data)))
	dst = append(dst, data...)
	dst = append(dst, 0, 0, 0)
	dst = dst[:start+w.size(len(data))]
	binary.BigEndian.PutUint16(dst[start+2:], uint16(len(dst)-start-stunmsg.HeaderSize))
	return dst
}

func padded4(n int) int { return (n + 3) &^ 3 }
