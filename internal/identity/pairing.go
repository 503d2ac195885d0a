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

	keys pairKeys // the connector's, from proof until accept
	run  transcript
	peer Peer
}

// pairState is the message a side waits for, or the end.
type pairState uint8

const (
	notStarted  pairState = iota // connector: Start has not been called
	awaitHello                   // listener
	awaitShare                   // connector
	awaitProof                   // listener: it may still be a new hello
	awaitAccept                  // connector
	pairDone
	pairFailed
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

// Start returns the message to send before any was received: the connector's
// hello, and nil for the listener. Called again, while no answer has come, it
// returns the same message, so that it can be sent once more.
func (p *Pairing) Start() []byte {
	if p.role != Connector || p.state != notStarted && p.state != awaitShare {
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
// when err is not nil: the peer learns from it why it ended. When done is true,
// Result has the peer; the listener is done only after it has sent out.
//
// After [ErrWrongCode], [ErrFinished] and an error of Vet's function the pairing is
// over. After any other error the message was ignored, and the pairing waits for a
// better one: [ErrBadMessage], [ErrSelf], [ErrVersion].
func (p *Pairing) Step(in []byte) (out []byte, done bool, err error) {
	out, err = p.step(in)
	if err != nil {
		err = fmt.Errorf("pairing as %s: %w", p.role, err)
	}
	return out, err == nil && p.state == pairDone, err
}

// Spent reports whether the code has served: it must not be used again.
func (p *Pairing) Spent() bool { return p.spent }

// Result returns the peer once Step has said done, and the zero Peer before. Its
// Name passes [ValidateName]; its Added is zero.
func (p *Pairing) Result() Peer {
	if p.state != pairDone {
		return Peer{}
	}
	return p.peer
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
	run.boxC = sealName(keys.nameC, p.self.Name)
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
	run.boxL = sealName(keys.nameL, p.self.Name)
	p.finish(Peer{Name: peerName(keys.nameC, m.box, f), Fingerprint: f, Secret: keys.secret})
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
	f := p.peer.Fingerprint
	p.finish(Peer{Name: peerName(p.keys.nameL, m.box, f), Fingerprint: f, Secret: p.keys.secret})
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

func (p *Pairing) finish(peer Peer) {
	p.peer = peer
	p.end(pairDone)
}

func (p *Pairing) fail() {
	p.peer = Peer{}
	p.end(pairFailed)
}

// end drops everything the run no longer needs, keys first of all.
func (p *Pairing) end(s pairState) {
	p.state = s
	p.prs, p.share, p.keys, p.run = nil, cpaceShare{}, pairKeys{}, transcript{}
	p.hello, p.answer = nil, nil
}

func sessionID(nonceC, nonceL []byte) []byte {
	return append(bytes.Clone(nonceC), nonceL...)
}

func nonce() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // never fails
	return b
}
