package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// The twin is a link in memory: two sides, paths of both kinds with a rate and
// a delay each, streams that share them, datagrams that they lose, counters of
// what crossed them. It is meant for testing/synctest, where time costs none.

// A line is one path of a link, the same both ways.
type line struct {
	mbps  float64
	delay time.Duration
	lose  int // every so many datagrams, 0 is none
	mtu   int
}

// A network is what the two sides of a link have in common.
type network struct {
	began    time.Time
	a, b     *twin
	relay    *twin          // the side whose relay it is
	running  sync.WaitGroup // streams that are served
	relayLeg time.Duration  // the way to the relay's counters and back

	mu     sync.Mutex
	lines  map[string]*line
	silent bool  // nothing gets through any more, and nobody says so
	beside bool  // streams work without a line
	gone   error // the link has ended
	pipes  []*pipe

	relayIn, relayOut uint64 // of the one relay
}

// newNetwork links two sides over lines by kind of path. The relay is b's.
func newNetwork(t *testing.T, lines map[string]*line) *network {
	n := &network{began: time.Now(), lines: lines, relayLeg: 4 * time.Millisecond}
	n.a, n.b = newTwin(n), newTwin(n)
	n.a.peer, n.b.peer, n.relay = n.b, n.a, n.b
	n.b.server = NewServer(n.b, End{Name: "bob", Version: "v2", Machine: Machine{OS: "plan9", CPUs: 3}})
	n.b.serve = func(ctx context.Context, target string, st Accepting) { n.b.server.Serve(ctx, target, st) }
	t.Cleanup(n.running.Wait)
	return n
}

// end ends the link, as when the session is lost.
func (n *network) end(why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = why
	for _, p := range n.pipes {
		p.fail(why)
	}
}

// hush has nothing get through any more.
func (n *network) hush() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent = true
}

// drop takes a path away.
func (n *network) drop(kind string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.lines, kind)
}

// give has a path come about.
func (n *network) give(kind string, l *line) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines[kind] = l
}

// A twin is one side of the link; it is a [Link].
type twin struct {
	net    *network
	peer   *twin
	server *Server
	serve  func(ctx context.Context, target string, st Accepting)

	datagrams   chan []byte
	maxDatagram int
	forbidden   string // kind of path
	denied      string // target of streams that the peer does not allow

	// Guarded by net.mu.
	held    string
	letGo   time.Time // of the relay
	settled bool
	free    map[string]time.Time // when the line takes the next byte
	out     map[string]Classes
	packets uint64
	sent    int // datagrams
}

func newTwin(n *network) *twin {
	return &twin{
		net: n, datagrams: make(chan []byte, 128), maxDatagram: 1200,
		free: map[string]time.Time{}, out: map[string]Classes{Direct: {}, Relayed: {}},
	}
}

// activeLocked is the path that payload takes: the one held, the better one
// else.
func (t *twin) activeLocked() string {
	for _, kind := range []string{t.held, Direct, Relayed} {
		if t.net.lines[kind] != nil {
			return kind
		}
	}
	return ""
}

// transmit puts n bytes on the path in use: when the last of them has left,
// and when it arrives. ok is false where nothing gets through.
func (t *twin) transmit(n int) (left, arrives time.Time, ok bool) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	kind := t.activeLocked()
	if kind == "" && t.net.beside {
		return time.Now(), time.Now(), true
	}
	if kind == "" || t.net.silent {
		return left, arrives, false
	}
	l := t.net.lines[kind]
	left = time.Now()
	if t.free[kind].After(left) {
		left = t.free[kind]
	}
	left = left.Add(time.Duration(float64(n) * 8 / l.mbps * 1e3))
	t.free[kind] = left
	t.out[kind] = t.out[kind].plus(Classes{Payload: uint64(n)})
	t.packets += uint64(n+1199) / 1200
	if kind == Relayed {
		time.AfterFunc(time.Until(left)+l.delay/2, func() {
			t.net.mu.Lock()
			defer t.net.mu.Unlock()
			t.net.relayIn += uint64(n)
			t.net.relayOut += uint64(n)
		})
	}
	return left, left.Add(l.delay), true
}

func (t *twin) Open(ctx context.Context, target string) (Stream, error) {
	if ctx.Err() == nil && t.denied != "" && strings.HasPrefix(target, t.denied) {
		<-ctx.Done() // the peer allows no further stream
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone != nil {
		return nil, n.gone
	}
	there, back := newPipe(), newPipe()
	n.pipes = append(n.pipes, there, back)
	n.running.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		t.peer.serve(ctx, target, &twinStream{side: t.peer, in: there, out: back})
	})
	return &twinStream{side: t, in: back, out: there}, nil
}

func (t *twin) SendDatagram(b []byte) error {
	if len(b) > t.maxDatagram {
		return &session.TooLargeError{Most: t.maxDatagram}
	}
	t.net.mu.Lock()
	gone, l := t.net.gone, t.net.lines[t.activeLocked()]
	t.sent++
	lost := l == nil || l.lose > 0 && t.sent%l.lose == 0
	t.net.mu.Unlock()
	if gone != nil {
		return gone
	}
	left, arrives, ok := t.transmit(len(b))
	if !ok {
		return nil
	}
	time.Sleep(time.Until(left))
	if lost {
		return nil
	}
	b = append([]byte(nil), b...)
	time.AfterFunc(time.Until(arrives), func() {
		select {
		case t.peer.datagrams <- b:
		default:
		}
	})
	return nil
}

func (t *twin) ReceiveDatagrams(ctx context.Context, handle func([]byte)) error {
	for {
		select {
		case b := <-t.datagrams:
			handle(b)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *twin) Hold(kind string) error {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	if kind != "" && kind == t.forbidden {
		return errors.New("not permitted here")
	}
	if t.held == Relayed {
		t.letGo = time.Now()
	}
	t.held = kind
	return t.net.gone
}

func (t *twin) Look() Look {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	active := t.activeLocked()
	look := Look{Active: active, Works: active != "", Out: map[string]Classes{}, PacketsSent: t.packets}
	if active != "" {
		look.MTU = t.net.lines[active].mtu
	}
	probes := Classes{Probes: uint64(time.Since(t.net.began)/time.Millisecond) / 2}
	for kind := range t.net.lines {
		look.Out[kind] = t.out[kind].plus(probes)
	}
	return look
}

func (t *twin) RelayTraffic(ctx context.Context) (in, out uint64, word RelayWord) {
	if t != t.net.relay {
		return 0, 0, RelayNone
	}
	if pause(ctx, t.net.relayLeg) != nil {
		return 0, 0, RelaySilent
	}
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	return t.net.relayIn, t.net.relayOut, RelayTold
}

func (t *twin) Verdict() (v trace.Verdict, settled bool) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	if t.held == Relayed || time.Since(t.letGo) < 100*time.Millisecond { // a path is left with its next probe
		return trace.Verdict{Path: "relayed", Text: "relayed: held there"}, false
	}
	if t.net.lines[Direct] == nil {
		return trace.Verdict{Path: "relayed", Text: "relayed: no direct path", Remedy: "open a port"}, t.settled
	}
	return trace.Verdict{Path: "direct", Text: "direct: punched"}, false
}

// A twinStream is one end of a stream.
type twinStream struct {
	side    *twin
	in, out *pipe
}

// chunk is how much of one stream goes before another's turn.
const chunk = 8 << 10

func (s *twinStream) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		part := b[:min(len(b), chunk)]
		left, arrives, ok := s.side.transmit(len(part))
		if err := s.out.waitWrite(left, ok); err != nil {
			return n, err
		}
		s.out.push(part, arrives)
		n += len(part)
		b = b[len(part):]
	}
	return n, nil
}

func (s *twinStream) Read(b []byte) (int, error) { return s.in.read(b) }

func (s *twinStream) CloseWrite() error {
	_, arrives, ok := s.side.transmit(1)
	if !ok {
		return nil
	}
	return s.out.end(arrives)
}

func (s *twinStream) Reset(c session.Code) {
	err := &session.ResetError{Code: c}
	s.in.fail(err)
	s.out.fail(err)
}

func (s *twinStream) SetDeadline(t time.Time) error {
	s.in.setDeadline(&s.in.readBy, t)
	s.out.setDeadline(&s.out.writeBy, t)
	return nil
}

func (s *twinStream) Accept() error { return nil }

func (s *twinStream) Refuse(c session.Code, reason string) {
	err := &session.RefusedError{Code: c, Reason: reason}
	s.in.fail(err)
	s.out.fail(err)
}

// A pipe is one direction of a stream.
type pipe struct {
	mu      sync.Mutex
	changed *sync.Cond
	queue   []segment
	ended   bool // the end has been read
	err     error
	readBy  time.Time
	writeBy time.Time
}

// A segment is what arrives at once; an empty one is the end.
type segment struct {
	b  []byte
	at time.Time
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) push(b []byte, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, segment{append([]byte(nil), b...), at})
	p.changed.Broadcast()
}

func (p *pipe) end(at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(p.queue, segment{nil, at})
	p.changed.Broadcast()
	return p.err
}

func (p *pipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
}

func (p *pipe) setDeadline(which *time.Time, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*which = t
	p.changed.Broadcast()
}

// waitLocked waits for a change, or until the earlier of two times.
func (p *pipe) waitLocked(a, b time.Time) {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		a = b
	}
	if !a.IsZero() {
		defer time.AfterFunc(time.Until(a), func() {
			p.mu.Lock() // not before Wait
			defer p.mu.Unlock()
			p.changed.Broadcast()
		}).Stop()
	}
	p.changed.Wait()
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// waitWrite waits until what is written has left, which it never does where
// nothing gets through.
func (p *pipe) waitWrite(left time.Time, through bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.err != nil:
			return p.err
		case past(p.writeBy):
			return os.ErrDeadlineExceeded
		case through && past(left):
			return nil
		}
		p.waitLocked(left, p.writeBy)
	}
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var first time.Time
		if len(p.queue) > 0 {
			first = p.queue[0].at
		}
		switch {
		case p.err != nil:
			return 0, p.err
		case past(p.readBy):
			return 0, os.ErrDeadlineExceeded
		case past(first):
			return p.takeLocked(b)
		}
		p.waitLocked(first, p.readBy)
	}
}

// takeLocked takes what has arrived first.
func (p *pipe) takeLocked(b []byte) (int, error) {
	s := &p.queue[0]
	if s.b == nil {
		p.ended = true
		return 0, io.EOF
	}
	n := copy(b, s.b)
	if s.b = s.b[n:]; len(s.b) == 0 {
		p.queue = p.queue[1:]
	}
	return n, nil
}

// held is what the two sides keep their payload on.
func (n *network) held() [2]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return [2]string{n.a.held, n.b.held}
}

// open counts the streams that the serving side has not seen to the end of
// both directions: a session would count them as open for good.
func (n *network) open() (streams int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := 0; i < len(n.pipes); i += 2 {
		in, out := n.pipes[i], n.pipes[i+1]
		in.mu.Lock()
		read := in.ended || in.err != nil
		in.mu.Unlock()
		out.mu.Lock()
		written := out.err != nil || len(out.queue) > 0 && out.queue[len(out.queue)-1].b == nil
		out.mu.Unlock()
		if !read || !written {
			streams++
		}
	}
	return streams
}

var errGone = fmt.Errorf("the session has ended: %w", net.ErrClosed)
