package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/trouble"
	"github.com/p2pagent/p2pagent/signaling"
	"golang.org/x/sync/errgroup"
)

// A Listener waits for all known peers at once: the side that answers.
type Listener struct {
	env    *environment
	mu     sync.Mutex
	shared map[string]bool // sides of trace.KeyShared that were told
	lost   error           // why, once another listener has the place; guarded by mu, as is shared
	pair   bool
	onCode func(identity.Code, string)
}

// ListenConfig is what one Listener does.
type ListenConfig struct {
	// Pair makes a pairing code, besides serving the known peers. Without
	// any known peer that is done anyway.
	Pair bool
	// OnCode is told the code for the other machine, and why there is a new one
	// when it is not the first. Nil: nobody is told.
	OnCode func(code identity.Code, why string)
}

// NewListener prepares a Listener. Run does the rest.
func NewListener(cfg Config, lc ListenConfig) (*Listener, error) {
	env, err := newEnvironment(cfg, true)
	if err != nil {
		return nil, err
	}
	if lc.OnCode == nil {
		lc.OnCode = func(identity.Code, string) {}
	}
	return &Listener{env: env, shared: make(map[string]bool), pair: lc.Pair, onCode: lc.OnCode}, nil
}

// Run serves until ctx ends, or until the signaling server refuses us for
// good. A pairing that failed ends it only when there is no known peer to
// serve.
func (ls *Listener) Run(ctx context.Context) error {
	if err := ls.env.checkPort(); err != nil {
		return err
	}
	known, err := ls.env.cfg.Peers.List()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ls.env.runSignaling(ctx) })
	g.Go(func() error { return ls.env.watchNetwork(ctx) })
	g.Go(func() error { cli.GiveBack(ctx); return nil })
	g.Go(func() error { return ls.serve(ctx) })
	g.Go(func() error { ls.env.cfg.Allow.Watch(ctx, ls.env.cfg.Trace); return nil })
	g.Go(func() error { return ls.env.serveStatus(ctx, "listen") })
	if ls.pair || len(known) == 0 {
		g.Go(func() error { return ls.pairOne(ctx, len(known) == 0) })
	}
	return g.Wait()
}

// pairOne pairs with one peer. A failure is fatal where there is nothing else to do,
// and told otherwise.
func (ls *Listener) pairOne(ctx context.Context, alone bool) error {
	err := ls.env.pairAsListener(ctx, ls.onCode)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case alone:
		return err
	}
	ls.env.cfg.Trace.Emit(trace.PairingFailed{Why: err.Error(), Final: true})
	return nil
}

// A contact is one way to meet a peer: one that has not confirmed a pairing may have
// two secrets, and each has its mailbox.
type contact struct {
	peer   identity.Fingerprint
	secret identity.Secret
}

func contactOf(p identity.Peer) contact { return contact{p.Fingerprint, p.Secret} }

// served is one contact of a known peer.
type served struct {
	peer identity.Peer
	stop context.CancelCauseFunc
	done chan struct{}
}

// serve keeps a mailbox open for each known peer, as the list changes. While it
// cannot be read, what was known before stays in force.
func (ls *Listener) serve(ctx context.Context) error {
	changes := ls.env.cfg.Peers.Watch(ctx)
	open := make(map[contact]*served)
	failed := make(chan error, 1)
	var over error // the listening is; links that live go on
	defer func() {
		for _, s := range open {
			s.stop(cmp.Or(over, endOf(ctx)))
			<-s.done
		}
	}()
	var known map[contact]identity.Peer
	unread := trouble.NewEpisode(ls.env.tellTrouble("read the known peers"))
	defer unread.Stop()
	for {
		changed := ls.env.change()
		if over == nil {
			over = ls.lostPlace()
		}
		if over != nil && !ls.env.sessions() {
			return over
		}
		var again <-chan time.Time
		peers, err := ls.env.cfg.Peers.List()
		switch {
		case err == nil:
			unread.Worked()
			known = make(map[contact]identity.Peer)
			for _, p := range peers {
				for _, v := range p.Variants() {
					known[contactOf(v)] = v
				}
			}
		case known == nil:
			return err
		default:
			unread.Failed(err)
			again = time.After(rereadPause) // the watch may have missed that it is well again
		}
		for c, s := range open {
			if _, ok := known[c]; !ok {
				s.stop(whyUnknown(c, known)) // links with it end, whatever they are doing
				<-s.done
				delete(open, c)
			}
		}
		for c, p := range known {
			if open[c] == nil && over == nil { // else it would take a place from who has the others
				open[c] = ls.open(ctx, p, failed)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case over = <-failed:
		case <-changed:
		case <-changes:
		case <-again:
		case <-ls.env.paired: // sooner than the file's watch tells
		}
	}
}

// whyUnknown is why a contact is not among the known ones any more.
func whyUnknown(c contact, known map[contact]identity.Peer) error {
	for k := range known {
		if k.peer == c.peer {
			return errPairedAnew
		}
	}
	return ErrForgotten
}

func (ls *Listener) open(ctx context.Context, p identity.Peer, failed chan<- error) *served {
	ctx, stop := context.WithCancelCause(ctx)
	s := &served{peer: p, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		ls.env.expect(p, listener)
		defer ls.env.expectNoMore(p)
		for fails := 1; ctx.Err() == nil; fails++ {
			err := ls.serveMailbox(ctx, p)
			if err == nil || ctx.Err() != nil {
				return
			}
			if errors.Is(err, signaling.ErrReplaced) || errors.Is(err, signaling.ErrClosed) {
				select {
				case failed <- fatalListen(err):
				default:
				}
				return
			}
			// The trouble of one mailbox is not that of the others.
			ls.env.sighted(p, func(s *sighting) { s.refused = err })
			ls.env.cfg.Trace.Emit(trace.Failure{Where: "rendezvous with " + p.Name, Err: err.Error()})
			select {
			case <-time.After(linkBackoff(fails + 3)):
			case <-ctx.Done():
			}
		}
	}()
	return s
}

// Bounds on what one peer can have here.
const (
	maxGuests = 16 // connectors in its mailbox
	maxLinks  = 8  // links
)

// errReplaced ends a link whose connector has offered another one.
var errReplaced = errors.New("the peer began a new link")

// guest is one connector of a peer in its mailbox.
type guest struct {
	seat    signaling.Seat
	waiting *encounter // answered, not yet proved to be there now
	enc     *encounter
	link    *link
}

// host is the listener's side of one mailbox.
type host struct {
	ls      *Listener
	peer    identity.Peer
	box     *signaling.Mailbox
	guests  map[signaling.Seat]*guest
	links   map[linkID]*link
	ended   chan *link
	servers servers
}

// serveMailbox meets every connector of one peer.
func (ls *Listener) serveMailbox(ctx context.Context, p identity.Peer) error {
	key := ls.env.cfg.Key
	name := identity.MailboxID(p.Secret, key.Fingerprint())
	h := &host{
		ls: ls, peer: p, box: ls.env.client.JoinSeat(name, signaling.RoleHost, key.HostSeat(name)),
		guests: make(map[signaling.Seat]*guest), links: make(map[linkID]*link), ended: make(chan *link),
	}
	defer h.box.Close()
	defer h.endLinks()
	var failed error // the mailbox is gone; links that live go on
	events := h.box.Events()
	for {
		if failed != nil && len(h.links) == 0 {
			return failed
		}
		select {
		case <-ctx.Done():
			for _, l := range h.links {
				l.end(endOf(ctx))
			}
			return nil
		case l := <-h.ended:
			delete(h.links, l.id)
		case ev, open := <-events:
			switch {
			case !open:
				events, failed = nil, cmp.Or(failed, h.box.Err())
			case ev.Kind == signaling.Failed:
				if failed = ev.Err; errors.Is(failed, signaling.ErrReplaced) {
					h.replaced(failed)
				}
				h.event(ctx, signaling.Event{Kind: signaling.Lost})
			default:
				h.event(ctx, ev)
			}
		}
	}
}

// fatalListen explains the end of a mailbox.
func fatalListen(err error) error {
	if errors.Is(err, signaling.ErrReplaced) {
		return withHint(fmt.Errorf("%w: %w", ErrRefused, err), "another `p2pagent listen` with this machine's key has taken over; run only one")
	}
	return fatalSignaling(err)
}

// endLinks waits for all links; they have been told.
func (h *host) endLinks() {
	for _, l := range h.links {
		l.end(errEnding)
	}
	for len(h.links) > 0 {
		delete(h.links, (<-h.ended).id)
	}
}

func (h *host) event(ctx context.Context, ev signaling.Event) {
	rec := h.ls.env.cfg.Trace.ForPeer(h.peer.Name)
	defer func() { h.ls.env.sighted(h.peer, func(s *sighting) { s.present = len(h.guests) > 0 }) }()
	switch ev.Kind {
	case signaling.Joined:
		h.ls.env.sighted(h.peer, func(s *sighting) { s.joined, s.refused = true, nil })
		if ev.Replaced {
			h.ls.shareKey(sideNewcomer)
		}
	case signaling.PeerHere:
		if len(h.guests) >= maxGuests {
			return // more than an honest server lets in
		}
		h.part(ev.From, false) // an earlier one of the same number is void
		h.guests[ev.From] = &guest{seat: ev.From}
		rec.Emit(trace.PeerState{Present: true, Linked: h.linked()})
	case signaling.PeerGone:
		h.part(ev.From, true)
		rec.Emit(trace.PeerState{Present: false, Why: "left the signaling server", Linked: h.linked()})
	case signaling.Lost:
		h.ls.env.sighted(h.peer, func(s *sighting) { s.joined = false })
		for seat := range h.guests {
			h.part(seat, false)
		}
	case signaling.NewCredentials:
		h.servers = h.ls.env.serversFor(ctx, ev.Credentials)
		for _, l := range h.links {
			l.use(h.servers)
		}
	case signaling.Message:
		if g := h.guests[ev.From]; g != nil {
			h.message(ctx, g, ev.Body)
		}
	}
}

// linked reports whether any link with the peer works.
func (h *host) linked() bool {
	for _, l := range h.links {
		if l.works() {
			return true
		}
	}
	return false
}

// part ends the encounter with a guest; its link goes on without signaling.
func (h *host) part(seat signaling.Seat, gone bool) {
	if g := h.guests[seat]; g != nil && g.link != nil {
		g.link.detach(gone)
	}
	delete(h.guests, seat)
}

// message is one body of a guest: a sealed message of the encounter there is,
// or else a new handshake.
func (h *host) message(ctx context.Context, g *guest, body []byte) {
	for _, e := range []*encounter{g.waiting, g.enc} {
		if e == nil {
			continue
		}
		plain, err := e.open(body)
		if err != nil {
			continue
		}
		if e == g.waiting { // the peer has echoed our fresh handshake
			g.enc, g.waiting = e, nil
			h.confirm()
		}
		h.plain(ctx, g, plain)
		return
	}
	if err := h.answerHandshake(ctx, g, body); err != nil {
		h.ls.env.cfg.Trace.Emit(trace.Failure{Where: "message of " + h.peer.Name, Err: err.Error()})
	}
}

// confirm stores that the peer has the secret of a pairing that it never confirmed.
func (h *host) confirm() {
	if h.peer.Proposed == h.peer.Secret {
		if stored := h.ls.env.confirm(h.peer); stored.Confirmed() {
			h.peer.Proposed = identity.Secret{}
		}
	}
}

// answerHandshake answers message 1. It may be an old one that the server
// replays, so nothing else follows from it.
func (h *host) answerHandshake(ctx context.Context, g *guest, first []byte) error {
	m, err := identity.NewMeeting(listener, h.ls.env.cfg.Key.Fingerprint(), h.peer, h.box.Name())
	if err != nil {
		return err
	}
	if _, err := m.Read(first); err != nil {
		return err
	}
	second, err := m.Write(nil)
	if err != nil {
		return err
	}
	g.waiting = &encounter{box: h.box, seat: g.seat, ch: m.Channel()}
	return h.box.Send(ctx, g.seat, second)
}

func (h *host) plain(ctx context.Context, g *guest, plain []byte) {
	m, err := decodeMessage(plain)
	if err == nil && m.Offer != nil {
		h.offered(ctx, g, *m.Offer)
		return
	}
	if g.link != nil {
		g.link.receive(viaSignaling, plain) // reports what cannot be decoded
	}
}

// giveUpOne ends a link that seems to be of a process that is no more: without
// signaling and silent. The connector that is refused now finds its place when it
// asks again.
func (h *host) giveUpOne() {
	for _, l := range h.links {
		if l.left.Load() && !l.post.alive.Load() {
			l.end(errReplaced)
			return
		}
	}
}

// succeed ends the links that are over when a run of the peer's machine offers a new one:
// those of runs that it knows to have ended, and an earlier one of its own, which it has
// given up.
func (h *host) succeed(o offer) {
	for _, l := range h.links {
		switch {
		case l.peerRun.IsZero(): // an older peer
		case l.peerRun == o.Run:
			l.end(errReplaced)
		case slices.Contains(o.Ended, l.peerRun):
			l.runEnded()
		}
	}
}

// offered goes on with a link that we still have, or begins a new one.
func (h *host) offered(ctx context.Context, g *guest, o offer) {
	cfg := h.ls.env.cfg
	say := func(a answer) {
		a.Link, a.RelayOnly, a.Direct, a.Run, a.Name = o.Link, cfg.RelayOnly, cfg.RequireDirect, h.ls.env.run, cfg.Name
		if err := g.enc.say(ctx, &message{Answer: &a}); err != nil {
			cfg.Trace.Emit(trace.Failure{Where: "send answer", Err: err.Error()})
		}
	}
	if l := h.links[o.Link]; l != nil {
		g.link = l
		say(answer{Resumed: true})
		l.attach(g.enc)
		return
	}
	if o.Resume {
		say(answer{}) // not known here any more; the connector begins anew
		return
	}
	if g.link != nil {
		g.link.end(errReplaced)
		g.link = nil
	}
	h.succeed(o)
	switch {
	case cfg.RelayOnly && o.Direct, cfg.RequireDirect && o.RelayOnly:
		say(answer{Refused: "one side requires the relay and the other a direct path", Final: true})
		return
	case len(h.links) >= maxLinks:
		h.giveUpOne()
		say(answer{Refused: "too many links of one peer"})
		return
	}
	l, err := newLink(ctx, h.ls.env, listener, h.peer, o)
	if err != nil {
		cfg.Trace.Emit(trace.Failure{Where: "new link with " + h.peer.Name, Err: err.Error()})
		say(answer{Refused: "internal error"})
		return
	}
	l.servers, l.peerRelayOnly = h.servers, o.RelayOnly
	if l.servers.none() {
		l.servers = h.ls.env.serversFor(ctx, nil)
	}
	l.onSession = h.ls.env.serveSession
	g.link = l
	h.links[l.id] = l
	h.ls.env.add(l)
	say(answer{})
	l.meet(g.enc)
	go func() {
		err := l.run() // says in the trace why it ended
		h.ls.env.sighted(h.peer, func(s *sighting) { s.ended = err })
		h.ls.env.remove(l)
		h.ended <- l
	}()
}
