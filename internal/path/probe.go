package path

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// attrProbe is our attribute, in the range that a reader who does not know it
// skips. Its layout is in the package comment.
const attrProbe stunmsg.AttrType = 0xC0FE

// Flags in attrProbe.
const (
	flagRelay  = 1 << iota // the sender's end is a relay allocation
	flagNeeded             // the sender would rather not do without the path; in requests
	flagTunnel             // what the sender sends over the path leaves through a tunnel
	flagStream             // the sender reaches its relay over TCP or TLS
)

// A prober builds and checks the messages of one side.
type prober struct {
	key   []byte
	own   string // USERNAME of what we send
	peer  string // and of what the peer sends
	epoch uint64 // random, ours
}

func newProber(key []byte, id string, initiator bool, epoch uint64) prober {
	p := prober{key: key, own: id + "#i", peer: id + "#r", epoch: epoch}
	if !initiator {
		p.own, p.peer = p.peer, p.own
	}
	return p
}

// request builds a probe of at least size bytes. The epoch is the prober's.
func (p *prober) request(mark probeMark, size int) ([]byte, stunmsg.TransactionID, error) {
	v := binary.BigEndian.AppendUint64(mark.flags(), p.epoch)
	v = binary.BigEndian.AppendUint64(v, mark.seq)
	b := stunmsg.NewRequest(stunmsg.MethodBinding).Username(p.own).Attr(attrProbe, v)
	if size > 0 {
		b.PadTo(size)
	}
	raw := b.Sign(p.key).Bytes()
	return raw, b.TransactionID(), b.Err()
}

// answer builds the answer to a request that came from src.
func (p *prober) answer(to stunmsg.Header, mark probeMark, src netip.AddrPort) ([]byte, error) {
	mark.needed = false
	b := stunmsg.Success(to).Username(p.own).XORMappedAddress(src).Attr(attrProbe, mark.flags())
	raw := b.Sign(p.key).Bytes()
	return raw, b.Err()
}

// A probeMark is what attrProbe says.
type probeMark struct {
	relay      bool
	stream     bool
	tunnel     bool
	needed     bool // requests only, as are the following
	epoch, seq uint64
}

func (m probeMark) flags() []byte {
	v := make([]byte, 4, 20)
	if m.relay {
		v[0] |= flagRelay
	}
	if m.needed {
		v[0] |= flagNeeded
	}
	if m.stream {
		v[0] |= flagStream
	}
	if m.tunnel {
		v[0] |= flagTunnel
	}
	return v
}

// verify checks that the peer made m, and returns its mark.
func (p *prober) verify(m *stunmsg.Message) (probeMark, error) {
	if m.Username() != p.peer {
		return probeMark{}, fmt.Errorf("username %q", m.Username())
	}
	if err := m.Verify(p.key); err != nil {
		return probeMark{}, err
	}
	v, _ := m.Attr(attrProbe)
	want := 4
	if m.Class == stunmsg.ClassRequest {
		want = 20
	}
	if len(v) < want {
		return probeMark{}, fmt.Errorf("probe attribute of %d bytes", len(v))
	}
	mark := probeMark{
		relay: v[0]&flagRelay != 0, stream: v[0]&flagStream != 0, tunnel: v[0]&flagTunnel != 0,
		needed: v[0]&flagNeeded != 0,
	}
	if want == 20 {
		mark.epoch, mark.seq = binary.BigEndian.Uint64(v[4:]), binary.BigEndian.Uint64(v[12:])
	}
	return mark, nil
}

// A ledger remembers the transactions under way, so that an answer counts only
// for the probe it answers. It holds the newest ones.
type ledger struct {
	seqs  map[stunmsg.TransactionID]uint64
	order [1024]stunmsg.TransactionID
	next  int
}

func newLedger() *ledger { return &ledger{seqs: make(map[stunmsg.TransactionID]uint64)} }

func (l *ledger) add(id stunmsg.TransactionID, seq uint64) {
	delete(l.seqs, l.order[l.next])
	l.order[l.next] = id
	l.next = (l.next + 1) % len(l.order)
	l.seqs[id] = seq
}

func (l *ledger) has(id stunmsg.TransactionID) bool {
	_, ok := l.seqs[id]
	return ok
}

// settle returns the sequence number of a transaction, and forgets it.
func (l *ledger) settle(id stunmsg.TransactionID) (seq uint64, ok bool) {
	seq, ok = l.seqs[id]
	delete(l.seqs, id)
	return seq, ok
}

const (
	windowWords = 32 // 64 sequence numbers each
	windowSize  = windowWords * 64
	maxEpochs   = 4
)

// A freshness refuses requests that were seen before, so that a probe recorded
// on its way (a relay can) and sent again from elsewhere opens no path. It
// keeps a sliding window of sequence numbers (as RFC 4303 section 3.4.3 does)
// for each of the last epochs: an epoch is one run of the peer.
type freshness struct {
	epochs []epochWindow // newest last
}

type epochWindow struct {
	epoch  uint64
	newest uint64
	seen   [windowWords]uint64 // bit seq%windowSize
}

// admit reports whether the request is new, and marks it as seen.
func (f *freshness) admit(epoch, seq uint64) bool {
	for i := range f.epochs {
		if f.epochs[i].epoch == epoch {
			return f.epochs[i].admit(seq)
		}
	}
	if len(f.epochs) == maxEpochs {
		f.epochs = append(f.epochs[:0], f.epochs[1:]...)
	}
	f.epochs = append(f.epochs, epochWindow{epoch: epoch, newest: seq})
	return f.epochs[len(f.epochs)-1].admit(seq)
}

func (w *epochWindow) admit(seq uint64) bool {
	if seq > w.newest {
		w.slide(seq)
	}
	if w.newest-seq >= windowSize {
		return false
	}
	word, bit := &w.seen[seq/64%windowWords], bits.RotateLeft64(1, int(seq%64))
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

// slide moves the window's end to seq.
func (w *epochWindow) slide(seq uint64) {
	if seq-w.newest >= windowSize {
		w.seen = [windowWords]uint64{}
	} else {
		for n := w.newest + 1; n <= seq; n++ {
			w.seen[n/64%windowWords] &^= bits.RotateLeft64(1, int(n%64))
		}
	}
	w.newest = seq
}
