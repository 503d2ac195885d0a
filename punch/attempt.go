package punch

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/stunmsg"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Counts is what crossed the sockets for one attempt. From it a failure is told
// from a failure of the other direction.
type Counts struct {
	Openers         int // low-TTL packets sent
	ChecksSent      int // Binding requests that left
	ChecksReceived  int // authenticated Binding requests from the peer
	AnswersSent     int // our success responses
	AnswersReceived int // authenticated success responses to our checks
	Paced           int // checks and answers held back, by the rate or the budget
	Refused         int // packets dropped: not authenticated, or of an address nobody named
}

// phase is how far an attempt is.
type phase int

const (
	opening   phase = iota // nothing at normal TTL may leave
	checking               // the ICE agent checks and answers
	answering              // the agent is gone, the mux answers for it
	ended                  // nobody answers
)

// attempt is what the muxes share of one attempt: its credentials, whom it may
// talk to, and what was counted.
type attempt struct {
	// Constant.
	local, remote Credentials
	username      string // of the peer's requests: our ufrag, a colon, the peer's
	controlling   bool
	trace         *trace.Recorder

	heardPeer chan struct{} // closed at the first authenticated request
	conflict  chan struct{} // closed when the peer claims our role
	deserted  chan struct{} // closed when the last mux was closed

	mu      sync.Mutex
	phase   phase
	gate    gate
	counts  Counts
	muxes   int       // not closed
	until   time.Time // in phase answering
	sendErr error     // the first
	refusal int       // refused sources that were traced
}

// maxRefusals bounds the trace events about refused candidates, announced and
// learned.
const maxRefusals = 8

func newAttempt(cfg Config, loopback bool, now time.Time) *attempt {
	return &attempt{
		local:       cfg.Local,
		remote:      cfg.Remote,
		username:    cfg.Local.Ufrag + ":" + cfg.Remote.Ufrag,
		controlling: cfg.Controlling,
		trace:       cfg.Trace,
		heardPeer:   make(chan struct{}),
		conflict:    make(chan struct{}),
		deserted:    make(chan struct{}),
		gate:        newGate(cfg.Allow, loopback, now),
		muxes:       len(cfg.Muxes),
	}
}

// admit lets the attempt send to a candidate, or says why not.
func (a *attempt) admit(c candidates.Candidate) (why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gate.add(c)
}

// enter moves the attempt on. The phase answering lasts until the given time.
func (a *attempt) enter(p phase, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase, a.until = p, until
}

// over reports that nothing is left to do for the attempt.
func (a *attempt) over(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.phase == ended || a.phase == answering && now.After(a.until)
}

// snapshot is what errors and events are made of.
func (a *attempt) snapshot() (c Counts, heard []netip.AddrPort, exhausted bool, sendErr error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts, a.gate.heard(), a.gate.pace.exhausted(), a.sendErr
}

// describe returns the type of a remote address and the shortest round trip
// to it.
func (a *attempt) describe(remote netip.AddrPort) (candidates.Type, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.gate.dests[remote]
	if d == nil {
		return candidates.PeerReflexive, 0
	}
	return d.typ, d.rtt
}

// outgoing decides on a packet of the agent. It counts it as sent when it may
// leave.
func (a *attempt) outgoing(class stunmsg.Class, nomination bool, dst netip.AddrPort, now time.Time) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	var v verdict
	switch {
	case a.phase != checking:
		v = refused
	case class == stunmsg.ClassRequest:
		if v = a.gate.check(dst, nomination, now); v == send {
			a.counts.ChecksSent++
		}
	case class == stunmsg.ClassSuccess:
		if v = a.gate.answer(dst, now); v == send {
			a.counts.AnswersSent++
		}
	default:
		v = refused
	}
	a.countLocked(v)
	return v
}

func (a *attempt) countLocked(v verdict) {
	switch v {
	case paced:
		a.counts.Paced++
	case refused:
		a.counts.Refused++
	}
}

// mayOpen asks the pacer for one opener.
func (a *attempt) mayOpen(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.gate.pace.take(triggered, now) {
		return false
	}
	a.counts.Openers++
	return true
}

// request judges a Binding request that names this attempt: its integrity, its
// role, its source. It returns the phase, which says who answers; ended is
// nobody.
func (a *attempt) request(m *stunmsg.Message, src netip.AddrPort, now time.Time) phase {
	p, event := a.judge(m, src, now)
	if event != nil {
		a.trace.Emit(event)
	}
	return p
}

func (a *attempt) judge(m *stunmsg.Message, src netip.AddrPort, now time.Time) (phase, trace.Event) {
	genuine := m.Username() == a.username && m.Verify([]byte(a.local.Pwd)) == nil
	_, claimsControlling := m.IceControlling()

	a.mu.Lock()
	defer a.mu.Unlock()
	if !genuine {
		a.counts.Refused++
		return ended, nil
	}
	if a.phase == answering && now.After(a.until) {
		a.phase = ended
	}
	if a.phase == ended {
		return ended, nil
	}
	if claimsControlling == a.controlling {
		closeOnce(a.conflict)
		return ended, nil
	}
	ok, isNew, why := a.gate.learn(src)
	if !ok {
		a.counts.Refused++
		return ended, a.refusedLocked(src, why)
	}
	a.counts.ChecksReceived++
	closeOnce(a.heardPeer)
	if isNew {
		return a.phase, trace.Candidate{Remote: true, Type: string(candidates.PeerReflexive), Addr: src}
	}
	return a.phase, nil
}

func (a *attempt) refusedLocked(src netip.AddrPort, why string) trace.Event {
	if a.refusal++; a.refusal > maxRefusals {
		return nil
	}
	return trace.Candidate{Remote: true, Type: string(candidates.PeerReflexive), Addr: src, Refused: why}
}

// response judges a success response to a check of ours that went to dst rtt
// ago. It reports whether the agent may see it.
func (a *attempt) response(m *stunmsg.Message, src, dst netip.AddrPort, rtt time.Duration) bool {
	genuine := src == dst && m.Verify([]byte(a.remote.Pwd)) == nil
	a.mu.Lock()
	defer a.mu.Unlock()
	if !genuine {
		a.counts.Refused++
		return false
	}
	a.counts.AnswersReceived++
	a.gate.measured(dst, rtt)
	return a.phase == checking
}

// reply builds the success response that the mux sends for an agent that is
// gone, or nil when it is not due.
func (a *attempt) reply(m *stunmsg.Message, src netip.AddrPort, now time.Time) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.gate.answer(src, now)
	a.countLocked(v)
	if v != send {
		return nil
	}
	a.counts.AnswersSent++
	return stunmsg.Success(m.Header).XORMappedAddress(src).Sign([]byte(a.local.Pwd)).Fingerprint().Bytes()
}

// failed notes a send error. An error is a loss: ICE repeats.
func (a *attempt) failed(dst netip.AddrPort, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sendErr == nil {
		a.sendErr = fmt.Errorf("send to %s: %w", dst, err)
	}
}

// desert notes that one of the attempt's muxes was closed.
func (a *attempt) desert() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.muxes--; a.muxes == 0 {
		closeOnce(a.deserted)
	}
}

// closeOnce closes c unless it is. The caller holds the attempt's lock.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// validate reports one error per credential that ICE would refuse (RFC 8445
// section 5.3: 24 bits of ufrag, 128 of password).
func (c Credentials) validate(whose string) error {
	var errs []error
	if len(c.Ufrag) < 4 || len(c.Ufrag) > 256 {
		errs = append(errs, fmt.Errorf("%s ufrag of %d characters, want 4 to 256", whose, len(c.Ufrag)))
	}
	if len(c.Pwd) < 22 || len(c.Pwd) > 256 {
		errs = append(errs, fmt.Errorf("%s password of %d characters, want 22 to 256", whose, len(c.Pwd)))
	}
	return errors.Join(errs...)
}
