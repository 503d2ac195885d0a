package agent

import (
	"context"
	"time"

	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/path"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/relay"
)

// trafficTimeout bounds the question to the relay what it counted.
const trafficTimeout = 3 * time.Second

// Measure measures the link as plan says, as soon as there is a session; see
// [measure.Run].
func (c *Connector) Measure(ctx context.Context, plan measure.Plan) (*measure.Report, error) {
	for {
		changed := c.env.change()
		for _, l := range c.env.live() {
			if s := l.session.Load(); s != nil {
				report, err := measure.Run(ctx, measured{l, s}, c.env.end(), plan)
				if report != nil {
					report.Peer = l.peer.Name
				}
				return report, err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// measuring answers the peer's measurements of a link.
func (e *environment) measuring(l *link, s *session.Session) *measure.Server {
	return measure.NewServer(measured{l, s}, e.end())
}

// end is what this side tells of itself.
func (e *environment) end() measure.End {
	return measure.End{Name: e.cfg.Name, Version: e.cfg.Version, Machine: measure.ThisMachine()}
}

// measured is a link and its session as package measure sees them.
type measured struct {
	*link
	session *session.Session
}

var _ measure.Link = measured{}

func (m measured) Open(ctx context.Context, target string) (measure.Stream, error) {
	return m.session.Open(ctx, session.Header{Kind: session.KindMeasure, Target: target})
}

func (m measured) SendDatagram(b []byte) error {
	return m.session.SendDatagram(session.KindMeasure, b)
}

func (m measured) ReceiveDatagrams(ctx context.Context, handle func([]byte)) error {
	return m.session.ReceiveDatagrams(ctx, session.KindMeasure, handle)
}

func (m measured) Hold(kind string) error { return m.conn.Hold(path.Kind(kind)) }

func (m measured) Look() measure.Look {
	stats := m.session.Stats()
	look := measure.Look{
		Out:         make(map[string]measure.Classes),
		PacketsSent: stats.PacketsSent, PacketsLost: stats.PacketsLost,
		SocketDrops: m.conn.KernelDrops(),
	}
	for _, p := range m.conn.Status() {
		kind := string(p.Kind)
		out := look.Out[kind]
		look.Out[kind] = measure.Classes{
			Payload: out.Payload + p.Out.Payload, Fragments: out.Fragments + p.Out.Fragments,
			Replays: out.Replays + p.Out.Replays, Probes: out.Probes + p.Out.Probes,
		}
		if p.Active {
			look.Active, look.Works, look.MTU = kind, p.State == path.Alive, p.Size
			look.GSO, look.GRO = p.GSO, p.GRO
		}
	}
	return look
}

// RelayTraffic asks the relay for the counters of this side's allocation.
func (m measured) RelayTraffic(ctx context.Context) (in, out uint64, word measure.RelayWord) {
	alloc := m.allocation()
	if alloc == nil {
		return 0, 0, measure.RelayNone
	}
	ctx, cancel := context.WithTimeout(ctx, trafficTimeout)
	defer cancel()
	t, err := alloc.Traffic(ctx)
	if err != nil {
		return 0, 0, measure.RelaySilent // another's relay, or it is going away; the report says "not known"
	}
	return t.FromClient + t.FromPeer, t.ToPeer + t.ToClient, measure.RelayTold
}

// allocation is what the loop knows of; nil when there is none.
func (l *link) allocation() *relay.Allocation {
	known := make(chan *relay.Allocation, 1)
	l.do(func() { known <- l.relaying.alloc })
	select {
	case alloc := <-known:
		return alloc
	case <-l.ended:
		return nil
	}
}

// Verdict tells whether the link will stay without a direct path: what stands
// against one is known.
func (m measured) Verdict() (said trace.Verdict, settled bool) {
	v := m.judged()
	return v.at(time.Now()), v.settled()
}
