package agent

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/trouble"
	"github.com/p2pagent/p2pagent/signaling"
)

// environment is what all links of one process share.
type environment struct {
	cfg    Config
	run    identity.RunID // of this process
	client *signaling.Client
	paired chan struct{} // gets a value when this process stored a new peer

	tunnels atomic.Pointer[candidates.Tunnels] // as watchNetwork saw them last; nil: not yet

	mu        sync.Mutex
	links     []*link
	kicked    time.Time             // when we last reconnected to signaling of our own accord
	port      int                   // --udp-port, until it is taken
	freed     time.Time             // when a link was ended for its memory
	changed   chan struct{}         // closed and replaced at every change
	sightings map[contact]*sighting // of those that this process waits for
	binds     bindTable
	names     map[candidates.URI]addresses // of servers, as they were last found
}

// newEnvironment prepares what links share. patient: whatever answers at the address
// of the signaling server, it is tried again.
func newEnvironment(cfg Config, patient bool) (*environment, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	client, err := signaling.NewClient(signaling.ClientConfig{URL: cfg.SignalURL, Software: "p2pagent/" + cfg.Version, Trace: cfg.Trace, Patient: patient})
	if err != nil {
		return nil, err
	}
	return &environment{
		cfg: cfg, run: identity.NewRunID(), client: client, port: cfg.UDPPort, paired: make(chan struct{}, 1), changed: make(chan struct{}),
		sightings: make(map[contact]*sighting),
	}, nil
}

// takePort gives the fixed port to the first link that asks.
func (e *environment) takePort() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.port
	e.port = 0
	return p
}

// add counts a link among the live ones; remove ends that, and takes a fixed
// port back when the last one is gone.
func (e *environment) add(l *link) {
	e.mu.Lock()
	e.links = append(e.links, l)
	e.mu.Unlock()
	e.notify()
}

func (e *environment) remove(l *link) {
	e.mu.Lock()
	e.links = slices.DeleteFunc(e.links, func(o *link) bool { return o == l })
	if len(e.links) == 0 {
		e.port = e.cfg.UDPPort
	}
	e.mu.Unlock()
	e.notify()
}

// live returns the links there are.
func (e *environment) live() []*link {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.links)
}

// kick reconnects to the signaling server, whose connection may have died with
// a NAT's mapping. A link alone cannot tell: while another one works, or when it
// was done lately, nothing happens.
func (e *environment) kick() {
	e.mu.Lock()
	now := time.Now()
	busy := now.Before(e.kicked.Add(kickGap)) ||
		slices.ContainsFunc(e.links, func(l *link) bool { return l.post.alive.Load() })
	if !busy {
		e.kicked = now
	}
	e.mu.Unlock()
	if !busy {
		e.client.Kick("no path to a peer answers")
	}
}

// sessions reports whether any link has its session up.
func (e *environment) sessions() bool {
	return slices.ContainsFunc(e.live(), func(l *link) bool { return l.session.Load() != nil })
}

// runSignaling keeps the connection to the signaling server. When the server
// refuses us for good, that is the end of the process, but not of links that
// live: the server is not trusted with those. So it waits for them first.
func (e *environment) runSignaling(ctx context.Context) error {
	err := fatalSignaling(e.client.Run(ctx))
	if err == nil || ctx.Err() != nil {
		return nil
	}
	e.cfg.Trace.Emit(trace.Failure{Where: "signaling", Err: err.Error()})
	for {
		changed := e.change()
		if !e.sessions() {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// notify wakes whoever waits for a change.
func (e *environment) notify() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

// change returns a channel that is closed at the next change. Take it before
// looking at what may change.
func (e *environment) change() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// tellTrouble is for a trouble.Episode: it records what passes by itself.
func (e *environment) tellTrouble(where string) func(why string) {
	return func(why string) { e.cfg.Trace.Emit(trace.Trouble{Where: where, Why: why}) }
}

// watchNetwork tells the links when this machine's addresses change (routes are
// not looked at), or when it slept.
func (e *environment) watchNetwork(ctx context.Context) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	unseen := trouble.NewEpisode(e.tellTrouble("list the addresses of this machine"))
	defer unseen.Stop()
	var w networkWatch
	for {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			unseen.Failed(err) // the next look is later than any rest
		} else {
			unseen.Worked()
		}
		changed, slept := w.look(time.Now(), addrs, err)
		if changed || e.tunnels.Load() == nil {
			e.lookAtTunnels() // before the links act on it
		}
		if changed || slept > 0 {
			why := "this machine's addresses changed"
			if !changed {
				why = "this machine slept"
			}
			e.client.Kick(why)
			for _, l := range e.live() {
				l.networkChanged()
				if slept > 0 {
					l.wokeUp(slept)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// lookAtTunnels lists this machine's tunnels anew. An error leaves what was known.
func (e *environment) lookAtTunnels() candidates.Tunnels {
	t, err := candidates.LocalTunnels()
	if err == nil {
		e.tunnels.Store(&t)
	}
	return t
}

// tunnelTo returns the name of this machine's tunnel interface by which packets
// to dst leave now, or "". It looks up a route, and nothing else that could take
// its time.
func (e *environment) tunnelTo(dst netip.Addr) string {
	if t := e.tunnels.Load(); t != nil {
		return t.To(dst)
	}
	return e.lookAtTunnels().To(dst)
}

// A networkWatch compares one look at this machine's network with the last one.
type networkWatch struct {
	addrs string // as fingerprintOf has them; empty: not known yet
	at    time.Time
}

// look takes what is there now. changed: an address of ours came or went. slept: for how
// long the wall clock ran ahead of the monotonic one, or nobody looked, when that is
// more than delay; 0: it is not. An error
// says nothing of the network: what was known before stays in force.
func (w *networkWatch) look(now time.Time, addrs []net.Addr, err error) (changed bool, slept time.Duration) {
	if !w.at.IsZero() {
		wall, awake := now.Round(0).Sub(w.at.Round(0)), now.Sub(w.at)
		if wall > awake+2*watchInterval || awake > 5*watchInterval {
			slept = max(wall, awake) - watchInterval
		}
	}
	w.at = now
	if err != nil {
		return false, slept
	}
	before := w.addrs
	w.addrs = fingerprintOf(addrs)
	return before != "" && before != w.addrs, slept
}

// fingerprintOf is a text that differs when an address does. It is never empty.
func fingerprintOf(addrs []net.Addr) string {
	texts := []string{"addresses:"}
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	slices.Sort(texts[1:])
	return strings.Join(texts, " ")
}
