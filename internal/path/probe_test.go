package path

import (
	"net/netip"
	"testing"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

func decode(t *testing.T, b []byte) *stunmsg.Message {
	t.Helper()
	if err := stunmsg.Check(b, stunmsg.AsPeer); err != nil {
		t.Fatal(err)
	}
	m, err := stunmsg.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestProbe(t *testing.T) {
	key := []byte("0123456789abcdef")
	a, b := newProber(key, "link", true, 77), newProber(key, "link", false, 88)
	other := newProber([]byte("another key 1234"), "link", true, 77)

	for _, size := range sizes {
		raw, _, err := a.request(probeMark{relay: true, needed: true, seq: 5}, size)
		if err != nil || len(raw) != size {
			t.Errorf("probe of %d bytes: %d bytes, %v", size, len(raw), err)
		}
	}

	raw, id, err := a.request(probeMark{relay: true, tunnel: true, needed: true, seq: 5}, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := decode(t, raw)
	if m.TransactionID != id {
		t.Error("the transaction id is not the message's")
	}
	if mark, err := b.verify(m); err != nil || mark != (probeMark{relay: true, tunnel: true, needed: true, epoch: 77, seq: 5}) {
		t.Errorf("mark %+v, %v", mark, err)
	}
	if _, err := a.verify(m); err == nil {
		t.Error("our own request, reflected, passes for the peer's")
	}
	forged, _, _ := other.request(probeMark{seq: 5}, 0)
	if _, err := b.verify(decode(t, forged)); err == nil {
		t.Error("a wrong key passes")
	}

	src := netip.MustParseAddrPort("[2001:db8::1]:7")
	raw, err = b.answer(m.Header, probeMark{relay: true, stream: true, tunnel: true, needed: true}, src)
	if err != nil {
		t.Fatal(err)
	}
	answer := decode(t, raw)
	if mark, err := a.verify(answer); err != nil || mark != (probeMark{relay: true, stream: true, tunnel: true}) {
		t.Errorf("answer's mark %+v, %v", mark, err)
	}
	if got, _ := answer.XORMapped(); got != src || answer.TransactionID != id {
		t.Errorf("answer maps to %v for %x", got, answer.TransactionID)
	}

	bare := stunmsg.NewRequest(stunmsg.MethodBinding).Username("link#i").Sign(key).Bytes()
	if _, err := b.verify(decode(t, bare)); err == nil {
		t.Error("a request without our attribute passes")
	}
}

func TestFreshness(t *testing.T) {
	type step struct {
		epoch, seq uint64
		want       bool
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"once", []step{{1, 1, true}, {1, 1, false}, {1, 2, true}, {1, 1, false}, {1, 2, false}}},
		{"out of order", []step{{1, 10, true}, {1, 3, true}, {1, 5, true}, {1, 3, false}, {1, 10, false}}},
		{"starts anywhere", []step{{1, 1 << 40, true}, {1, 1<<40 - 1, true}, {1, 1 << 40, false}}},
		{"too old", []step{{1, 5000, true}, {1, 5000 - windowSize, false}, {1, 5000 - windowSize + 1, true}}},
		{"far ahead", []step{{1, 1, true}, {1, 1 + 10*windowSize, true}, {1, 1, false}, {1, 10 * windowSize, true}}},
		{"wraps around the window", []step{{1, 1, true}, {1, 1 + windowSize, true}, {1, 1 + windowSize, false}, {1, 2, true}, {1, 2, false}}},
		{"epochs are apart", []step{{1, 1, true}, {2, 1, true}, {1, 1, false}, {2, 1, false}}},
		{"few epochs", []step{{1, 1, true}, {2, 1, true}, {3, 1, true}, {4, 1, true}, {5, 1, true}, {2, 1, false}, {5, 1, false}}},
		{"the last number", []step{{1, 1<<64 - 1, true}, {1, 1<<64 - 1, false}, {1, 1<<64 - 2, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f freshness
			for i, s := range tt.steps {
				if got := f.admit(s.epoch, s.seq); got != s.want {
					t.Errorf("step %d, %d of epoch %d: %v", i, s.seq, s.epoch, got)
				}
			}
		})
	}
}

func TestLedger(t *testing.T) {
	l := newLedger()
	var first stunmsg.TransactionID
	for i := range len(l.order) + 1 {
		id := stunmsg.NewTransactionID()
		if i == 0 {
			first = id
		}
		l.add(id, uint64(i))
		if i == 1 {
			if seq, ok := l.settle(id); !ok || seq != 1 || l.has(id) {
				t.Error("not settled once")
			}
		}
	}
	if l.has(first) || len(l.seqs) != len(l.order)-1 {
		t.Errorf("%d transactions are kept, the first: %v", len(l.seqs), l.has(first))
	}
}
