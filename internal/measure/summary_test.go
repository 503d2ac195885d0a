package measure

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// seen is a half over a path, with nothing in it.
func seen(kind string) *half {
	look := func() Look { return Look{Active: kind, Works: true, Out: map[string]Classes{}} }
	return &half{CPU: -1, Before: look(), After: look()}
}

// tried is a round of one second that both sides saw nothing of.
func tried(kind string) *pair {
	return &pair{
		spec: roundSpec{Path: kind, Seconds: 1.5, Skip: 0.5, Streams: 1, Send: true},
		mine: seen(kind), their: seen(kind),
	}
}

func TestSpoiled(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*pair)
		want   bool
	}{
		{"on the path", func(*pair) {}, false},
		{"mine left it", func(p *pair) { p.mine.After.Active = Relayed }, true},
		{"mine came late", func(p *pair) { p.mine.Before.Active = Relayed }, true},
		{"theirs left it", func(p *pair) { p.their.After.Active = Relayed }, true},
		{"theirs has none", func(p *pair) { p.their.Before.Active = "" }, true},
	} {
		p := tried(Direct)
		tt.change(p)
		if got := p.spoiled(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestResult(t *testing.T) {
	p := tried(Direct)
	p.mine.CPU, p.their.CPU = 2, 5
	p.mine.Intervals = []uint64{0, 125_000, 0}
	p.their.Intervals = []uint64{125_000, 125_000} // one fewer, and more of them must not matter
	p.mine.Counted, p.their.Counted = 125_000, 250_000
	p.mine.After.MTU, p.their.After.MTU = 1452, 1400
	p.mine.Before.Out = map[string]Classes{Direct: {Payload: 100, Probes: 5}, Relayed: {Probes: 7}}
	p.mine.After.Out = map[string]Classes{Direct: {Payload: 400, Probes: 9}, Relayed: {Probes: 10}}
	p.their.Before.Out = map[string]Classes{Direct: {Payload: 1000}, Relayed: {Probes: 7, Payload: 9}}
	p.their.After.Out = map[string]Classes{Direct: {Payload: 1001}, Relayed: {Probes: 3, Payload: 11, Replays: 1}}
	r := p.result([]float64{1, 3, 2})
	if r.Bytes != 375_000 || r.Goodput != 3 || r.Seconds != 1 {
		t.Errorf("%d bytes in %v s, %v Mbit/s", r.Bytes, r.Seconds, r.Goodput)
	}
	if len(r.Intervals) != 3 || r.Intervals[0] != 10 || r.Intervals[1] != 20 || r.Intervals[2] != 0 {
		t.Errorf("intervals %v", r.Intervals)
	}
	if want := (Classes{Payload: 301, Probes: 4}); r.Here != want {
		t.Errorf("here %+v, want %+v", r.Here, want)
	}
	// A relayed path was closed meanwhile, and took its probes along.
	if want := (Classes{Payload: 2, Replays: 1, Probes: 3}); r.Elsewhere != want {
		t.Errorf("elsewhere %+v, want %+v", r.Elsewhere, want)
	}
	if r.MTU == nil || *r.MTU != 1400 {
		t.Errorf("MTU %v, want the smaller", r.MTU)
	}
	if !same(r.CPUPerGB, 2/0.000375) || !same(r.Jitter, 1.5) || r.Loss != nil {
		t.Errorf("CPU %v, jitter %v, loss %v", show(r.CPUPerGB), show(r.Jitter), show(r.Loss))
	}
}

func TestLoss(t *testing.T) {
	packets := func(h *half, before, after, lost uint64) {
		h.Before.PacketsSent, h.After.PacketsSent, h.After.PacketsLost = before, after, lost
	}
	for _, tt := range []struct {
		name   string
		change func(*pair)
		want   float64
	}{
		{"nothing was sent", func(*pair) {}, math.NaN()},
		{"of mine", func(p *pair) { packets(p.mine, 100, 300, 20) }, 0.1},
		{"theirs are acknowledgements", func(p *pair) { packets(p.mine, 0, 100, 0); packets(p.their, 0, 100, 50) }, 0},
		{"of theirs", func(p *pair) { p.spec.Send, p.spec.Receive = false, true; packets(p.their, 0, 100, 50) }, 0.5},
		{"of both", func(p *pair) { p.spec.Receive = true; packets(p.mine, 0, 100, 0); packets(p.their, 0, 100, 50) }, 0.25},
		{"more than were sent", func(p *pair) { packets(p.mine, 0, 10, 50) }, 1},
		{"counters that run backwards", func(p *pair) { packets(p.mine, 300, 100, 50) }, math.NaN()},
		{"datagrams", func(p *pair) { p.spec.UDPMbps, p.mine.Sent, p.their.Arrived = 1, 10, 9 }, 0.1},
		{"of datagrams both ways", func(p *pair) {
			p.spec.UDPMbps, p.mine.Sent, p.their.Arrived, p.their.Sent, p.mine.Arrived = 1, 10, 5, 10, 90
		}, 0.25},
		{"datagrams out of nothing", func(p *pair) { p.spec.UDPMbps, p.mine.Sent, p.their.Arrived = 1, 10, 90 }, 0},
		{"no datagrams", func(p *pair) { p.spec.UDPMbps = 1 }, math.NaN()},
	} {
		p := tried(Direct)
		tt.change(p)
		if got := p.loss(); !same(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, show(got), tt.want)
		}
	}
}

// measured is a client after some rounds.
func measured(rounds ...func(*pair, *Round)) *client {
	c := &client{report: &Report{}}
	for i, change := range rounds {
		p := tried(Relayed)
		p.round = i
		r := Round{Result: new(Result)}
		change(p, &r)
		c.halves = append(c.halves, *p)
		c.report.Rounds = append(c.report.Rounds, r)
	}
	return c
}

func TestFigures(t *testing.T) {
	rate := func(v float64) func(*pair, *Round) {
		return func(p *pair, r *Round) {
			r.Goodput = v
			r.RTTs = []float64{v}
			p.their.Received = 1000
			p.their.RelayIn, p.their.RelayOut, p.their.Relay = 1100, 1050, RelayTold
			p.mine.After.SocketDrops = 3
		}
	}
	c := measured(rate(10), rate(30), rate(20))
	if f := c.figures(Direct); f != nil {
		t.Errorf("figures %+v of a path without rounds", f)
	}
	f := c.figures(Relayed)
	if f.Goodput != 20 || f.GoodputSpread != [2]float64{10, 30} || *f.RTT50 != 20 {
		t.Errorf("goodput %v of %v, round trip %v", f.Goodput, f.GoodputSpread, *f.RTT50)
	}
	if f.PayloadBytes != 3000 || *f.RelayBytesIn != 3300 || *f.RelayBytesOut != 3150 || *f.SocketDrops != 9 {
		t.Errorf("%d bytes, %d and %d over the relay, %d dropped", f.PayloadBytes, *f.RelayBytesIn, *f.RelayBytesOut, *f.SocketDrops)
	}
	for name, v := range map[string]*float64{"loaded": f.LoadedRTT50, "jitter": f.Jitter, "loss": f.Loss, "CPU": f.CPUPerGB} {
		if v != nil {
			t.Errorf("%s is %v, and nobody measured it", name, *v)
		}
	}
	if f.MTU != nil {
		t.Errorf("MTU is %d, and nobody measured it", *f.MTU)
	}
}

// Between two MTUs there is none that a path has proved.
func TestFiguresMTU(t *testing.T) {
	with := func(n int) func(*pair, *Round) { return func(_ *pair, r *Round) { r.MTU = &n } }
	if f := measured(with(1452), with(1280), func(*pair, *Round) {}).figures(Relayed); f.MTU == nil || *f.MTU != 1280 {
		t.Errorf("MTU %v, want 1280", f.MTU)
	}
}

// A relay that told of some rounds has not told of all, and one that told of one
// side has not told of what the other side's carried.
func TestRelayThatDoesNotTell(t *testing.T) {
	told := func(p *pair, _ *Round) { p.their.RelayIn, p.their.Relay = 1, RelayTold }
	for name, round := range map[string]func(*pair, *Round){
		"no relay":          func(*pair, *Round) {},
		"silent":            func(p *pair, _ *Round) { p.mine.Relay = RelaySilent },
		"silent, beside it": func(p *pair, r *Round) { told(p, r); p.mine.Relay = RelaySilent },
	} {
		for _, rounds := range [][]func(*pair, *Round){{round}, {told, round}, {round, told}} {
			if f := measured(rounds...).figures(Relayed); f.RelayBytesIn != nil || f.RelayBytesOut != nil {
				t.Errorf("%s: %d and %d bytes", name, *f.RelayBytesIn, *f.RelayBytesOut)
			}
		}
	}
	if f := measured(told, told).figures(Relayed); f.RelayBytesIn == nil || *f.RelayBytesIn != 2 {
		t.Errorf("%+v, want what the relay told", f)
	}
}

func TestRelayCountSince(t *testing.T) {
	none, silent := relayCount{}, relayCount{word: RelaySilent}
	told := func(in uint64) relayCount { return relayCount{in, in, RelayTold} }
	for _, tt := range []struct{ before, after, want relayCount }{
		{none, none, none},
		{told(3), told(10), told(7)},
		{told(10), told(3), silent}, // another allocation
		{none, told(3), silent},
		{told(3), none, silent},
		{silent, told(3), silent},
	} {
		if got := tt.after.since(tt.before); got != tt.want {
			t.Errorf("%+v since %+v: %+v, want %+v", tt.after, tt.before, got, tt.want)
		}
	}
}

// What was not measured is null or absent in JSON.
func TestReportJSON(t *testing.T) {
	c := measured(func(*pair, *Round) {})
	c.report.Relayed = c.figures(Relayed)
	c.report.Rounds = []Round{{Path: Relayed, Error: "lost"}}
	b, err := json.Marshal(c.report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"rtt_p50_ms":null`, `"mtu":null`, `"cpu_s_per_gb":null`, `"gso":null`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
	var rounds struct{ Rounds []map[string]any }
	if err := json.Unmarshal(b, &rounds); err != nil || len(rounds.Rounds) != 1 || len(rounds.Rounds[0]) != 4 {
		t.Errorf("%v, %v: want a round with path, direction, start and error alone", rounds, err)
	}
	if strings.Contains(string(b), `"direct":`) {
		t.Errorf("figures of a path that was not measured in %s", b)
	}
}

func TestEnds(t *testing.T) {
	c := measured(
		func(p *pair, _ *Round) { p.mine.CPU, p.their.CPU, p.their.Counted = 1, -1, 1e9 },
		func(p *pair, _ *Round) { p.mine.CPU, p.their.CPU, p.their.Counted = 3, -1, 1e9 },
	)
	rss, yes := uint64(7), true
	c.halves[0].their.RSS = &rss
	c.halves[1].their.After.GSO = &yes
	mine, their := c.ends()
	if !same(mine.CPURelayed, 2) || mine.CPUDirect != nil || mine.RSSBytes != nil || mine.GSO != nil {
		t.Errorf("mine %+v", mine)
	}
	if their.CPURelayed != nil || their.RSSBytes == nil || *their.RSSBytes != 7 || their.GSO == nil || !*their.GSO {
		t.Errorf("theirs %+v", their)
	}
	if mine, _ := measured().ends(); mine.SocketDrops != nil {
		t.Errorf("%d datagrams dropped in no rounds", *mine.SocketDrops)
	}
}
