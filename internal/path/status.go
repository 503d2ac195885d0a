package path

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

type counter = atomic.Uint64

// traffic counts bytes of UDP payload, by what they are.
type traffic struct {
	Payload   counter // QUIC packets
	Fragments counter // QUIC packets in pieces, with our headers
	Probes    counter // probes and answers
	Replays   counter // QUIC packets sent again by us; out only
}

// Bytes are bytes of UDP payload that crossed a path in one direction.
type Bytes struct {
	Payload   uint64 `json:"payload"`
	Fragments uint64 `json:"fragments"`
	Probes    uint64 `json:"probes"`
	Replays   uint64 `json:"replays"`
}

// Total is their sum.
func (b Bytes) Total() uint64 { return b.Payload + b.Fragments + b.Probes + b.Replays }

func (t *traffic) bytes() Bytes {
	return Bytes{t.Payload.Load(), t.Fragments.Load(), t.Probes.Load(), t.Replays.Load()}
}

// A Status is what is known of one path.
type Status struct {
	ID        int            `json:"id"`
	Kind      Kind           `json:"kind"`
	Hops      int            `json:"relay_hops"`
	Stream    bool           `json:"stream,omitempty"` // one of its relays is reached over TCP or TLS
	Carrier   string         `json:"carrier"`          // the carrier's network
	Local     netip.AddrPort `json:"local"`
	Remote    netip.AddrPort `json:"remote"`
	State     State          `json:"state"`
	Since     time.Time      `json:"since"`     // in this state
	Active    bool           `json:"active"`    // payload goes here
	Duplicate bool           `json:"duplicate"` // and here, while the active one is suspect
	Warm      bool           `json:"warm"`      // probed every second: in use, or ready to take over
	RTT       time.Duration  `json:"rtt_ns"`
	Size      int            `json:"size"`             // largest datagram proved
	Tunnel    string         `json:"tunnel,omitempty"` // interface of this host, a tunnel, that its packets leave by
	Barred    string         `json:"barred,omitempty"` // why payload never goes there, while that is so
	InTunnel  bool           `json:"in_tunnel"`        // it goes through a tunnel, here or at the peer
	Silent    time.Duration  `json:"silent_ns"`
	Answered  time.Time      `json:"answered"` // when a probe was last answered; later, if none was sent for a while
	GSO       *bool          `json:"gso"`      // sends of many datagrams are cut by the kernel
	GRO       *bool          `json:"gro"`      // what arrives together is read together
	In        Bytes          `json:"in"`
	Out       Bytes          `json:"out"`
}

// An Event is the kind of a Change.
type Event string

// The events.
const (
	Added         Event = "added"     // a path became usable
	Suspected     Event = "suspected" // its probes are not answered any more
	Recovered     Event = "recovered" // and are again
	Died          Event = "died"      // it was silent for too long
	Closed        Event = "closed"    // it is taken out of use
	Moved         Event = "moved"     // payload goes elsewhere now
	Rerouted      Event = "rerouted"  // it goes through a tunnel now, or no longer does
	Barred        Event = "barred"    // it carries our own packets, and is not used
	Cleared       Event = "cleared"   // it does not, after all
	CarrierFailed Event = "carrier-failed"
)

// A Change is told to Config.OnChange.
type Change struct {
	Event   Event
	Path    Status // the path it is about; after Moved where payload goes, ID 0 when nowhere
	From    Status // Moved: where it went before, ID 0 when nowhere
	Why     string
	Carrier Carrier // CarrierFailed
	Err     error   // CarrierFailed
}

// Losses counts what a Conn dropped since its start.
type Losses struct {
	Untrusted uint64 `json:"untrusted"` // datagrams of sources that have not proved to be the peer
	Forged    uint64 `json:"forged"`    // probes with our link's name and a wrong signature
	Replayed  uint64 `json:"replayed"`  // probes that were seen before
	Malformed uint64 `json:"malformed"` // datagrams and fragments that are nothing we know
	Queue     uint64 `json:"queue"`     // datagrams that QUIC was too slow for
	NoPath    uint64 `json:"no_path"`   // writes while there was no path
	Sends     uint64 `json:"sends"`     // batches that a carrier refused
	TooLarge  uint64 `json:"too_large"` // datagrams that no splitting makes fit
	Joins     uint64 `json:"joins"`     // datagrams of which a fragment never came
	Joined    uint64 `json:"joined"`    // not lost: datagrams made of fragments
	Changes   uint64 `json:"changes"`   // changes that OnChange was too slow for
}

type losses struct {
	untrusted, forged, replayed, malformed, queue, noPath, sends, tooLarge, changes counter
}

// Losses returns the counts.
func (c *Conn) Losses() Losses {
	return Losses{
		Untrusted: c.lost.untrusted.Load(),
		Forged:    c.lost.forged.Load(),
		Replayed:  c.lost.replayed.Load(),
		Malformed: c.lost.malformed.Load() + c.in.join.malformed.Load(),
		Queue:     c.lost.queue.Load(),
		NoPath:    c.lost.noPath.Load(),
		Sends:     c.lost.sends.Load(),
		TooLarge:  c.lost.tooLarge.Load(),
		Joins:     c.in.join.incomplete.Load(),
		Joined:    c.in.join.joined.Load(),
		Changes:   c.lost.changes.Load(),
	}
}

// KernelDrops is how many datagrams the kernel had no buffer for, on all
// carriers since New.
func (c *Conn) KernelDrops() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.drops
	for _, k := range c.carriers {
		n += k.kernelDrops()
	}
	return n
}

// Status returns all paths, oldest first.
func (c *Conn) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Status, 0, len(c.engine.paths))
	for _, t := range c.engine.paths {
		out = append(out, c.status(t))
	}
	return out
}

// Active returns the path that payload takes, if there is one.
func (c *Conn) Active() (Status, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.engine.byID(c.engine.cur.primary)
	if t == nil {
		return Status{}, false
	}
	return c.status(t), true
}

// status is called with mu held.
func (c *Conn) status(t *track) Status {
	now := c.now()
	s := Status{
		ID:        t.id,
		Kind:      Direct,
		Hops:      t.hops(),
		Stream:    t.stream(),
		Remote:    t.key.remote,
		State:     t.state,
		Since:     c.start.Add(t.since),
		Active:    t.id == c.engine.cur.primary,
		Duplicate: t.id == c.engine.cur.duplicate,
		Warm:      t.care >= warm,
		RTT:       t.rtt,
		Size:      t.size.proven,
		Tunnel:    t.tunnel,
		InTunnel:  t.inTunnel(),
		Silent:    now - max(t.answeredAt, t.heardAt),
		Answered:  c.start.Add(t.silentSince()),
	}
	if s.Hops > 0 {
		s.Kind = Relayed
	}
	if t.cleared.barred {
		s.Barred = whyBarred
	}
	if p := c.paths[t.id]; p != nil {
		s.Carrier, s.Local = p.carrier.Network(), p.carrier.LocalAddr()
		if n, ok := p.carrier.Carrier.(Counting); ok {
			gso, gro := n.Offload()
			s.GSO, s.GRO = &gso, &gro
		}
		s.In, s.Out = p.in.bytes(), p.out.bytes()
	}
	return s
}

func (c *Conn) tracePath(t *track) trace.Path { return tracePath(c.status(t)) }

func tracePath(s Status) trace.Path {
	return trace.Path{
		ID: s.ID, Kind: string(s.Kind), Carrier: s.Carrier, Local: s.Local, Remote: s.Remote, Hops: s.Hops, Stream: s.Stream,
		Tunnel: s.Tunnel, InTunnel: s.InTunnel,
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
