package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Self is what a pairing tells the peer about this machine.
type Self struct {
	Name        string // see [ValidateName]
	Fingerprint Fingerprint
}

// A Pairing is one side of a pairing: messages in, messages out, no clock and no
// connection. The package comment has the message table.
//
// There must be one Pairing per code, whoever turns up at the mailbox: each would
// give away one guess. A Pairing is used by one goroutine at a time.
type Pairing struct {
	role  Role
	self  Self
	prs   []byte
	ci    []byte
	state pairState
	spent bool
	vet   func(Fingerprint) error // the connector's; may be nil

	nonceC, nonceL []byte
	share          cpaceShare // the listener's, from its answer to hello until proof
	hello, answer  []byte     // the listener's: the hello it answered, and how

	keys   pairKeys   // the connector's from its proof on, the listener's from its accept on
	run    transcript // the connector's, from proof until accept
	peer   Peer
	stored []byte // the connector's message that it has stored the peer
}

// pairState is the message a side waits for, or the end.
type pairState uint8

const (
	notStarted  pairState = iota // connector: Start has not been called
	awaitHello                   // listener
	awaitShare                   // connector
	awaitProof                   // listener: it may still be a new hello
	awaitAccept                  // connector
	mustStore                    // the caller, and then calls Stored
	awaitStored                  // that the peer has stored, or could not
	pairDone
	pairFailed
)

// Next is what a caller has to do after a step of a pairing.
type Next int

const (
	// NextWait is to wait for the next message.
	NextWait Next = iota
	// NextStore is to store the Result, and to call [Pairing.Stored]. The listener
	// stores it for good: the connector has it. The connector stores it so that it
	// can take it back ([Store.Propose]): the listener may still be unable to.
	NextStore
	// NextPaired is the end: both sides have stored it.
	NextPaired
)

// NewPairing returns a pairing in the mailbox that the code's nameplate led to.
func NewPairing(role Role, code Code, self Self, mailbox string) (*Pairing, error) {
	switch {
	case role != Listener && role != Connector:
		return nil, fmt.Errorf("pairing: no such role: %s", role)
	case code == Code{}:
		return nil, fmt.Errorf("pairing: %w: it is empty", ErrBadCode)
	case self.Fingerprint.IsZero():
		return nil, errors.New("pairing: no fingerprint of our own")
	}
	if err := ValidateName(self.Name); err != nil {
		return nil, fmt.Errorf("pairing: %w", err)
	}
	p := &Pairing{
		role:  role,
		self:  self,
		prs:   []byte(code.Secret()),
		ci:    lv([]byte(PairingVersion), []byte(mailbox)),
		state: notStarted,
	}
	if role == Listener {
		p.state = awaitHello
	}
	return p, nil
}

// Start returns the message to send unasked, and once more while no answer has come:
// the connector's hello, and later that it has stored the peer. It is nil while there
// is none: at the listener, and while a message must not be sent twice.
func (p *Pairing) Start() []byte {
	switch {
	case p.role != Connector:
		return nil
	case p.state == awaitStored:
		return p.stored
	case p.state != notStarted && p.state != awaitShare:
		return nil
	}
	if p.state == notStarted {
		p.nonceC = nonce()
		p.state = awaitShare
	}
	return helloMsg{p.nonceC}.encode()
}

// Vet lets f look at the listener's key before this side, the connector, spends the
// code. An error of f ends the pairing with it: the code can still be used. Nobody
// vouches for the key yet, so f must not believe it, only refuse it.
func (p *Pairing) Vet(f func(Fingerprint) error) { p.vet = f }

// Step takes a message from the peer. When out is not nil it has to be sent, also
// when err is not nil: the peer learns from it why it ended.
//
// After [ErrWrongCode], [ErrNotStored], [ErrFinished] and an error of Vet's function
// the pairing is over. After any other error the message was ignored, and the pairing
// waits for a better one: [ErrBadMessage], [ErrSelf], [ErrVersion].
func (p *Pairing) Step(in []byte) (out []byte, next Next, err error) {
	out, err = p.step(in)
	if err != nil {
		return out, NextWait, fmt.Errorf("pairing as %s: %w", p.role, err)
	}
	return out, p.next(), nil
}

func (p *Pairing) next() Next {
	switch p.state {
	case mustStore:
		return NextStore
	case pairDone:
		return NextPaired
	}
	return NextWait
}

// Stored tells that the Result is stored, or why it is not, and returns what to send.
// It is for the state that [NextStore] asks for, and returns nil in any other. Not stored
// is the end.
func (p *Pairing) Stored(failure error) (out []byte, next Next) {
	if p.state != mustStore {
		return nil, NextWait
	}
	key := p.keys.storedL
	if p.role == Connector {
		key = p.keys.storedC
	}
	out = storedMsg{sealOnce(key, outcome(failure))}.encode()
	switch {
	case failure != nil:
		p.fail()
	case p.role == Connector:
		p.stored, p.state = out, awaitStored
	default:
		p.end(pairDone)
	}
	return out, p.next()
}

// Spent reports whether the code has served: it must not be used again.
func (p *Pairing) Spent() bool { return p.spent }

// Proved reports whether the peer has proved that it has the code.
func (p *Pairing) Proved() bool { return p.peer.Secret != Secret{} }

// Result returns the peer from the moment when it is to be stored, and the zero Peer
// before and after a failure. Its Name passes [ValidateName]; its Added is zero.
func (p *Pairing) Result() Peer {
	switch {
	case p.state == mustStore, p.state == pairDone, p.state == awaitStored && p.role == Connector:
		return p.peer
	}
	return Peer{}
}

func (p *Pairing) step(in []byte) ([]byte, error) {
	if p.state == pairDone || p.state == pairFailed {
		return nil, ErrFinished
	}
	kind, r, err := open(in)
	if err != nil {
		return nil, err
	}
	var out []byte
	switch {
	case kind == typeHello && (p.state == awaitHello || p.state == awaitProof):
		out, err = p.onHello(in, r)
	case kind == typeShare && p.state == awaitShare:
		out, err = p.onShare(r)
	case kind == typeProof && p.state == awaitProof:
		out, err = p.onProof(r)
	case kind == typeAccept && p.state == awaitAccept:
		err = p.onAccept(r)
	case kind == typeStored && p.state == awaitStored:
		err = p.onStored(r)
	case kind == typeReject && p.state != notStarted:
		err = p.onReject(r)
	default:
		err = badMessage("type %#02x is not expected now", kind)
	}
	var version ErrVersion
	if errors.As(err, &version) && kind != typeReject { // a reject is never answered
		out = rejectMsg(reasonVersion)
	}
	return out, err
}

// onHello: the listener draws its nonce and share. Nothing is at stake yet, so a
// new hello starts over; the same one again gets the same answer again.
func (p *Pairing) onHello(in []byte, r *reader) ([]byte, error) {
	m, err := parseHello(r)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(in, p.hello) {
		return p.answer, nil
	}
	nonceC, nonceL := bytes.Clone(m.nonce), nonce()
	share, err := newShare(p.prs, p.ci, sessionID(nonceC, nonceL))
	if err != nil {
		return nil, err
	}
	p.nonceC, p.nonceL, p.share = nonceC, nonceL, share
	p.hello = bytes.Clone(in)
	p.answer = shareMsg{nonceL, share.public, p.ad()}.encode()
	p.state = awaitProof
	return p.answer, nil
}

// onShare: the connector has all it needs for the session key, and proves it.
// From here on the code is spent.
func (p *Pairing) onShare(r *reader) ([]byte, error) {
	m, err := parseShare(r)
	if err != nil {
		return nil, err
	}
	f, err := p.theirFingerprint(m.ad)
	if err != nil {
		return nil, err
	}
	if p.vet != nil {
		if err := p.vet(f); err != nil {
			p.fail()
			return nil, err
		}
	}
	sid := sessionID(p.nonceC, m.nonce)
	share, err := newShare(p.prs, p.ci, sid)
	if err != nil {
		return nil, err
	}
	k, err := scalarMult(share.scalar, m.y)
	if err != nil {
		return nil, badMessage("share: %w", err)
	}
	run := transcript{sid: sid, yl: bytes.Clone(m.y), adl: bytes.Clone(m.ad), yc: share.public, adc: p.ad()}
	keys := run.keys(k)
	run.boxC = sealOnce(keys.nameC, []byte(p.self.Name))
	run.tagC = run.connectorTag(keys)

	p.run, p.keys = run, keys
	p.peer.Fingerprint = f
	p.spent = true
	p.state = awaitAccept
	return proofMsg{run.yc, run.adc, run.boxC, run.tagC}.encode(), nil
}

// onProof: the listener checks the connector's tag, and only then sends its own.
func (p *Pairing) onProof(r *reader) ([]byte, error) {
	m, err := parseProof(r)
	if err != nil {
		return nil, err
	}
	f, err := p.theirFingerprint(m.ad)
	if err != nil {
		return nil, err
	}
	k, err := scalarMult(p.share.scalar, m.y)
	if err != nil {
		return nil, badMessage("proof: %w", err) // low order: it tested no guess
	}
	run := transcript{sid: sessionID(p.nonceC, p.nonceL), yl: p.share.public, adl: p.ad(), yc: m.y, adc: m.ad, boxC: m.box, tagC: m.tag}
	keys := run.keys(k)

	p.spent = true
	if subtle.ConstantTimeCompare(m.tag, run.connectorTag(keys)) != 1 {
		p.fail()
		return rejectMsg(reasonCode), ErrWrongCode
	}
	run.boxL = sealOnce(keys.nameL, []byte(p.self.Name))
	p.keys = keys
	p.peer = Peer{Name: peerName(keys.nameC, m.box, f), Fingerprint: f, Secret: keys.secret}
	p.state = awaitStored
	return acceptMsg{run.boxL, run.listenerTag(keys)}.encode(), nil
}

// onAccept: the connector checks the listener's tag.
func (p *Pairing) onAccept(r *reader) error {
	m, err := parseAccept(r)
	if err != nil {
		return err
	}
	p.run.boxL = m.box
	if subtle.ConstantTimeCompare(m.tag, p.run.listenerTag(p.keys)) != 1 {
		p.fail()
		return ErrWrongCode
	}
	p.peer.Name = peerName(p.keys.nameL, m.box, p.peer.Fingerprint)
	p.peer.Secret = p.keys.secret
	p.state = mustStore
	return nil
}

// onStored: the peer has stored this side, or could not.
func (p *Pairing) onStored(r *reader) error {
	m, err := parseStored(r)
	if err != nil {
		return err
	}
	key := p.keys.storedC
	if p.role == Connector {
		key = p.keys.storedL
	}
	plain, err := openOnce(key, m.box)
	if err != nil {
		return badMessage("stored: %w", err)
	}
	if failure := parseOutcome(plain); failure != nil {
		p.fail()
		return failure
	}
	if p.role == Listener {
		p.state = mustStore
		return nil
	}
	p.end(pairDone)
	return nil
}

// onReject: the peer says why it gave up. Nobody vouches for that, so it ends
// only what is over anyway: a connector that has already spent its code.
func (p *Pairing) onReject(r *reader) error {
	reason, err := parseReject(r)
	if err != nil {
		return err
	}
	if reason == reasonCode && p.state == awaitAccept {
		p.fail()
		return ErrWrongCode
	}
	return badMessage("reject for reason %d", reason)
}

// theirFingerprint takes the peer's associated data apart.
func (p *Pairing) theirFingerprint(ad []byte) (Fingerprint, error) {
	f, err := parseAssociatedData(ad, p.role.other())
	if err != nil {
		return Fingerprint{}, err
	}
	if f == p.self.Fingerprint {
		return Fingerprint{}, ErrSelf
	}
	return f, nil
}

func (p *Pairing) ad() []byte { return associatedData(p.role, p.self.Fingerprint) }

func (p *Pairing) fail() {
	p.peer = Peer{}
	p.end(pairFailed)
}

// end drops everything the run no longer needs, keys first of all.
func (p *Pairing) end(s pairState) {
	p.state = s
	p.prs, p.share, p.keys, p.run = nil, cpaceShare{}, pairKeys{}, transcript{}
	p.hello, p.answer, p.stored = nil, nil, nil
}

func sessionID(nonceC, nonceL []byte) []byte {
	return append(bytes.Clone(nonceC), nonceL...)
}

func nonce() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // never fails
	return b
}
