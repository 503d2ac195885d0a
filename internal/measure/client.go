package measure

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

const (
	// holdWithin is how long both sides may take to have moved, where the
	// path is there.
	holdWithin = 5 * time.Second

	// streamWithin is how long the peer may take to allow a stream.
	streamWithin = 10 * time.Second

	// settle is how long what is on its way may use the path it was sent over.
	settle = 150 * time.Millisecond

	// endWithin is how long the peer may take to end a measurement.
	endWithin = 2 * time.Second

	pollEvery = 20 * time.Millisecond

	// maxFailing is after how many rounds in a row without a result a path is
	// measured no more.
	maxFailing = 3
)

// ErrNotMeasured is what [Run] returns, with a report of the rest, when a path
// that was asked for could not be measured.
var ErrNotMeasured = errors.New("not measured")

// A Progress is how a measurement stands, every second.
type Progress struct {
	Path      string
	Round     int // from 1
	Rounds    int // of all paths
	Mbps      float64
	Remaining time.Duration // of all rounds, about
}

// A Plan is what to measure.
type Plan struct {
	Options
	Path     string        // the one to measure without Compare; "" is the one in use
	Wait     time.Duration // for a path to come about
	Progress func(Progress)
}

// Run measures a link. The report is whole as far as it goes, whatever the
// error: [ErrNotMeasured] for a path that is not there, or why it ended early.
func Run(ctx context.Context, link Link, self End, plan Plan) (*Report, error) {
	st, err := openWithin(ctx, link, targetControl, streamWithin)
	if err != nil {
		return nil, fmt.Errorf("begin to measure: %w", err)
	}
	defer context.AfterFunc(ctx, func() { st.SetDeadline(time.Now()) })()
	c := &client{link: link, plan: plan, control: st, began: time.Now(), failing: map[string]failing{}}
	defer c.end(ctx)
	c.report = &Report{
		Rounds: []Round{}, Time: c.began.UTC().Truncate(time.Second), Options: plan.Options,
		Machine: self.Machine, Version: self.Version,
	}
	res, err := c.ask(ctx, request{Hello: &End{Version: self.Version}})
	if err == nil && res.Hello == nil {
		err = errors.New("the peer did not say hello")
	}
	if err != nil {
		return nil, fmt.Errorf("begin to measure: %w", err)
	}
	c.self, c.peer = self, res.Hello.introduced()
	err = c.run(ctx)
	link.Hold("") // the peer lets go with the control stream
	if end := c.ended(ctx); end != nil {
		c.cut(end)
	}
	c.summarize()
	return c.report, err
}

// openWithin opens a stream, which takes until the peer allows one more.
func openWithin(ctx context.Context, link Link, target string, within time.Duration) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return link.Open(ctx, target)
}

// end ends the control stream, and waits until the peer is free for the next
// measurement.
func (c *client) end(ctx context.Context) {
	c.control.CloseWrite()
	c.control.SetDeadline(time.Now().Add(endWithin))
	if c.lost == nil && ctx.Err() == nil {
		awaitEnd(c.control) // whatever it is, this measurement is over
	}
}

// A client is one measurement from its measuring side.
type client struct {
	link    Link
	plan    Plan
	control Stream
	lost    error // why nothing more can be asked or measured
	began   time.Time
	self    End
	peer    End

	unheld  trace.Verdict // the last one that no hold on the relay is behind
	onRelay bool          // payload has been held there since

	paths   []string // that are asked for, as soon as that is known
	done    int      // rounds so far
	halves  []pair
	failing map[string]failing // by kind of path
	report  *Report
}

// failing is a kind of path whose last rounds had no result.
type failing struct {
	rounds int // in a row
	err    error
}

// pair is what both sides saw of one round.
type pair struct {
	round       int // index into the report's
	spec        roundSpec
	mine, their *half
}

// ask sends one request and waits for its answer. After an error that is not
// the peer's answer there are no further requests: a late answer would be taken
// for that to the next one.
func (c *client) ask(ctx context.Context, req request) (*response, error) {
	if c.lost != nil {
		return nil, c.lost
	}
	wait := 2 * drainFor
	if c.plan.Seconds > 0 {
		wait += seconds(c.plan.Seconds)
	}
	c.control.SetDeadline(time.Now().Add(wait))
	if ctx.Err() != nil { // Run's own deadline came before this one
		return nil, context.Cause(ctx)
	}
	var res response
	err := writeFrame(c.control, req)
	if err == nil {
		err = readFrame(c.control, &res)
	}
	if err != nil {
		c.lost = c.why(ctx, fmt.Errorf("ask the peer: %w", err))
		return nil, c.lost
	}
	if res.Error != "" {
		return nil, fmt.Errorf("the peer says: %q", clip(res.Error))
	}
	return &res, nil
}

func (c *client) why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ended is why nothing more can be measured, nil while it can.
func (c *client) ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.lost
}

// run measures the paths in turn, so that what changes meanwhile hits all of
// them.
func (c *client) run(ctx context.Context) error {
	c.note()
	c.paths = []string{c.plan.Path}
	switch {
	case c.plan.Compare:
		c.paths = []string{Direct, Relayed}
	case c.plan.Path == "":
		c.paths = nil
		kind, err := c.inUse(ctx)
		if err != nil {
			return err
		}
		c.paths = []string{kind}
	}
	var missing error
	var there []string
	for _, kind := range c.paths {
		err := c.hold(ctx, kind, c.plan.Wait)
		if end := c.ended(ctx); end != nil {
			return end
		}
		if err != nil {
			missing = errors.Join(missing, c.miss(kind, err))
			continue
		}
		there = append(there, kind)
	}
	total := c.plan.Rounds * len(there)
	for range c.plan.Rounds {
		for _, kind := range there {
			c.done++
			if c.failing[kind].rounds == maxFailing {
				continue
			}
			if err := c.measure(ctx, kind, total); err != nil {
				return err
			}
		}
	}
	for _, kind := range there {
		if !c.has(kind) {
			missing = errors.Join(missing, c.miss(kind, fmt.Errorf("%s path: no round had a result, at last: %w", kind, c.failing[kind].err)))
		}
	}
	return missing
}

// has reports whether a path has a result.
func (c *client) has(kind string) bool {
	return slices.ContainsFunc(c.halves, func(p pair) bool { return p.spec.Path == kind })
}

// cut puts into the report that the measurement ended before its time, and why. A path
// that has no result by then has none for that reason, if for no other.
func (c *client) cut(why error) {
	c.report.Cut = why.Error()
	for _, kind := range c.paths {
		if !c.has(kind) && c.report.Missing[kind] == "" {
			c.miss(kind, fmt.Errorf("it ended before a round of it did: %w", why))
		}
	}
}

// note keeps the verdict of a moment when payload is not held on the relay.
func (c *client) note() {
	c.unheld, _ = c.link.Verdict()
	c.onRelay = false
}

// verdict is which path the link takes, and why, when nothing is measured. While payload
// is held on the relay, and for a moment after that, the link's own verdict is on that.
func (c *client) verdict() trace.Verdict {
	if now, _ := c.link.Verdict(); now.Path != Relayed || !c.onRelay {
		return now
	}
	return c.unheld
}

// miss puts into the report why a path has no figures.
func (c *client) miss(kind string, why error) error {
	if c.report.Missing == nil {
		c.report.Missing = map[string]string{}
	}
	c.report.Missing[kind] = strings.TrimPrefix(why.Error(), kind+" path: ")
	return why
}

// inUse waits until the link has found the path that it will keep.
func (c *client) inUse(ctx context.Context) (string, error) {
	for deadline := time.Now().Add(c.plan.Wait); ; {
		look := c.link.Look()
		_, settled := c.link.Verdict()
		late := time.Now().After(deadline)
		switch {
		case look.Works && (look.Active == Direct || settled || late):
			c.note()
			return look.Active, nil
		case late:
			return "", fmt.Errorf("%w: no path works", ErrNotMeasured)
		}
		if _, err := c.ask(ctx, request{Look: true}); err != nil { // which notices that the link has ended
			return "", err
		}
		if err := pause(ctx, pollEvery); err != nil {
			return "", err
		}
	}
}

// hold has both sides send over a kind of path, and waits until they do.
func (c *client) hold(ctx context.Context, kind string, within time.Duration) (err error) {
	c.onRelay = c.onRelay || kind == Relayed
	defer func() {
		if kind == Direct && c.ended(ctx) == nil {
			c.note() // it is there, or known not to be
		}
	}()
	switch err := c.link.Hold(kind); {
	case errors.Is(err, net.ErrClosed):
		c.lost = fmt.Errorf("%s path: %w", kind, err)
		return c.lost
	case err != nil:
		return fmt.Errorf("%s path: %w: %w", kind, ErrNotMeasured, err)
	}
	if _, err := c.ask(ctx, request{Hold: &kind}); err != nil {
		return fmt.Errorf("%s path: %w: %w", kind, ErrNotMeasured, err)
	}
	for deadline := time.Now().Add(within); ; {
		mine := c.link.Look()
		res, err := c.ask(ctx, request{Look: true})
		if err != nil {
			return fmt.Errorf("%s path: %w", kind, err)
		}
		if theirs := res.Look; theirs != nil && mine.Active == kind && mine.Works && theirs.Active == kind && theirs.Works {
			break
		}
		_, settled := c.link.Verdict()
		if time.Now().After(deadline) || kind == Direct && mine.Active == Relayed && settled {
			return fmt.Errorf("%s path: %w: there is none", kind, ErrNotMeasured)
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
	return pause(ctx, settle)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// measure runs one round. A round that a change of path spoiled is run once
// more, and then told as it is. The error is why nothing more can be measured.
func (c *client) measure(ctx context.Context, kind string, total int) error {
	r, p, err := c.round(ctx, kind, total)
	if end := c.ended(ctx); err != nil && end == nil {
		r, p, err = c.round(ctx, kind, total)
	}
	if end := c.ended(ctx); end != nil {
		return end
	}
	if err != nil {
		r.Error = err.Error()
		c.failing[kind] = failing{c.failing[kind].rounds + 1, err}
	} else {
		p.round = len(c.report.Rounds)
		c.halves = append(c.halves, p)
		delete(c.failing, kind)
	}
	c.report.Rounds = append(c.report.Rounds, r)
	return nil
}

// round is one measurement of one path.
func (c *client) round(ctx context.Context, kind string, total int) (r Round, p pair, err error) {
	o := c.plan.Options
	r = Round{Path: kind, Direction: o.Direction, Start: time.Since(c.began).Seconds()}
	if err := c.hold(ctx, kind, holdWithin); err != nil {
		return r, p, err
	}
	pings, err := openWithin(ctx, c.link, targetEcho, streamWithin)
	if err != nil {
		return r, p, c.why(ctx, err)
	}
	defer pings.CloseWrite()
	defer context.AfterFunc(ctx, func() { pings.Reset(session.CodeShutdown) })()
	if r.RTTs, err = ping(ctx, pings, idlePings, idleEvery); err != nil {
		return r, p, fmt.Errorf("ping: %w", c.why(ctx, err))
	}
	p.spec = roundSpec{
		ID: rand.Text()[:16], Path: kind, Seconds: o.Seconds, Skip: o.Skip, Streams: o.Streams, UDPMbps: o.UDPMbps,
		Send: o.Direction != "receive", Receive: o.Direction != "send",
	}
	relay := countRelay(ctx, c.link, p.spec)
	r.Start = time.Since(c.began).Seconds()
	if _, err := c.ask(ctx, request{Start: &p.spec}); err != nil {
		return r, p, err
	}
	s := begin(ctx, c.link, p.spec, relay)
	if r.LoadedRTTs, err = c.load(ctx, s, pings, total); err != nil {
		s.abandon()
		return r, p, fmt.Errorf("ping: %w", c.why(ctx, err))
	}
	if p.mine, err = s.finish(ctx); err != nil {
		return r, p, err
	}
	if p.their, err = c.theirs(ctx, s); err != nil {
		return r, p, err
	}
	if p.spoiled() {
		return r, p, errors.New("the path in use changed meanwhile")
	}
	r.Result = p.result(r.RTTs)
	return r, p, nil
}

// load has the streams of a round run, and pings beside them.
func (c *client) load(ctx context.Context, s *side, pings Stream, total int) ([]float64, error) {
	if s.spec.UDPMbps == 0 {
		c.open(ctx, s)
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	beside.Go(func() { c.tell(ctx, s, total) })
	beside.Go(func() {
		select {
		case <-s.counted:
			stop()
		case <-ctx.Done():
		}
	})
	return ping(ctx, pings, 0, pingEvery)
}

// theirs is what the other side saw of a round.
func (c *client) theirs(ctx context.Context, s *side) (*half, error) {
	res, err := c.ask(ctx, request{Finish: s.spec.ID})
	if err != nil {
		return nil, err
	}
	if res.Half == nil {
		return nil, errors.New("the peer reported nothing")
	}
	if err := res.Half.check(s.wrote.Load()); err != nil {
		return nil, fmt.Errorf("the peer reported %w", err)
	}
	return res.Half, nil
}

// open starts the streams of a round.
func (c *client) open(ctx context.Context, s *side) {
	for range s.spec.Streams {
		if s.spec.Send {
			c.openOne(ctx, s, targetReceive, s.send)
		}
		if s.spec.Receive {
			c.openOne(ctx, s, targetSend, s.take)
		}
	}
}

func (c *client) openOne(ctx context.Context, s *side, target string, move func(Stream)) {
	if !s.join() {
		s.fail(errors.New("the round was over before its streams were open"))
		return
	}
	st, err := openWithin(ctx, c.link, target+s.spec.ID, time.Until(s.start.Add(s.spec.span())))
	if err != nil {
		s.fail(err)
		s.streams.Done()
		return
	}
	go move(st) // finish waits for it
}

// tell reports the progress of a round.
func (c *client) tell(ctx context.Context, s *side, total int) {
	if c.plan.Progress == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	moved := func() uint64 { return s.meter.all.Load() + s.wrote.Load() }
	last, at := uint64(0), s.start
	report := func(now time.Time) {
		n := moved()
		left := s.start.Add(s.spec.span()).Sub(now) + time.Duration(total-c.done)*s.spec.span()
		c.plan.Progress(Progress{
			Path: s.spec.Path, Round: c.done, Rounds: total,
			Mbps: megabits(n-last, now.Sub(at).Seconds()), Remaining: max(0, left),
		})
		last, at = n, now
	}
	for {
		select {
		case now := <-tick.C:
			report(now)
		case <-ctx.Done():
			if now := time.Now(); now.Sub(at) > time.Second/4 {
				report(now)
			}
			return
		}
	}
}
