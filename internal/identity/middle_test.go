package identity

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// The tests in this file put a hostile server between two sides that do nothing
// wrong: it drops, repeats, reorders, reflects and replays messages, flips bits,
// and puts fields of its own in place of theirs. It knows everything but the code
// or the pairwise secret. Whatever it does, nobody may panic, and whoever says
// it is done must be done with the right peer and the right key.

// A middle decides, from a seed, what happens to messages.
type middle struct {
	rng  *rand.Rand
	seen [][]byte // everything that went by, of this run and some others
	// forge returns msg with fields replaced in a way only this protocol knows.
	forge func(m *middle, msg []byte) []byte
}

// tamper returns what arrives when msg was sent: nothing, msg, something else, or
// several messages.
func (m *middle) tamper(msg []byte) [][]byte {
	m.seen = append(m.seen, bytes.Clone(msg))
	switch n := m.rng.IntN(100); {
	case n < 66:
		return [][]byte{msg}
	case n < 69: // drop
		return nil
	case n < 74: // repeat
		return [][]byte{msg, msg}
	case n < 79: // something seen before, in its place or around it
		return [][]byte{m.pick()}
	case n < 82:
		return [][]byte{m.pick(), msg}
	case n < 84:
		return [][]byte{msg, m.pick()}
	case n < 90:
		return [][]byte{m.flip(msg)}
	case n < 91:
		return [][]byte{msg[:m.rng.IntN(len(msg)+1)]}
	case n < 92:
		return [][]byte{append(bytes.Clone(msg), m.flip(msg)...)}
	default:
		return [][]byte{m.forge(m, bytes.Clone(msg))}
	}
}

func (m *middle) pick() []byte { return m.seen[m.rng.IntN(len(m.seen))] }

func (m *middle) flip(msg []byte) []byte {
	out := bytes.Clone(msg)
	for range 1 + m.rng.IntN(3) {
		if len(out) > 0 {
			out[m.rng.IntN(len(out))] ^= 1 << m.rng.IntN(8)
		}
	}
	return out
}

func (m *middle) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	return b
}

// A side is one end of a protocol: it takes a message and may answer.
type side interface {
	take(msg []byte) (answer []byte)
}

// talk carries messages between two sides until there are none left, or the
// middle has made too many. It begins with first, on its way to b.
func (m *middle) talk(a, b side, first []byte) {
	type parcel struct {
		to  side
		msg []byte
	}
	var queue []parcel
	send := func(to side, msg []byte) {
		for _, t := range m.tamper(msg) {
			queue = append(queue, parcel{to, t})
		}
	}
	other := map[side]side{a: b, b: a}
	send(b, first)
	for range 40 {
		if len(queue) == 0 {
			return
		}
		i := 0
		if m.rng.IntN(8) == 0 {
			i = m.rng.IntN(len(queue)) // out of order
		}
		p := queue[i]
		queue = append(queue[:i], queue[i+1:]...)
		if m.rng.IntN(30) == 0 {
			p.to = other[p.to] // reflected, or sent astray
		}
		if answer := p.to.take(bytes.Clone(p.msg)); answer != nil {
			send(other[p.to], answer)
		}
	}
}

// eachSeed runs f for the seeds of all runs, on all processors, and stops at the
// first error. It passes on messages from earlier runs, for replay.
func eachSeed(t *testing.T, f func(seed uint64, old [][]byte) (seen [][]byte, err error)) {
	t.Helper()
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var old [][]byte
			for seed := uint64(w); seed < middleRuns; seed += uint64(workers) {
				seen, err := f(seed, old)
				if err != nil {
					t.Errorf("seed %d: %v", seed, err)
					return
				}
				if old = append(old, seen...); len(old) > 24 {
					old = old[len(old)-24:]
				}
			}
		})
	}
	wg.Wait()
}

// pairingSide adapts a Pairing.
type pairingSide struct {
	*Pairing
	stored bool
	done   bool
	err    error // an error of a kind that Step does not promise
}

func (s *pairingSide) take(msg []byte) []byte {
	out, next, err := s.Step(msg)
	if next == NextStore {
		s.stored = true
		out, next = s.Stored(nil)
	}
	s.done = s.done || next == NextPaired
	var version ErrVersion
	switch {
	case err == nil, errors.Is(err, ErrBadMessage), errors.Is(err, ErrWrongCode), errors.Is(err, ErrFinished),
		errors.Is(err, ErrSelf), errors.As(err, &version):
	default:
		s.err = fmt.Errorf("%s: %w", s.role, err)
	}
	return out
}

// forgePairing swaps fingerprints, roles, versions, points, nonces, names and
// tags, and puts in messages that the attacker makes with a wrong code.
func forgePairing(m *middle, msg []byte) []byte {
	mallory := fingerprintOf([]byte("mallory"))
	ad := func(old []byte, role Role) []byte {
		switch m.rng.IntN(5) {
		case 0:
			return associatedData(role, mallory)
		case 1:
			return associatedData(role.other(), mallory)
		case 2: // the other party's
			return associatedData(role, testSelf([]string{"desk", "laptop"}[m.rng.IntN(2)]).Fingerprint)
		case 3:
			return lv([]byte(role.String()), []byte("p2pagent-pair/0"), mallory[:])
		default:
			return old
		}
	}
	point := func(old []byte) []byte {
		switch m.rng.IntN(4) {
		case 0:
			return make([]byte, pointSize) // low order
		case 1:
			return m.bytes(pointSize)
		case 2: // a proper share for a wrong guess
			s, err := newShare([]byte("acorn-window-zipper"), lv([]byte(PairingVersion), []byte(testMailbox)), m.bytes(32))
			if err != nil {
				return old
			}
			return s.public
		default:
			return old
		}
	}
	kind, r, err := open(msg)
	if err != nil {
		return msg
	}
	switch kind {
	case typeHello:
		return message(typeHello, [][]byte{[]byte(PairingVersion), []byte("p2pagent-pair/0")}[m.rng.IntN(2)], m.bytes(nonceSize))
	case typeShare:
		if s, err := parseShare(r); err == nil {
			if m.rng.IntN(3) == 0 {
				s.nonce = m.bytes(nonceSize)
			}
			s.y, s.ad = point(s.y), ad(s.ad, Listener)
			return s.encode()
		}
	case typeProof:
		if p, err := parseProof(r); err == nil {
			p.y, p.ad = point(p.y), ad(p.ad, Connector)
			if m.rng.IntN(3) == 0 {
				p.box = m.bytes(len(p.box))
			}
			if m.rng.IntN(3) == 0 {
				p.tag = m.bytes(tagSize)
			}
			return p.encode()
		}
	case typeStored:
		if s, err := parseStored(r); err == nil {
			s.box = m.bytes(len(s.box))
			return s.encode()
		}
	case typeAccept:
		if a, err := parseAccept(r); err == nil {
			if m.rng.IntN(2) == 0 {
				a.box = m.bytes(len(a.box))
			} else {
				a.tag = m.bytes(tagSize)
			}
			return a.encode()
		}
	}
	return rejectMsg([]byte{reasonVersion, reasonCode, 9}[m.rng.IntN(3)])
}

func TestPairingMiddle(t *testing.T) {
	code := mustCode(t, "12-acorn-window-zigzag")
	wrong := mustCode(t, "12-acorn-window-zipper")
	var mu sync.Mutex
	outcomes := map[string]int{}
	eachSeed(t, func(seed uint64, old [][]byte) ([][]byte, error) {
		m := &middle{rng: rand.New(rand.NewPCG(seed, 1)), seen: append([][]byte(nil), old...), forge: forgePairing}
		typed := code
		if seed%10 == 0 {
			typed = wrong
		}
		lp, err := NewPairing(Listener, code, testSelf("desk"), testMailbox)
		if err != nil {
			return nil, err
		}
		cp, err := NewPairing(Connector, typed, testSelf("laptop"), testMailbox)
		if err != nil {
			return nil, err
		}
		l, c := &pairingSide{Pairing: lp}, &pairingSide{Pairing: cp}
		m.talk(c, l, c.Start())
		outcome, err := judgePairing(l, c, typed == code)
		mu.Lock()
		outcomes[outcome]++
		mu.Unlock()
		return m.seen[len(old):], err
	})
	t.Log(outcomes)
	for _, o := range []string{"paired", "not known at the connector", "stored by the connector", "listener spent", "connector spent", "both spent", "unspent"} {
		if outcomes[o] == 0 {
			t.Errorf("the middle never led to %q: the test does not try what it should", o)
		}
	}
}

// judgePairing holds what must be true whatever the middle did.
func judgePairing(l, c *pairingSide, sameCode bool) (string, error) {
	if err := errors.Join(l.err, c.err); err != nil {
		return "", err
	}
	lp, cp := l.Result(), c.Result()
	switch {
	case (l.stored || c.stored) && !sameCode:
		return "", errors.New("stored with different codes")
	case c.stored && !(l.Spent() && c.Spent()), l.stored && !c.stored, c.done && !l.done, l.done != l.stored:
		return "", errors.New("done without what comes before it")
	case l.stored != (lp != Peer{}), c.stored != (cp != Peer{}):
		return "", errors.New("a result without being told to store it, or none with it")
	case l.stored && (lp.Fingerprint != c.self.Fingerprint || lp.Name != c.self.Name):
		return "", fmt.Errorf("the listener pinned %v", lp)
	case c.stored && (cp.Fingerprint != l.self.Fingerprint || cp.Name != l.self.Name):
		return "", fmt.Errorf("the connector pinned %v", cp)
	case l.stored && lp.Secret != cp.Secret:
		return "", errors.New("the secrets differ")
	}
	switch {
	case c.done:
		return "paired", nil
	case l.done:
		return "not known at the connector", nil
	case c.stored:
		return "stored by the connector", nil
	case l.Spent() && c.Spent():
		return "both spent", nil
	case l.Spent():
		return "listener spent", nil
	case c.Spent():
		return "connector spent", nil
	}
	return "unspent", nil
}
