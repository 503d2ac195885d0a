package punch

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/trace"
)

const (
	defaultTimeout  = 10 * time.Second
	defaultFallback = 150 * time.Millisecond
	maxFallback     = 2 * time.Second
	defaultLinger   = 2 * time.Second
)

// Credentials are one side's ICE credentials for one attempt (RFC 8445 section
// 5.3). They reach the peer sealed.
type Credentials struct {
	Ufrag string `json:"ufrag"`
	Pwd   string `json:"pwd"`
}

// NewCredentials returns random ones, 48 bits of ufrag and 144 of password.
func NewCredentials() Credentials {
	word := func(n int) string {
		b := make([]byte, n)
		rand.Read(b) // never fails: crypto/rand ends the process instead
		return base64.RawStdEncoding.EncodeToString(b)
	}
	return Credentials{Ufrag: word(6), Pwd: word(18)}
}

// Config is one attempt.
type Config struct {
	// ID names the attempt in the trace.
	ID string
	// Controlling is the ICE role. The two sides must differ.
	Controlling bool
	// Muxes are the sockets to try, at least one; usually one per family.
	Muxes []*Mux
	// Local and Remote are the credentials of the two sides, of this attempt
	// only.
	Local, Remote Credentials
	// Candidates are the peer's, already filtered. Relayed ones are refused.
	Candidates []candidates.Candidate
	// More brings candidates that the peer trickles later. It may be nil, and
	// may be closed.
	More <-chan candidates.Candidate
	// Allow judges peer-reflexive addresses, as candidates.Filter judged the
	// announced ones. Nil allows all that are a host's at all.
	Allow func(netip.AddrPort) bool
	// OpenerTTL is that of the first packet to each candidate; 0 sends none.
	// See the function OpenerTTL.
	OpenerTTL int
	// Opened tells the peer that our openers are out. It may block until ctx
	// ends; the attempt does not wait for it. Nil tells nobody.
	Opened func(ctx context.Context) error
	// PeerOpened is closed, or delivers, when the peer has told the same.
	PeerOpened <-chan struct{}
	// Fallback is how long PeerOpened is waited for; see the function Fallback.
	// 0 is 150 ms.
	Fallback time.Duration
	// Selected tells the peer that we selected a pair. As with Opened.
	Selected func(ctx context.Context) error
	// PeerSelected is closed, or delivers, when the peer has told the same.
	PeerSelected <-chan struct{}
	// Linger is how long PeerSelected is waited for once we selected. The pair
	// is good without it, so its absence is no failure. 0 is 2 s.
	Linger time.Duration
	// PeerFailed delivers the peer's reason when its side of the attempt ended
	// without success. May be nil.
	PeerFailed <-chan error
	// Timeout ends the attempt unless a pair was selected. 0 is 10 s.
	Timeout time.Duration
	// Trigger is why the attempt is made: TriggerFirst and so on.
	Trigger string
	Trace   *trace.Recorder
}

func (c *Config) validate() error {
	var errs []error
	if len(c.Muxes) == 0 {
		errs = append(errs, errors.New("no mux"))
	}
	errs = append(errs, c.Local.validate("local"), c.Remote.validate("remote"))
	if c.Local.Ufrag == c.Remote.Ufrag {
		errs = append(errs, errors.New("local and remote ufrag are equal"))
	}
	if c.OpenerTTL < 0 || c.OpenerTTL > 255 {
		errs = append(errs, fmt.Errorf("opener ttl %d is not between 0 and 255", c.OpenerTTL))
	}
	if c.Timeout < 0 || c.Fallback < 0 || c.Linger < 0 {
		errs = append(errs, errors.New("negative duration"))
	}
	return errors.Join(errs...)
}

// Result is the pair that was selected.
type Result struct {
	Mux           *Mux
	Local, Remote netip.AddrPort
	Type          candidates.Type // of the remote address; prflx when it was learned
	RTT           time.Duration   // shortest of the checks; 0 when none was measured
	PeerSelected  bool            // the peer said that it selected too
	Counts        Counts
}

// run is one call of Run.
type run struct {
	cfg     Config
	started time.Time
	attempt *attempt
	hosts   *hosts
	agent   *agent

	mu         sync.Mutex
	admitted   int
	refused    int
	openers    int
	peerOpened bool
}

// Run makes one attempt and returns when both sides have selected a pair, or
// when none will be. The error is a *NoPathError when time ran out, wraps
// ErrRoleConflict, ErrPeerFailed or net.ErrClosed (all sockets gone) when that
// ended it, and is the cause of ctx when the caller did. After an error nothing
// of the attempt remains. After success the muxes go on answering the peer's
// checks for 30 s.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.validate(); err != nil {
		return Result{}, fmt.Errorf("attempt %q: %w", cfg.ID, err)
	}
	r := newRun(cfg, time.Now())
	r.cfg.Trace.Emit(r.startedEvent())
	res, err := r.do(ctx)
	if err == nil {
		r.attempt.enter(answering, time.Now().Add(answerFor))
	} else {
		r.attempt.enter(ended, time.Time{})
	}
	r.shut()
	res.Counts, _, _, _ = r.attempt.snapshot()
	r.cfg.Trace.Emit(r.endedEvent(res, err))
	return res, err
}

func newRun(cfg Config, now time.Time) *run {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Fallback == 0 {
		cfg.Fallback = defaultFallback
	}
	if cfg.Linger == 0 {
		cfg.Linger = defaultLinger
	}
	loopback := false
	for _, m := range cfg.Muxes {
		loopback = loopback || m.LocalAddr().Addr().IsLoopback()
	}
	return &run{
		cfg:     cfg,
		started: now,
		attempt: newAttempt(cfg, loopback, now),
		hosts:   &hosts{ufrag: cfg.Local.Ufrag},
	}
}

// do is the order of an attempt: openers, "opened", the wait, the checks,
// "selected", the wait.
func (r *run) do(parent context.Context) (Result, error) {
	ctx, cancel := context.WithCancelCause(parent)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel(nil)

	for _, m := range r.cfg.Muxes {
		c, err := m.open(r.attempt, r.started)
		if err != nil {
			return Result{}, r.errorf(err)
		}
		r.hosts.conns = append(r.hosts.conns, c)
	}
	helpers.Go(func() { r.watch(ctx, cancel) })
	checks, cancelChecks := context.WithTimeoutCause(ctx, r.cfg.Timeout, errTimeout)
	defer cancelChecks()

	var err error
	if r.agent, err = newAgent(checks, r.hosts, r.cfg.Local); err != nil {
		return Result{}, r.failure(err)
	}
	for _, c := range r.cfg.Candidates {
		r.take(checks, c)
	}
	helpers.Go(func() { r.trickle(checks) })
	helpers.Go(func() { r.tell(checks, "opened", r.cfg.Opened) })
	if err := r.awaitOpened(checks); err != nil {
		return Result{}, r.failure(err)
	}

	r.attempt.enter(checking, time.Time{})
	local, remote, err := r.agent.connect(checks, r.cfg.Controlling, r.cfg.Remote)
	if err != nil {
		return Result{}, r.failure(err)
	}
	res := Result{Mux: r.muxAt(local), Local: local, Remote: remote}
	if res.PeerSelected, err = r.awaitSelected(ctx); err != nil {
		return Result{}, r.failure(err)
	}
	res.Type, res.RTT = r.attempt.describe(remote)
	return res, nil
}

// watch ends the attempt for reasons that do not come from the agent.
func (r *run) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	failed := r.cfg.PeerFailed
	for {
		select {
		case <-r.attempt.conflict:
			cancel(ErrRoleConflict)
		case <-r.attempt.deserted:
			cancel(fmt.Errorf("all sockets of the attempt: %w", net.ErrClosed))
		case why, ok := <-failed:
			if !ok {
				failed = nil // closed without a word is no failure
				continue
			}
			cancel(peerFailed(why))
		case <-ctx.Done():
		}
		return
	}
}

func peerFailed(why error) error {
	if why == nil {
		return ErrPeerFailed
	}
	return fmt.Errorf("%w: %w", ErrPeerFailed, why)
}

// take admits a candidate, sends its opener, and only then gives it to the
// agent. It records what becomes of it.
func (r *run) take(ctx context.Context, c candidates.Candidate) {
	c.Addr = canonical(c.Addr)
	if why := r.attempt.admit(c); why != "" {
		r.refuse(c, why)
		return
	}
	opened := r.sendOpeners(ctx, c.Addr)
	if err := r.agent.add(c); err != nil {
		r.refuse(c, err.Error())
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.admitted++
	r.openers += opened
}

// refuse records a candidate that is not used; of a flood, the first few.
func (r *run) refuse(c candidates.Candidate, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused++; r.refused <= maxRefusals {
		r.cfg.Trace.Emit(trace.Candidate{Remote: true, Type: string(c.Type), Addr: c.Addr, Refused: why})
	}
}

// trickle takes the candidates that come later.
func (r *run) trickle(ctx context.Context) {
	for {
		select {
		case c, ok := <-r.cfg.More:
			if !ok {
				return
			}
			r.take(ctx, c)
		case <-ctx.Done():
			return
		}
	}
}

// tell sends a message to the peer. A message that cannot be sent delays the
// peer and ends nothing.
func (r *run) tell(ctx context.Context, what string, f func(context.Context) error) {
	if f == nil {
		return
	}
	if err := f(ctx); err != nil && ctx.Err() == nil {
		r.cfg.Trace.Emit(trace.Failure{Where: "punch: tell the peer " + what, Err: err.Error()})
	}
}

// awaitOpened waits until the peer's routers are ready for our checks: it said
// so, its own checks arrive, or it takes too long.
func (r *run) awaitOpened(ctx context.Context) error {
	since := time.Now()
	t := time.NewTimer(r.cfg.Fallback)
	defer t.Stop()
	peer := true
	select {
	case <-r.cfg.PeerOpened:
	case <-r.attempt.heardPeer:
	case <-t.C:
		peer = false
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peerOpened = peer
	r.cfg.Trace.Emit(trace.AttemptOpened{ID: r.cfg.ID, Sent: r.openers, Peer: peer, WaitMS: time.Since(since).Milliseconds()})
	return nil
}

// awaitSelected tells the peer that we selected and waits for it to say the
// same. Our agent keeps answering meanwhile: were it closed now, a peer whose
// last answers were lost would never connect.
func (r *run) awaitSelected(ctx context.Context) (peer bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.Linger, errTimeout)
	defer cancel()
	told := make(chan struct{})
	go func() {
		defer close(told)
		r.tell(ctx, "selected", r.cfg.Selected)
	}()
	select {
	case <-r.cfg.PeerSelected:
		<-told
		return true, nil
	case <-ctx.Done():
		<-told
		if cause := context.Cause(ctx); cause != errTimeout {
			return false, cause
		}
		return false, nil
	}
}

// failure makes of why do ended the error that Run returns.
func (r *run) failure(err error) error {
	if !errors.Is(err, errTimeout) {
		return r.errorf(err)
	}
	e := &NoPathError{After: time.Since(r.started)}
	e.Counts, e.Heard, e.Exhausted, e.SendErr = r.attempt.snapshot()
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Candidates, e.PeerOpened = r.admitted, r.peerOpened
	return e
}

func (r *run) errorf(err error) error { return fmt.Errorf("attempt %q: %w", r.cfg.ID, err) }

// shut ends the agent, and the attempt's part of each mux.
func (r *run) shut() {
	if r.agent != nil {
		if err := r.agent.close(); err != nil {
			r.cfg.Trace.Emit(trace.Failure{Where: "punch: close", Err: err.Error()})
		}
	}
	r.hosts.Close()
	for _, c := range r.hosts.conns {
		c.mux.sweep(time.Now())
	}
}

func (r *run) muxAt(local netip.AddrPort) *Mux {
	for _, m := range r.cfg.Muxes {
		if canonical(m.LocalAddr()) == local {
			return m
		}
	}
	return nil
}

func (r *run) startedEvent() trace.AttemptStarted {
	e := trace.AttemptStarted{ID: r.cfg.ID, Opener: r.cfg.OpenerTTL, Trigger: r.cfg.Trigger}
	for _, m := range r.cfg.Muxes {
		e.Local = append(e.Local, m.LocalAddr())
	}
	for _, c := range r.cfg.Candidates[:min(len(r.cfg.Candidates), maxRemote)] {
		e.Remote = append(e.Remote, c.Addr)
	}
	return e
}

func (r *run) endedEvent(res Result, err error) trace.AttemptEnded {
	e := trace.AttemptEnded{
		ID: r.cfg.ID, OK: err == nil, Local: res.Local, Remote: res.Remote, Type: string(res.Type),
		Sent: res.Counts.ChecksSent, Received: res.Counts.ChecksReceived, MS: time.Since(r.started).Milliseconds(),
	}
	if err != nil {
		e.Why = err.Error()
	}
	return e
}
