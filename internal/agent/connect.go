package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/p2pagent/p2pagent/signaling"
	"golang.org/x/sync/errgroup"
)

// A Connector keeps a link with one known peer: the side that dials.
type Connector struct {
	env  *environment
	name string // of the peer, when this began
	cfg  ConnectConfig

	waiters  atomic.Int32 // connections to a -L that wait for a session
	waitTold atomic.Bool  // that they do

	// owned by run
	peer     identity.Peer   // with the secret to meet it with
	known    identity.Peer   // as it is stored
	others   []identity.Peer // peer with the other secrets that it may have
	box      *signaling.Mailbox
	meeting  *identity.Meeting
	retry    *time.Timer
	enc      *encounter
	current  *link
	linkEnd  chan error
	servers  servers
	present  bool
	unsaid   bool             // that the peer is absent, as there was a link
	refused  error            // by the server, for good
	declined error            // by the peer, for now; nil since its last word was another
	resuming bool             // the last offer was to go on with a link
	mark     *identity.Run    // of this process; nil: none could be left
	ended    []identity.RunID // earlier runs that the last offer named
	fails    int              // links that never came up, in a row
	noPath   *noPathError     // why the last one did not; nil: for another reason
	linkedTo string           // what the listener called its machine last
	rivals   rivalry          // of listeners with the peer's key
	kept     *keptLink        // the current link, where another listener has the place; nil: none has

	restUntil time.Time // no meeting before
}

// ConnectConfig is what one Connector does.
type ConnectConfig struct {
	// Timeout bounds the wait for the first link; 0: wait for ever.
	Timeout time.Duration
	// DirectTimeout bounds the wait for the first link where a direct one is
	// required, from when the peer is there; 0: no bound.
	DirectTimeout time.Duration
	// Once is for whoever does one thing and ends: something else than a signaling
	// server at the server's address is the end at once. Otherwise it is waited
	// for: a captive portal answers for everybody until somebody has logged in.
	Once bool
	// Locals are the -L: the peer is asked in every session whether it allows
	// their targets. What serves them is [Connector.ServeLocals].
	Locals []forward.Spec
	// Remotes are the -R, asked for in every session.
	Remotes []forward.Spec
	// Handle is called with each session, and should return soon after ctx
	// or the session ends. Nil: the session just stands.
	Handle func(ctx context.Context, s *session.Session)
}

// NewConnector prepares a link with a known peer. Run does the rest.
func NewConnector(cfg Config, peer identity.Peer, cc ConnectConfig) (*Connector, error) {
	env, err := newEnvironment(cfg, !cc.Once)
	if err != nil {
		return nil, err
	}
	c := &Connector{env: env, name: peer.Name, cfg: cc}
	c.take(peer)
	return c, nil
}

// take begins with a peer as it is stored.
func (c *Connector) take(stored identity.Peer) {
	all := stored.Variants()
	c.known, c.peer, c.others = stored, all[0], all[1:]
}

// Run keeps the link until ctx ends: it waits for a peer that is away, and
// links again after one that came back. It returns early only when waiting is
// of no use: the peer was forgotten, the server refuses us for good, or the
// first link took longer than the timeout.
func (c *Connector) Run(ctx context.Context) error {
	if err := c.env.checkPort(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.env.runSignaling(ctx) })
	g.Go(func() error { return c.env.watchNetwork(ctx) })
	g.Go(func() error { cli.GiveBack(ctx); return nil })
	g.Go(func() error { return c.run(ctx) })
	g.Go(func() error { return c.env.serveStatus(ctx, "connect "+c.name) })
	return g.Wait()
}

// Status tells what there is now.
func (c *Connector) Status() Status { return c.env.status("connect " + c.name) }

// Change returns a channel that is closed when the status has changed.
func (c *Connector) Change() <-chan struct{} { return c.env.change() }

// Ends of a mailbox after which another one is tried.
var (
	// errPairedAnew: the secret has been replaced.
	errPairedAnew = errors.New("paired anew with the same peer")
	// errOtherSecret: nobody is there, and the peer may have another secret.
	errOtherSecret = errors.New("the peer may have another secret")
)

func (c *Connector) run(ctx context.Context) error {
	defer c.unmark()
	for {
		switch err := c.keep(ctx); {
		case errors.Is(err, errPairedAnew):
		case errors.Is(err, errOtherSecret):
			c.peer, c.others = c.others[0], append(c.others[1:], c.peer)
		default:
			return err
		}
		c.present, c.refused, c.declined, c.enc, c.meeting = false, nil, nil, nil, nil
	}
}

// keep is run with one pairing secret.
func (c *Connector) keep(ctx context.Context) (err error) {
	self := c.env.cfg.Key.Fingerprint()
	peer := c.peer
	c.env.expect(peer, connector)
	defer c.env.expectNoMore(peer)
	c.box = c.env.client.Join(identity.MailboxID(c.peer.Secret, c.peer.Fingerprint), signaling.RoleGuest)
	defer c.box.Close()
	c.linkEnd = make(chan error, 1)
	c.retry = time.NewTimer(meetTimeout)
	defer c.retry.Stop()
	expired, stopExpired := after(c.cfg.Timeout)
	defer stopExpired()
	direct, stopDirect := after(0) // begins when the peer is there
	defer func() { stopDirect() }()
	other := time.NewTicker(otherSecretAfter)
	defer other.Stop()
	store := c.env.cfg.Peers.Watch(ctx)
	changed := c.env.change()
	events := c.box.Events()
	linked := false // once
	defer func() { c.dropLinkFor(cmp.Or(err, endOf(ctx))) }()
	for {
		if c.refused != nil && !c.env.sessions() {
			return c.refused // a session that lives outlives the server's opinion
		}
		select {
		case <-ctx.Done():
			return nil
		case ev, open := <-events:
			switch {
			case !open && ctx.Err() != nil:
				return nil
			case !open && c.refused == nil:
				return c.box.Err()
			case !open:
				events = nil
				continue
			}
			if err := c.event(ctx, ev, self); err != nil {
				return err
			}
			if c.present && direct == nil && !linked {
				direct, stopDirect = after(c.cfg.DirectTimeout)
			}
		case <-c.retry.C:
			if c.enc == nil && c.present {
				c.meet(ctx, self) // message 1 or its answer was lost
			}
		case err := <-c.linkEnd:
			if err := c.linkEnded(ctx, err); err != nil {
				return err
			}
		case <-other.C:
			if connected, _, _ := c.env.client.State(); connected && len(c.others) > 0 && !c.present && c.current == nil {
				return errOtherSecret
			}
		case <-store:
			switch p, err := c.env.cfg.Peers.ByFingerprint(c.peer.Fingerprint); {
			case errors.Is(err, identity.ErrUnknownPeer):
				c.dropLinkFor(ErrForgotten)
				return fmt.Errorf("%w: %s", ErrForgotten, c.peer.Name)
			case err == nil && !c.retake(p):
				c.dropLinkFor(errPairedAnew)
				c.take(p)
				return errPairedAnew
			}
		case <-changed:
			changed = c.env.change()
			if c.up() {
				expired, direct, linked, c.fails = nil, nil, true, 0
			}
		case <-expired:
			if !c.up() {
				return c.timedOut(c.cfg.Timeout)
			}
		case <-direct:
			direct = nil
			if c.present && !c.up() {
				return c.timedOut(c.cfg.DirectTimeout)
			}
		}
	}
}

// retake looks at a peer that was stored anew, and reports whether the secret in use is
// still one of its.
func (c *Connector) retake(stored identity.Peer) bool {
	var others []identity.Peer
	valid := false
	for _, v := range stored.Variants() {
		if v.Secret == c.peer.Secret {
			valid = true
			continue
		}
		others = append(others, v)
	}
	if valid {
		c.known, c.others = stored, others
	}
	return valid
}

// otherSecret looks whether the store has another secret of the peer, which does not
// know the one in use any more, before the store's watch tells. Nil: it has not. An older
// listener calls a machine forgotten, too, that was paired anew.
func (c *Connector) otherSecret() error {
	p, err := c.env.cfg.Peers.ByFingerprint(c.peer.Fingerprint)
	switch {
	case err != nil:
		return nil
	case !c.retake(p):
		c.take(p)
		return errPairedAnew
	case len(c.others) > 0:
		return errOtherSecret
	}
	return nil
}

// confirm stores that the peer has the secret of a pairing that it never confirmed: it
// has met us with it.
func (c *Connector) confirm() {
	if c.known.Proposed != c.peer.Secret {
		return
	}
	if stored := c.env.confirm(c.peer); stored.Confirmed() {
		c.take(stored)
	}
}

// up reports whether there is a session.
func (c *Connector) up() bool { return c.current != nil && c.current.session.Load() != nil }

// after is a timer that never fires for 0.
func after(d time.Duration) (<-chan time.Time, func() bool) {
	if d <= 0 {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(d)
	return t.C, t.Stop
}

// timedOut says which of the steps to a first link did not happen.
func (c *Connector) timedOut(waited time.Duration) error {
	connected, _, last := c.env.client.State()
	switch {
	case !connected:
		return Unreachable(last, waited)
	case !c.present && !c.known.Confirmed():
		return withHint(fmt.Errorf("%w: %s did not come within %s, and it has never confirmed the pairing", ErrPeerAbsent, c.peer.Name, units.Duration(waited)),
			"pair again: `p2pagent listen --pair` there, and the new code here")
	case !c.present:
		return withHint(fmt.Errorf("%w: %s did not come within %s", ErrPeerAbsent, c.peer.Name, units.Duration(waited)), "run `p2pagent listen` there")
	case c.declined != nil:
		return withHint(fmt.Errorf("%w, and so for %s", c.declined, units.Duration(waited)), "`p2pagent status` there lists its links")
	case c.env.cfg.RequireDirect || c.current != nil && c.current.requireDirect():
		text := "none was found"
		if c.current != nil {
			text = c.current.judged().reason(time.Now())
		}
		return withHint(fmt.Errorf("%w within %s: %s", ErrOnlyRelayed, units.Duration(waited), text), "leave out --require direct to use the relay")
	}
	e := noPathError{peer: c.peer.Name, why: "it is there, but has not answered", remedy: "look at what `p2pagent listen` prints there"}
	switch {
	case c.current != nil:
		e = *c.current.noPath()
	case c.noPath != nil:
		e = *c.noPath
	}
	e.waited = waited
	return &e
}

// event is one thing that happened in the mailbox.
func (c *Connector) event(ctx context.Context, ev signaling.Event, self identity.Fingerprint) error {
	switch ev.Kind {
	case signaling.Joined:
		c.env.sighted(c.peer, func(s *sighting) { s.joined, s.present, s.unproved = true, ev.Present, !c.known.Confirmed() })
		if !ev.Present {
			if c.current != nil {
				c.current.detach(true) // it left while we could not see it
			}
			why := "not at the signaling server"
			if !c.known.Confirmed() {
				why += ", and it has never confirmed the pairing: pair again if it stays away"
			}
			c.notePeer(false, why)
		}
	case signaling.PeerHere:
		c.present = true
		c.env.sighted(c.peer, func(s *sighting) { s.present = true })
		c.notePeer(true, "")
		if c.current != nil {
			c.current.sighted()
		}
		if rest := time.Until(c.restUntil); rest > 0 {
			c.retry.Reset(rest)
			return nil
		}
		c.meet(ctx, self)
	case signaling.PeerGone, signaling.Lost:
		c.parted(ev.Kind == signaling.PeerGone)
	case signaling.NewCredentials:
		c.servers = c.env.serversFor(ctx, ev.Credentials)
		if c.current != nil {
			c.current.use(c.servers)
		}
	case signaling.Message:
		return c.message(ctx, ev.Body)
	case signaling.Failed:
		if err := fatalSignaling(ev.Err); err != nil {
			c.env.cfg.Trace.Emit(trace.Failure{Where: "rendezvous with " + c.peer.Name, Err: err.Error()})
			c.refused = err
			c.env.sighted(c.peer, func(s *sighting) { s.refused = err })
			c.parted(false)
		}
	}
	return nil
}

// notePeer records that the peer came to the rendezvous or is not there.
func (c *Connector) notePeer(present bool, why string) {
	linked := c.current != nil && c.current.works()
	c.unsaid = linked && !present
	c.env.cfg.Trace.ForPeer(c.peer.Name).Emit(trace.PeerState{Present: present, Why: why, Linked: linked})
}

func (c *Connector) parted(gone bool) {
	if gone && c.present {
		c.notePeer(false, "left the signaling server")
	}
	c.present, c.enc, c.meeting = false, nil, nil
	c.env.sighted(c.peer, func(s *sighting) { s.joined, s.present, s.declined = s.joined && gone, false, nil })
	if c.current != nil {
		c.current.detach(gone)
	}
}

// meet sends handshake message 1.
func (c *Connector) meet(ctx context.Context, self identity.Fingerprint) {
	c.enc = nil
	c.retry.Reset(meetTimeout)
	meeting, err := identity.NewMeeting(connector, self, c.peer, c.box.Name())
	if err == nil {
		c.meeting = meeting
		var first []byte
		if first, err = meeting.Write(nil); err == nil {
			err = c.box.Send(ctx, signaling.HostSeat, first)
		}
	}
	if err != nil {
		c.env.cfg.Trace.Emit(trace.Failure{Where: "meet " + c.peer.Name, Err: err.Error()})
	}
}

// message is one body from the listener.
func (c *Connector) message(ctx context.Context, body []byte) error {
	fail := func(err error) error {
		c.env.cfg.Trace.Emit(trace.Failure{Where: "message of " + c.peer.Name, Err: err.Error()})
		return nil
	}
	if c.enc == nil {
		if c.meeting == nil {
			return nil
		}
		if _, err := c.meeting.Read(body); err != nil {
			return fail(err)
		}
		c.enc = &encounter{box: c.box, seat: signaling.HostSeat, ch: c.meeting.Channel()}
		c.meeting = nil
		c.retry.Stop()
		c.confirm()
		if c.resuming = c.current != nil; c.resuming {
			c.say(ctx, &message{Offer: &offer{Link: c.current.id, Resume: true}})
			return nil
		}
		return c.propose(ctx)
	}
	plain, err := c.enc.open(body)
	if err != nil {
		return fail(err)
	}
	if m, err := decodeMessage(plain); err == nil && m.Answer != nil {
		return c.answered(ctx, m.Answer)
	}
	if c.current != nil {
		c.current.receive(viaSignaling, plain)
	}
	return nil
}

// say sends a message of the meeting. One that is lost is made good by the next
// meeting.
func (c *Connector) say(ctx context.Context, m *message) {
	if err := c.enc.say(ctx, m); err != nil {
		c.env.cfg.Trace.Emit(trace.Failure{Where: "send " + m.name(), Err: err.Error()})
	}
}

// propose offers a new link and starts its work at once: by the time the
// answer is here, our relay may be too.
func (c *Connector) propose(ctx context.Context) error {
	o := offer{Key: make([]byte, keyBytes), RelayOnly: c.env.cfg.RelayOnly, Direct: c.env.cfg.RequireDirect}
	rand.Read(o.Key)
	rand.Read(o.Link[:])
	o.Run, o.Ended = c.env.run, c.endedRuns()
	l, err := newLink(ctx, c.env, connector, c.peer, o)
	if err != nil {
		return err
	}
	c.say(ctx, &message{Offer: &o})
	l.servers = c.servers
	if l.servers.none() {
		l.servers = c.env.serversFor(ctx, nil)
	}
	l.onSession = c.serveSession
	c.current = l
	c.env.add(l)
	l.meet(c.enc)
	go func() {
		err := l.run()
		c.env.remove(l)
		c.linkEnd <- err
	}()
	return nil
}

// serveSession does what the session is for until it ends.
func (c *Connector) serveSession(ctx context.Context, l *link, s *session.Session) {
	var users sync.WaitGroup
	users.Go(func() { c.remotes(ctx, l, s, c.cfg.Remotes) })
	users.Go(func() { l.askAboutTargets(ctx, c.cfg.Locals) })
	if c.cfg.Handle != nil {
		users.Go(func() { c.cfg.Handle(ctx, s) })
	}
	users.Wait()
}

// answered is the listener's word on our offer.
func (c *Connector) answered(ctx context.Context, a *answer) error {
	l := c.current
	if l == nil || a.Link != l.id {
		return nil
	}
	if !c.resuming {
		c.told()
	}
	if a.Refused != "" {
		err := fmt.Errorf("%w by %s: %q", ErrRefused, c.peer.Name, clip(a.Refused, 200))
		c.dropLinkFor(err)
		if a.Final {
			return err
		}
		c.declined = err
		c.env.sighted(c.peer, func(s *sighting) { s.declined = err })
		c.again()
		return nil
	}
	c.declined = nil
	c.env.sighted(c.peer, func(s *sighting) { s.declined = nil })
	before := c.linkedTo
	c.linkedTo = nameOf(a)
	if a.Resumed || !c.resuming { // it is of this link, an old or a new one
		l.peerDirect.Store(a.Direct)
		l.do(func() {
			l.peerRelayOnly = a.RelayOnly
			if l.requireDirect() {
				l.dropAllocation()
			}
			l.reviewVerdict()
		})
		if a.Resumed {
			l.attach(c.enc)
		}
		return nil
	}
	// The listener does not know this link any more: it has restarted, or it is
	// another one.
	if l.hasRival(ctx) {
		return c.rivalled(ctx, a, before)
	}
	c.env.cfg.Trace.ForPeer(c.peer.Name).Emit(trace.PeerState{Present: true, Why: "restarted, linking anew"})
	c.dropLinkFor(errRestarted)
	c.resuming = false
	return c.propose(ctx)
}

// dropLinkFor ends the current link with a reason, and waits for it.
func (c *Connector) dropLinkFor(why error) {
	if c.current == nil {
		return
	}
	c.current.end(why)
	<-c.linkEnd
	c.current, c.kept = nil, nil
}

// linkEnded decides what follows the end of a link: mostly the next one.
func (c *Connector) linkEnded(ctx context.Context, err error) error {
	kept := c.kept
	c.current, c.kept, c.noPath = nil, nil, nil
	errors.As(err, &c.noPath)
	c.env.sighted(c.peer, func(s *sighting) { s.ended = err })
	var wrong identity.ErrWrongPeer
	var closed *session.PeerClosedError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("%w: %v", ErrRefused, err)
	case errors.As(err, &closed) && (closed.Code == session.CodePairedAnew || closed.Code == session.CodeForgotten):
		if err := c.otherSecret(); err != nil || closed.Code == session.CodePairedAnew {
			c.again() // if the new secret is not stored here yet, the store's watch tells
			return err
		}
		return withHint(fmt.Errorf("%w: %s has forgotten this machine", ErrForgotten, c.peer.Name), "pair again: `p2pagent listen --pair` there")
	}
	if ctx.Err() != nil {
		return nil
	}
	if c.unsaid && !c.present {
		c.notePeer(false, "left the signaling server")
	}
	if kept != nil {
		c.afterKept(kept)
		return nil
	}
	c.again()
	return nil
}

// again meets anew after a while that grows.
func (c *Connector) again() {
	c.fails++
	c.enc, c.meeting = nil, nil
	c.retry.Reset(linkBackoff(c.fails))
}

// linkBackoff is the wait before linking again.
func linkBackoff(fails int) time.Duration {
	return min(100*time.Millisecond<<min(fails-1, 7), 10*time.Second)
}

// Unreachable is a signaling server that could not be reached within a time, with the
// advice of the last error where it has one.
func Unreachable(last error, waited time.Duration) error {
	if last == nil {
		last = errors.New("no answer")
	}
	hint := "is `signal` running there, and is its port open?"
	var advised interface{ Hint() string }
	if errors.As(last, &advised) {
		hint = advised.Hint()
	}
	return withHint(fmt.Errorf("%w within %s: %v", ErrSignaling, units.Duration(waited), last), "%s", hint)
}

// SignalingError gives an error that ended signaling.Client.Run its meaning and
// its advice.
func SignalingError(err error) error { return fatalSignaling(err) }

// fatalSignaling gives the errors of signaling that are the end their meaning.
func fatalSignaling(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, signaling.ErrNotSignal):
		return fmt.Errorf("%w: %w", ErrSignaling, err)
	case errors.Is(err, signaling.ErrFull), errors.Is(err, signaling.ErrLimit), errors.Is(err, signaling.ErrOccupied):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, signaling.ErrUnauthorized):
		return withHint(fmt.Errorf("%w: %w", ErrRefused, err), "take the whole line that `signal` printed, the part behind # included")
	}
	return err
}
