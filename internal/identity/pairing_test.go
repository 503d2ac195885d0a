package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

const testMailbox = "nameplate-12"

func mustCode(t testing.TB, s string) Code {
	t.Helper()
	c, err := ParseCode(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testSelf(name string) Self {
	return Self{Name: name, Fingerprint: fingerprintOf([]byte(name))}
}

func mustPairing(t testing.TB, role Role, code Code, self Self) *Pairing {
	t.Helper()
	p, err := NewPairing(role, code, self, testMailbox)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pairOf returns both sides of a pairing with one code.
func pairOf(t testing.TB) (listener, connector *Pairing) {
	t.Helper()
	code := mustCode(t, "12-acorn-window-zigzag")
	return mustPairing(t, Listener, code, testSelf("desk")), mustPairing(t, Connector, code, testSelf("laptop"))
}

// step requires a step without an error.
func step(t *testing.T, p *Pairing, in []byte) (out []byte, next Next) {
	t.Helper()
	out, next, err := p.Step(in)
	if err != nil {
		t.Fatalf("step: %v", err)
	}
	return out, next
}

// refused requires a step that fails with want and changes nothing about the code.
func refused(t *testing.T, p *Pairing, in []byte, want error) (out []byte) {
	t.Helper()
	spent := p.Spent()
	out, next, err := p.Step(in)
	if !errors.Is(err, want) || next != NextWait {
		t.Fatalf("step: next %d, %v; want %v", next, err, want)
	}
	if p.Spent() != spent {
		t.Fatal("a refused message spent the code")
	}
	return out
}

func TestPairing(t *testing.T) {
	l, c := pairOf(t)
	if l.Start() != nil {
		t.Error("the listener begins")
	}
	nothing := func(when string, sides ...*Pairing) {
		t.Helper()
		for _, p := range sides {
			if (p.Result() != Peer{}) {
				t.Errorf("%s: the %s has a result", when, p.role)
			}
			if out, next := p.Stored(nil); out != nil || next != NextWait {
				t.Errorf("%s: the %s may say that it has stored", when, p.role)
			}
		}
	}
	expect := func(when string, next, want Next) {
		t.Helper()
		if next != want {
			t.Errorf("%s: next is %d, want %d", when, next, want)
		}
	}
	hello := c.Start()
	if !bytes.Equal(hello, c.Start()) {
		t.Error("a second Start gives another hello")
	}
	share, next := step(t, l, hello)
	expect("hello", next, NextWait)
	if l.Spent() || c.Spent() {
		t.Error("spent after hello")
	}
	proof, next := step(t, c, share)
	expect("share", next, NextWait)
	if !c.Spent() || l.Spent() || c.Start() != nil {
		t.Errorf("after share: spent %t and %t, or the proof may be sent twice", c.Spent(), l.Spent())
	}
	nothing("after share", l, c)
	accept, next := step(t, l, proof)
	expect("proof", next, NextWait)
	if !l.Spent() || !l.Proved() {
		t.Errorf("after proof: spent %t, proved %t", l.Spent(), l.Proved())
	}
	nothing("after proof", l, c)
	out, next := step(t, c, accept)
	expect("accept", next, NextStore)
	if out != nil {
		t.Errorf("out %x before it is stored", out)
	}
	cp := c.Result()
	nothing("after accept", l)
	storedC, next := c.Stored(nil)
	expect("stored at the connector", next, NextWait)
	if !bytes.Equal(storedC, c.Start()) {
		t.Error("it cannot be said once more")
	}
	out, next = step(t, l, storedC)
	expect("stored by the connector", next, NextStore)
	if out != nil {
		t.Errorf("out %x before it is stored", out)
	}
	lp := l.Result()
	storedL, next := l.Stored(nil)
	expect("stored at the listener", next, NextPaired)
	out, next = step(t, c, storedL)
	expect("stored by both", next, NextPaired)
	if out != nil || l.Result() != lp || c.Result() != cp {
		t.Errorf("out %x, or other results", out)
	}

	if lp.Name != "laptop" || lp.Fingerprint != testSelf("laptop").Fingerprint {
		t.Errorf("the listener's peer: %v", lp)
	}
	if cp.Name != "desk" || cp.Fingerprint != testSelf("desk").Fingerprint {
		t.Errorf("the connector's peer: %v", cp)
	}
	if lp.Secret != cp.Secret || lp.Secret == (Secret{}) {
		t.Error("the secrets differ or are empty")
	}
	for _, m := range [][]byte{hello, share, proof, accept, storedC, storedL} {
		if len(m) > MaxPairingMessage {
			t.Errorf("a message of %d bytes", len(m))
		}
		if bytes.Contains(m, []byte("desk")) || bytes.Contains(m, []byte("laptop")) {
			t.Errorf("a name in the clear: %q", m)
		}
	}
	for _, p := range []*Pairing{l, c} {
		if _, _, err := p.Step(hello); !errors.Is(err, ErrFinished) {
			t.Errorf("step after the end: %v", err)
		}
	}
}

// A side that cannot store says so, without a path, and neither has a result then.
func TestNotStored(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/home/user/secret", Err: syscall.ENOSPC}
	for _, tt := range []struct {
		name string
		why  error
		says string
	}{
		{"disk full", full, "the other machine could not store the pairing: " + syscall.ENOSPC.Error()},
		{"name", fmt.Errorf("--as desk: %w", ErrNameTaken), "the other machine could not store the pairing: name is taken"},
		{"another error", errors.New("of /home/user"), "the other machine could not store the pairing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			told := func(p *Pairing, in []byte) {
				t.Helper()
				_, next, err := p.Step(in)
				var not ErrNotStored
				if !errors.As(err, &not) || not.Error() != tt.says || next != NextWait {
					t.Errorf("next %d, %v; want %q", next, err, tt.says)
				}
			}
			l, c := pairOf(t)
			toMustStore(t, l, c)
			out, next := c.Stored(tt.why)
			told(l, out)
			if next != NextWait || (l.Result() != Peer{}) || (c.Result() != Peer{}) {
				t.Error("the connector could not store, and there is a result")
			}

			l, c = pairOf(t)
			toMustStore(t, l, c)
			out, _ = c.Stored(nil)
			step(t, l, out)
			out, next = l.Stored(tt.why)
			told(c, out)
			if next != NextWait || (l.Result() != Peer{}) || (c.Result() != Peer{}) {
				t.Error("the listener could not store, and there is a result")
			}
			for _, p := range []*Pairing{l, c} {
				if _, _, err := p.Step(out); !errors.Is(err, ErrFinished) {
					t.Errorf("after the end: %v", err)
				}
			}
		})
	}
}

// What nobody but the peer can have said ends and confirms nothing.
func TestForgedStored(t *testing.T) {
	l, c := pairOf(t)
	otherL, otherC := pairOf(t)
	toMustStore(t, l, c)
	toMustStore(t, otherL, otherC)
	stored, _ := c.Stored(nil)
	otherStored, _ := otherC.Stored(nil)
	for _, forged := range [][]byte{otherStored, storedMsg{make([]byte, 17)}.encode(), storedMsg{}.encode(), {typeStored}} {
		refused(t, l, forged, ErrBadMessage)
		refused(t, c, forged, ErrBadMessage)
	}
	refused(t, c, stored, ErrBadMessage) // reflected
	if _, next := step(t, l, stored); next != NextStore {
		t.Errorf("next is %d", next)
	}
	refused(t, l, stored, ErrBadMessage) // again, while the caller stores
}

// toMustStore takes a pairing to where the connector is to store.
func toMustStore(t *testing.T, l, c *Pairing) {
	t.Helper()
	share, _ := step(t, l, c.Start())
	proof, _ := step(t, c, share)
	accept, _ := step(t, l, proof)
	if _, next := step(t, c, accept); next != NextStore {
		t.Fatalf("next is %d", next)
	}
}

func TestPairingTwiceGivesOtherSecrets(t *testing.T) {
	secrets := map[Secret]bool{}
	for range 3 {
		l, c := pairOf(t)
		run(t, l, c)
		secrets[l.Result().Secret] = true
	}
	if len(secrets) != 3 {
		t.Errorf("%d different secrets of 3", len(secrets))
	}
}

// run takes a pairing to its good end.
func run(t *testing.T, l, c *Pairing) {
	t.Helper()
	toMustStore(t, l, c)
	out, _ := c.Stored(nil)
	step(t, l, out)
	out, _ = l.Stored(nil)
	if _, next := step(t, c, out); next != NextPaired {
		t.Fatal("not paired")
	}
}

func TestWrongCode(t *testing.T) {
	l := mustPairing(t, Listener, mustCode(t, "12-acorn-window-zigzag"), testSelf("desk"))
	c := mustPairing(t, Connector, mustCode(t, "12-acorn-window-zipper"), testSelf("laptop"))
	share, _ := step(t, l, c.Start())
	proof, _ := step(t, c, share)

	reject, next, err := l.Step(proof)
	if !errors.Is(err, ErrWrongCode) || next != NextWait || !l.Spent() || reject == nil {
		t.Fatalf("listener: reject %x, next %d, spent %t, %v", reject, next, l.Spent(), err)
	}
	out, next, err := c.Step(reject)
	if !errors.Is(err, ErrWrongCode) || next != NextWait || out != nil || !c.Spent() {
		t.Fatalf("connector: out %x, next %d, spent %t, %v", out, next, c.Spent(), err)
	}
	// One guess, and that was it: the right proof comes too late.
	for _, p := range []*Pairing{l, c} {
		if _, _, err := p.Step(proof); !errors.Is(err, ErrFinished) {
			t.Errorf("a second guess: %v", err)
		}
		if (p.Result() != Peer{}) {
			t.Error("there is a result")
		}
	}
}

func TestMailboxAndCodeAreBound(t *testing.T) {
	code := mustCode(t, "12-acorn-window-zigzag")
	l := mustPairing(t, Listener, code, testSelf("desk"))
	c, err := NewPairing(Connector, code, testSelf("laptop"), "another mailbox")
	if err != nil {
		t.Fatal(err)
	}
	share, _ := step(t, l, c.Start())
	proof, _ := step(t, c, share)
	if _, _, err := l.Step(proof); !errors.Is(err, ErrWrongCode) {
		t.Errorf("pairing across mailboxes: %v", err)
	}
}

// Nothing before the proof burns the code, and the pairing goes on after it.
func TestJunkDoesNotBurnTheCode(t *testing.T) {
	l, c := pairOf(t)
	_, stranger := pairOf(t)
	hello := c.Start()
	junk := [][]byte{
		nil, {}, {0}, {typeHello}, {typeShare, 1, 2, 3}, []byte("GET / HTTP/1.1\r\n\r\n"),
		bytes.Repeat([]byte{typeHello}, MaxPairingMessage), make([]byte, 1<<20),
		hello[:len(hello)-1], append(bytes.Clone(hello), 0),
	}
	for _, j := range junk {
		refused(t, l, j, ErrBadMessage)
		refused(t, c, j, ErrBadMessage)
	}
	refused(t, c, hello, ErrBadMessage) // reflected

	// A stranger says hello and goes away.
	strangersShare, _ := step(t, l, stranger.Start())
	share, _ := step(t, l, hello)
	if bytes.Equal(share, strangersShare) {
		t.Error("two guests got the same share")
	}
	// The same hello again, from a server that repeats itself, changes nothing.
	if again, _ := step(t, l, hello); !bytes.Equal(share, again) {
		t.Error("the same hello got another answer")
	}
	for _, j := range append(junk, share) {
		refused(t, l, j, ErrBadMessage)
	}

	// A proof with a point of low order tests no guess.
	low := proofMsg{y: make([]byte, pointSize), ad: c.ad(), box: make([]byte, 20), tag: make([]byte, tagSize)}
	refused(t, l, low.encode(), ErrBadMessage)
	lowShare := shareMsg{nonce: make([]byte, nonceSize), y: make([]byte, pointSize), ad: l.ad()}
	refused(t, c, lowShare.encode(), ErrBadMessage)

	// Nor does associated data that cannot be the peer's.
	for _, ad := range [][]byte{
		nil, c.ad(), associatedData(Listener, Fingerprint{}), append(l.ad(), 0),
		lv([]byte("listener"), []byte("v")),
	} {
		m := shareMsg{nonce: make([]byte, nonceSize), y: testPoint(t), ad: ad}
		refused(t, c, m.encode(), ErrBadMessage)
	}
	for _, ad := range [][]byte{nil, l.ad(), associatedData(Connector, Fingerprint{})} {
		m := proofMsg{y: testPoint(t), ad: ad, box: make([]byte, 20), tag: make([]byte, tagSize)}
		refused(t, l, m.encode(), ErrBadMessage)
	}

	proof, _ := step(t, c, share)
	for _, j := range append(junk, share, proof, rejectMsg(77)) {
		refused(t, c, j, ErrBadMessage)
	}
	accept, _ := step(t, l, proof)
	if _, next := step(t, c, accept); next != NextStore {
		t.Fatal("the connector has no peer to store")
	}
}

func testPoint(t *testing.T) []byte {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey().Bytes()
}

// The key schedule of p2pagent-pair/2 is frozen. These values were computed from
// the package comment by another program in another language.
func TestPairingKeysAreFrozen(t *testing.T) {
	fill := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	run := transcript{
		sid:  sessionID(fill(nonceSize, 1), fill(nonceSize, 2)),
		yl:   fill(pointSize, 3),
		yc:   fill(pointSize, 4),
		adl:  associatedData(Listener, Fingerprint(fill(32, 6))),
		adc:  associatedData(Connector, Fingerprint(fill(32, 7))),
		boxC: []byte("box of C"),
		boxL: []byte("box of L"),
	}
	keys := run.keys(fill(pointSize, 5))
	run.tagC = run.connectorTag(keys)
	wantHex(t, "connector tag", run.tagC, "d60b438538da23707a9c3b63565a33614925523f5ee32b55d4d86589cbb846a82739fe4ca3791df42c8ea4a6e83ed9aeb1b7fce66ca13d10612dcc5cb3a6e009")
	wantHex(t, "listener tag", run.listenerTag(keys), "23dfbebd58ffed7c83e2457b2fb16218eedc55df7859b777f30560380d90428ddc0f73d5c1ee18e9c3400c54fcb087d35a01158036690779a949c86f0ff88734")
	wantHex(t, "connector name key", keys.nameC, "97bad4fabc0ef18c5b937e13b5e0bb4d44522646e6ce1c30e5952bbc5418406b")
	wantHex(t, "listener name key", keys.nameL, "969bc0a8f376115aab802902aaab9e3cdf1194cd72eec5a2ed52bd44b56aa104")
	wantHex(t, "connector stored key", keys.storedC, "344d39a52a12d01dd8e3851a7942614fd50da96d66574ff3272764aa55c640f7")
	wantHex(t, "listener stored key", keys.storedL, "a6aadb5b086c2d4ef2fb7d64fbe7b945e3c16925085f3569bb48236811ad6deb")
	wantHex(t, "pairwise secret", keys.secret[:], "9b916b86f20c7a9d8e7b45227957a2f8af8325b9dd96af52dafb2e173a524b1a")
}

func TestPairingVersion(t *testing.T) {
	newer := []byte("p2pagent-pair/9")
	check := func(t *testing.T, p *Pairing, in []byte) (out []byte) {
		t.Helper()
		out, next, err := p.Step(in)
		var version ErrVersion
		if !errors.As(err, &version) || version != (ErrVersion{Ours: PairingVersion, Theirs: string(newer)}) || next != NextWait || p.Spent() {
			t.Fatalf("next %d, spent %t, %v", next, p.Spent(), err)
		}
		return out
	}
	t.Run("hello", func(t *testing.T) {
		l, c := pairOf(t)
		// What follows the version may be anything in another version.
		reject := check(t, l, message(typeHello, newer, []byte("something new"), make([]byte, 100)))
		if !bytes.Equal(reject, rejectMsg(reasonVersion)) {
			t.Errorf("answer %x", reject)
		}
		run(t, l, c) // and the right guest can still come
	})
	t.Run("share", func(t *testing.T) {
		l, c := pairOf(t)
		share, _ := step(t, l, c.Start())
		if check(t, c, message(typeShare, newer)) == nil {
			t.Error("no answer")
		}
		step(t, c, share)
	})
	t.Run("reject", func(t *testing.T) {
		_, c := pairOf(t)
		c.Start()
		if out := check(t, c, message(typeReject, newer, []byte{reasonVersion})); out != nil {
			t.Errorf("a reject was answered with %x", out)
		}
	})
	t.Run("too long to show", func(t *testing.T) {
		l, _ := pairOf(t)
		refused(t, l, message(typeHello, bytes.Repeat([]byte("v"), maxVersion+1)), ErrBadMessage)
	})
}

// A reject that comes before there is anything to reject ends nothing.
func TestEarlyReject(t *testing.T) {
	l, c := pairOf(t)
	refused(t, l, rejectMsg(reasonCode), ErrBadMessage)
	hello := c.Start()
	refused(t, c, rejectMsg(reasonCode), ErrBadMessage)
	refused(t, c, rejectMsg(reasonVersion), ErrBadMessage) // in our own version: nonsense
	share, _ := step(t, l, hello)
	refused(t, l, rejectMsg(reasonCode), ErrBadMessage)
	step(t, c, share)
}

func TestPairingWithOneself(t *testing.T) {
	code := mustCode(t, "12-acorn-window-zigzag")
	l, c := mustPairing(t, Listener, code, testSelf("desk")), mustPairing(t, Connector, code, testSelf("desk"))
	share, _ := step(t, l, c.Start())
	refused(t, c, share, ErrSelf)
}

// A peer that knows the code and calls itself something unusable is paired under
// a name made of its key.
func TestUnusableName(t *testing.T) {
	l, c := pairOf(t)
	c.self.Name = "\x1b[31mroot"
	run(t, l, c)
	if got, want := l.Result().Name, "peer-"+testSelf("laptop").Fingerprint.String(); got != want {
		t.Errorf("name %q, want %q", got, want)
	}
	if err := ValidateName(l.Result().Name); err != nil {
		t.Error(err)
	}
}

func TestNewPairingRefuses(t *testing.T) {
	code := mustCode(t, "12-acorn-window-zigzag")
	for name, f := range map[string]func() (*Pairing, error){
		"role":        func() (*Pairing, error) { return NewPairing(0, code, testSelf("desk"), testMailbox) },
		"code":        func() (*Pairing, error) { return NewPairing(Listener, Code{}, testSelf("desk"), testMailbox) },
		"name":        func() (*Pairing, error) { return NewPairing(Listener, code, testSelf("a/b"), testMailbox) },
		"fingerprint": func() (*Pairing, error) { return NewPairing(Listener, code, Self{Name: "desk"}, testMailbox) },
	} {
		if p, err := f(); err == nil || p != nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// An attacker who sits in the middle and knows all but the code can answer both
// sides itself. It gets one wrong guess with each, and no session.
func TestActiveMiddleGuessesOnce(t *testing.T) {
	l, c := pairOf(t)
	wrong := mustCode(t, "12-acorn-window-zipper")
	toConnector := mustPairing(t, Listener, wrong, testSelf("mallory"))
	toListener := mustPairing(t, Connector, wrong, testSelf("mallory"))

	share, _ := step(t, toConnector, c.Start())
	proofOfC, _ := step(t, c, share)
	if !c.Spent() {
		t.Error("the connector sent a tag and its code is not spent")
	}
	// Its own guess at the connector's side fails, so it has no tag to send back.
	if _, _, err := toConnector.Step(proofOfC); !errors.Is(err, ErrWrongCode) {
		t.Errorf("the attacker's listener: %v", err)
	}
	share, _ = step(t, l, toListener.Start())
	proofOfM, _ := step(t, toListener, share)
	// The real proof does not fit the other run, and it spends the code as well.
	forwarded := bytes.Clone(proofOfC)
	if _, next, err := l.Step(forwarded); !errors.Is(err, ErrWrongCode) || next != NextWait {
		t.Errorf("a proof from another run: next %d, %v", next, err)
	}
	if _, next, err := l.Step(proofOfM); !errors.Is(err, ErrFinished) || next != NextWait {
		t.Errorf("a second guess: next %d, %v", next, err)
	}
}

// Each share has a scalar of its own, and none is of low order.
func TestSharesAreFresh(t *testing.T) {
	seen := map[string]bool{}
	for range 8 {
		s, err := newShare([]byte("acorn-window-zigzag"), []byte("ci"), []byte("sid"))
		if err != nil {
			t.Fatal(err)
		}
		seen[string(s.public)] = true
		other, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := scalarMult(other, s.public); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d different shares of 8", len(seen))
	}
}

// A key that the caller refuses ends the pairing while the code can still be used.
func TestVet(t *testing.T) {
	l, c := pairOf(t)
	refusal := errors.New("not this one")
	c.Vet(func(f Fingerprint) error {
		if f != testSelf("desk").Fingerprint {
			t.Errorf("shown %v", f)
		}
		return refusal
	})
	share, _ := step(t, l, c.Start())
	if out, next, err := c.Step(share); !errors.Is(err, refusal) || out != nil || next != NextWait {
		t.Errorf("out %x, next %d, %v", out, next, err)
	}
	if c.Spent() || l.Spent() {
		t.Error("the code is spent")
	}
	if _, _, err := c.Step(share); !errors.Is(err, ErrFinished) {
		t.Errorf("after the refusal: %v", err)
	}
	_, again := pairOf(t)
	run(t, l, again)
}
