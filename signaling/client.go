package signaling

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// ClientConfig is what a client is made of. Only URL is needed.
type ClientConfig struct {
	URL      string          // as for ParseURL; a token in it counts when Token is empty
	Token    string          // access token of the server
	Software string          // told to the server, cut to 64 bytes
	Trace    *trace.Recorder // nil: nothing is recorded

	MinBackoff time.Duration // before the first retry; 200 ms
	MaxBackoff time.Duration // between retries; 10 s
	Handshake  time.Duration // to connect and be welcomed; 10 s
	Silence    time.Duration // after which a server is given up; 40 s
	Ping       time.Duration // between pings that measure the RTT; 25 s

	// Patient keeps Run going whatever answers at the URL. Before somebody has
	// logged in, a captive portal answers for every server; who starts behind one
	// and can wait is not to end for it. What a signal server itself says is final
	// all the same: ErrUnauthorized, ErrVersion.
	Patient bool

	// Dial opens TCP connections; nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy picks an HTTP proxy; nil: http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is for wss; nil: the roots of the system.
	TLS *tls.Config
}

func (cfg ClientConfig) withDefaults() ClientConfig {
	cfg.MinBackoff = cmp.Or(cfg.MinBackoff, 200*time.Millisecond)
	cfg.MaxBackoff = cmp.Or(cfg.MaxBackoff, 10*time.Second)
	cfg.Handshake = cmp.Or(cfg.Handshake, 10*time.Second)
	cfg.Silence = cmp.Or(cfg.Silence, 40*time.Second)
	cfg.Ping = cmp.Or(cfg.Ping, 25*time.Second)
	cfg.Software = strings.ToValidUTF8(cfg.Software[:min(len(cfg.Software), maxSoftware)], "")
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	return cfg
}

// A kick is the cause of a phase that Kick ended.
type kick struct{ why string }

func (k *kick) Error() string { return "reconnecting, as " + k.why }

// kicked reports whether Kick ended a phase.
func kicked(phase context.Context) bool {
	var k *kick
	return errors.As(context.Cause(phase), &k)
}

// A Client keeps one connection to a signaling server, and the mailboxes in
// it, for as long as Run runs.
type Client struct {
	// constant
	cfg     ClientConfig
	address string // as ParseURL returned it
	token   string
	process string // its run, as the server knows it

	mu        sync.Mutex
	boxes     []*Mailbox // that have not ended
	lastRef   int
	link      *link // the connection, from before the welcome on
	interrupt context.CancelCauseFunc
	running   bool
	stopped   error // why Run ended
	connected bool
	proven    bool // was connected once
	since     time.Time
	lastErr   error
	rtt       time.Duration
	heard     time.Time // when the server was heard last
	checked   time.Time // when Check last asked it
	stun      []string
}

// NewClient checks cfg. Nothing is connected before Run.
func NewClient(cfg ClientConfig) (*Client, error) {
	address, token, err := ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	token = cmp.Or(cfg.Token, token)
	if len(token) > maxToken {
		return nil, fmt.Errorf("signal server %q: the access token has more than %d bytes", address, maxToken)
	}
	return &Client{cfg: cfg.withDefaults(), address: address, token: token, process: randomSeat(), since: time.Now()}, nil
}

// Run connects, and reconnects, until ctx ends, whose cause it then returns,
// or until an error that trying again cannot mend: ErrUnauthorized, ErrVersion,
// or, without Patient, ErrNotSignal before there ever was a connection. All
// mailboxes fail with what it returns. A client runs once.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return errors.New("signaling client runs already")
	}
	c.running = true
	c.mu.Unlock()

	err := c.run(ctx)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = err
	for _, m := range slices.Clone(c.boxes) {
		m.failLocked(err)
	}
	return err
}

func (c *Client) run(ctx context.Context) error {
	for failures := 0; ; {
		next, err := c.round(ctx, failures)
		if err != nil {
			return err
		}
		failures = next
	}
}

// round is one connection, from dialing to its end, and the pause after it.
// Kick interrupts any of it. It is told how many rounds failed before it, and
// returns that number for the next. The error is one that ends Run.
func (c *Client) round(ctx context.Context, failures int) (next int, fatal error) {
	phase, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	c.mu.Lock()
	c.interrupt = interrupt
	c.mu.Unlock()

	c.emitState("connecting", nil)
	ws, err := c.dial(phase)
	if err == nil {
		err = c.serve(phase, ws)
	}
	up := c.lost(err)
	switch {
	case c.fatal(err):
		c.emitState("refused", err)
		return 0, err
	case ctx.Err() != nil: // by our own will, nothing was lost
		return 0, context.Cause(ctx)
	}
	c.emitState("lost", err)
	if up > c.cfg.MaxBackoff/2 { // a good connection: what was before it is forgotten
		failures = 0
	}
	pause(phase, max(backoff(failures, c.cfg.MinBackoff, c.cfg.MaxBackoff, rand.Float64()), retryAfter(err)))
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if kicked(phase) { // a new network
		return 0, nil
	}
	return failures + 1, nil
}

// fatal reports whether trying again cannot help.
func (c *Client) fatal(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrVersion) ||
		errors.Is(err, ErrNotSignal) && !c.proven && !c.cfg.Patient
}

// backoff is the pause after a number of failures: at least least, and at
// random up to a border that doubles each time until it is most.
func backoff(failures int, least, most time.Duration, random float64) time.Duration {
	border := most
	if failures < 16 {
		border = min(most, least<<(failures+1))
	}
	return least + time.Duration(random*float64(max(0, border-least)))
}

// maxRetryAfter bounds how long a server can make a client wait.
const maxRetryAfter = time.Minute

// retryAfter is how long the server asked to wait.
func retryAfter(err error) time.Duration {
	var refused *ServerError
	if errors.As(err, &refused) {
		return min(refused.RetryAfter, maxRetryAfter)
	}
	var busy *busyError
	if errors.As(err, &busy) {
		return min(busy.retryAfter, maxRetryAfter)
	}
	return 0
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Kick drops the connection, or the attempt at one, or the wait for the next
// attempt, and connects at once. It is meant for a change of the network. why is
// the rest of a sentence, "this machine slept".
func (c *Client) Kick(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.interrupt != nil {
		c.interrupt(&kick{why})
	}
}

// State tells whether the server has welcomed us, since when that is so, and
// the last error.
func (c *Client) State() (connected bool, since time.Time, lastErr error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected, c.since, c.lastErr
}

// RTT returns the last round-trip time to the server, 0 when there was none.
func (c *Client) RTT() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rtt
}

// Heard returns when the server was heard last, over this connection or an earlier
// one; zero: never. What it last said of a peer is as old as that.
func (c *Client) Heard() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard
}

// checkGap is the least time between two questions of Check.
const checkGap = 2 * time.Second

// Check asks the server for a sign of life, beside the pings that go out anyhow. It
// does not wait; Heard tells of the answer. More calls within two seconds do nothing.
func (c *Client) Check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.connected && now.Sub(c.checked) >= checkGap {
		c.checked = now
		select {
		case c.link.check <- struct{}{}:
		default: // one is asked for already
		}
	}
}

// STUN returns the STUN servers the server named in its welcome. They are
// known before any peer is.
func (c *Client) STUN() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.stun)
}

// Join takes a seat in a mailbox, with a token made at random. It returns at
// once; the mailbox is joined as soon as there is a connection.
func (c *Client) Join(mailbox string, role Role) *Mailbox {
	return c.JoinSeat(mailbox, role, randomSeat())
}

// JoinSeat is Join with a seat token that the caller keeps: whoever joins with
// the same one later takes the seat over.
func (c *Client) JoinSeat(mailbox string, role Role, seat string) *Mailbox {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.addLocked(&Mailbox{name: mailbox, role: role, seat: seat})
	known := func(o *Mailbox) bool { return o != m && o.name == mailbox }
	if err := checkSeat(mailbox, role, seat); err != nil {
		m.failLocked(err)
	} else if slices.ContainsFunc(c.boxes, known) {
		m.failLocked(ErrAlreadyJoined)
	} else if !m.ended && c.link != nil {
		m.enterLocked(c.link)
	}
	return m
}

// Claim makes this client the host of a nameplate that the server picks, and
// waits until it has. After a reconnection, and even after a restart of the
// server, the mailbox keeps its number if it can.
func (c *Client) Claim(ctx context.Context) (nameplate string, m *Mailbox, err error) {
	c.mu.Lock()
	c.lastRef++
	m = c.addLocked(&Mailbox{role: RoleHost, seat: randomSeat(), ref: c.lastRef})
	if !m.ended && c.link != nil {
		m.enterLocked(c.link)
	}
	c.mu.Unlock()

	select {
	case <-m.named:
	case <-ctx.Done():
		m.Close()
		return "", nil, fmt.Errorf("claim a pairing number: %w", context.Cause(ctx))
	}
	if err := m.Err(); err != nil {
		return "", nil, fmt.Errorf("claim a pairing number: %w", err)
	}
	return m.Name(), m, nil
}

func (c *Client) addLocked(m *Mailbox) *Mailbox {
	m.c = c
	m.events = make(chan Event, eventQueue+1)
	m.named = make(chan struct{})
	c.boxes = append(c.boxes, m)
	if c.stopped != nil {
		m.failLocked(c.stopped)
	}
	return m
}

// attach makes l the connection: hello, and everything else right behind it.
func (c *Client) attach(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	l.push(message{Type: typeHello, Version: Version, Token: c.token, Software: c.cfg.Software})
	for _, m := range c.boxes {
		m.enterLocked(l)
	}
}

// welcomed is the server's yes.
func (c *Client) welcomed(m message, rtt time.Duration) {
	c.mu.Lock()
	c.connected, c.proven, c.since = true, true, time.Now()
	c.stun = m.STUN
	c.rtt, c.heard = rtt, c.since
	c.mu.Unlock()
	c.emitState("connected", nil)
}

// lost is the end of a connection or of an attempt at one. It returns for how
// long the server had welcomed us.
func (c *Client) lost(err error) (up time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connected {
		up = time.Since(c.since)
		c.since = time.Now()
	}
	c.link, c.connected, c.lastErr = nil, false, err
	for _, m := range slices.Clone(c.boxes) {
		m.lostLocked(err)
	}
	return up
}

// dispatch hands a message to its mailbox. Its errors are breaches of the
// protocol.
func (c *Client) dispatch(msg message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.boxes {
		if msg.Ref != 0 && m.ref == msg.Ref || msg.Ref == 0 && msg.Mailbox != "" && m.name == msg.Mailbox {
			return m.heardLocked(msg)
		}
	}
	if l := c.link; l.givenUp[msg.Ref] && (msg.Type == typeClaimed || msg.Type == typeError) {
		delete(l.givenUp, msg.Ref)
		if msg.Type == typeClaimed {
			l.push(message{Type: typeLeave, Mailbox: msg.Mailbox})
		}
	}
	return nil
}

func (c *Client) emitState(state string, err error) {
	e := trace.SignalState{URL: c.address, State: state}
	if err != nil {
		e.Why = reason(err)
	}
	c.cfg.Trace.Emit(e)
}
