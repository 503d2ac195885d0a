package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
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
func step(t *testing.T, p *Pairing, in []byte) (out []byte, done bool) {
	t.Helper()
	out, done, err := p.Step(in)
	if err != nil {
		t.Fatalf("step: %v", err)
	}
	return out, done
}

// refused requires a step that fails with want and changes nothing about the code.
func refused(t *testing.T, p *Pairing, in []byte, want error) (out []byte) {
	t.Helper()
	spent := p.Spent()
	out, done, err := p.Step(in)
	if !errors.Is(err, want) || done {
		t.Fatalf("step: done %t, %v; want %v", done, err, want)
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
	hello := c.Start()
	if !bytes.Equal(hello, c.Start()) {
		t.Error("a second Start gives another hello")
	}
	share, done := step(t, l, hello)
	if done || l.Spent() || c.Spent() {
		t.Error("done or spent after hello")
	}
	proof, done := step(t, c, share)
	if done || !c.Spent() || l.Spent() {
		t.Errorf("after share: done %t, spent %t and %t", done, c.Spent(), l.Spent())
	}
	if (c.Result() != Peer{}) {
		t.Error("the connector has a result before accept")
	}
	accept, done := step(t, l, proof)
	if !done || !l.Spent() {
		t.Errorf("after proof: done %t, spent %t", done, l.Spent())
	}
	out, done := step(t, c, accept)
	if !done || out != nil {
		t.Errorf("after accept: done %t, out %x", done, out)
	}

	lp, cp := l.Result(), c.Result()
	if lp.Name != "laptop" || lp.Fingerprint != testSelf("laptop").Fingerprint {
		t.Errorf("the listener's peer: %v", lp)
	}
	if cp.Name != "desk" || cp.Fingerprint != testSelf("desk").Fingerprint {
		t.Errorf("the connector's peer: %v", cp)
	}
	if lp.Secret != cp.Secret || lp.Secret == (Secret{}) {
		t.Error("the secrets differ or are empty")
	}
	for _, m := range [][]byte{hello, share, proof, accept} {
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
	share, _ := step(t, l, c.Start())
	proof, _ := step(t, c, share)
	accept, done := step(t, l, proof)
	_, done2 := step(t, c, accept)
	if !done || !done2 {
		t.Fatal("not done")
	}
}

func TestWrongCode(t *testing.T) {
	l := mustPairing(t, Listener, mustCode(t, "12-acorn-window-zigzag"), testSelf("desk"))
	c := mustPairing(t, Connector, mustCode(t, "12-acorn-window-zipper"), testSelf("laptop"))
	share, _ := step(t, l, c.Start())
	proof, _ := step(t, c, share)

	reject, done, err := l.Step(proof)
	if !errors.Is(err, ErrWrongCode) || done || !l.Spent() || reject == nil {
		t.Fatalf("listener: reject %x, done %t, spent %t, %v", reject, done, l.Spent(), err)
	}
	out, done, err := c.Step(reject)
	if !errors.Is(err, ErrWrongCode) || done || out != nil || !c.Spent() {
		t.Fatalf("connector: out %x, done %t, spent %t, %v", out, done, c.Spent(), err)
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
	accept, done := step(t, l, proof)
	if !done {
		t.Fatal("the listener is not done")
	}
	if _, done = step(t, c, accept); !done {
		t.Fatal("the connector is not done")
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

// The key schedule of p2pagent-pair/1 is frozen. These values were computed from
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
	wantHex(t, "connector tag", run.tagC, "1f2caf752fd98736d7f74cc742f2a4dfe446e46962771d96b5fc4cc6c819cdc79ae2aa2f44b843aa9490f8b7dad961ec0ada32319c88e5d43a861f9c03fbb737")
	wantHex(t, "listener tag", run.listenerTag(keys), "460649e30950ddd29114e049cad0a87f2efa3bc539020b47bf0c10977b06ad2d3d81740c6c5690dc896bcff99d14adff3b15878566a4bacc0ca2a3dce2292a46")
	wantHex(t, "connector name key", keys.nameC, "8f65e26b14ce8f4f65c5f84198b2b72f379e70ba49caa88fd93c1ad7cf861dbf")
	wantHex(t, "listener name key", keys.nameL, "96e71b6e2785d0fe0f50e793b10416902d8a72bcb348521e0d0eeac336fd9eb3")
	wantHex(t, "pairwise secret", keys.secret[:], "d0ab9423c641e39b47baaba9e4de551eaf102b53adb0dcf151b6840d8dbbbb9f")
}

func TestPairingVersion(t *testing.T) {
	newer := []byte("p2pagent-pair/9")
	check := func(t *testing.T, p *Pairing, in []byte) (out []byte) {
		t.Helper()
		out, done, err := p.Step(in)
		var version ErrVersion
		if !errors.As(err, &version) || version != (ErrVersion{Ours: PairingVersion, Theirs: string(newer)}) || done || p.Spent() {
			t.Fatalf("done %t, spent %t, %v", done, p.Spent(), err)
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
	if _, done, err := l.Step(forwarded); !errors.Is(err, ErrWrongCode) || done {
		t.Errorf("a proof from another run: done %t, %v", done, err)
	}
	if _, done, err := l.Step(proofOfM); !errors.Is(err, ErrFinished) || done {
		t.Errorf("a second guess: done %t, %v", done, err)
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
	if out, done, err := c.Step(share); !errors.Is(err, refusal) || out != nil || done {
		t.Errorf("out %x, done %t, %v", out, done, err)
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
