package measure

import (
	"math"
	"math/rand/v2"
	"time"
)

// sampled is a report as a link would give it: rounds of each path in turn, at
// about these rates and round trips, with a slow start, noise, and queues under
// load. Two calls with the same arguments give the same.
func sampled(o Options, paths map[string][2]float64) *Report {
	rng := rand.New(rand.NewPCG(1, 2))
	c := &client{report: &Report{}, plan: Plan{Options: o}}
	r := c.report
	start := 0.8
	for range o.Rounds {
		for _, kind := range []string{Direct, Relayed} {
			if at, ok := paths[kind]; ok {
				p, round := sampledRound(rng, o, kind, at[0], at[1], start)
				p.round = len(r.Rounds)
				c.halves, r.Rounds = append(c.halves, p), append(r.Rounds, round)
				start += o.Seconds + 0.9
			}
		}
	}
	c.self = End{Name: "alice", Version: "v1.4.0", Machine: Machine{"linux", "amd64", 8, "AMD Ryzen 7 5800U with Radeon Graphics", "6.12.9-arch1-1"}}
	c.peer = End{Name: "bob", Version: "v1.4.0", Machine: Machine{"darwin", "arm64", 10, "Apple M2 Pro", ""}}
	r.Direct, r.Relayed = c.figures(Direct), c.figures(Relayed)
	mine, their := c.ends()
	r.Sender, r.Receiver = mine, their
	if o.Direction == "receive" {
		r.Sender, r.Receiver = their, mine
	}
	r.Verdict.Text = "direct: both routers keep one mapping for all destinations, and the first checks met"
	r.Peer, r.Version, r.Machine, r.Options = "bob", "v1.4.0", mine.Machine, o
	r.Time = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	return r
}

func sampledRound(rng *rand.Rand, o Options, kind string, mbps, ms, start float64) (pair, Round) {
	round := Round{Path: kind, Direction: o.Direction, Start: start}
	rate := mbps * (0.95 + 0.1*rng.Float64())
	h := seen(kind)
	for i := range int(math.Ceil(o.Seconds * 10)) {
		grown := 1 - math.Exp(-float64(i+1)/4)
		n := uint64(rate * grown * (0.93 + 0.1*rng.Float64()) * 1e6 / 8 / 10)
		h.Intervals = append(h.Intervals, n)
		h.Received += n
		if float64(i)/10 >= o.Skip {
			h.Counted += n
		}
	}
	for range idlePings {
		round.RTTs = append(round.RTTs, ms*(1+0.1*rng.ExpFloat64()))
	}
	for range int(o.Seconds * 1000 / max(20, ms)) {
		round.LoadedRTTs = append(round.LoadedRTTs, ms*(1.3+0.9*rng.ExpFloat64()))
	}
	other := map[string]string{Direct: Relayed, Relayed: Direct}[kind]
	mine := seen(kind)
	mine.CPU, h.CPU = float64(h.Received)/1e9*3.1, float64(h.Received)/1e9*2.7
	mine.After.PacketsSent, mine.After.PacketsLost = h.Received/1300, h.Received/1300/900
	mine.After.MTU, h.After.MTU = 1452, 1452
	mine.After.Out = map[string]Classes{kind: {Payload: h.Counted + h.Counted/25, Probes: 1210}, other: {Probes: 980}}
	h.After.Out = map[string]Classes{kind: {Payload: h.Counted / 90, Probes: 1300}, other: {Probes: 1020}}
	if kind == Relayed {
		h.RelayIn, h.RelayOut, h.Relay = h.Received+h.Received/20, h.Received+h.Received/21, RelayTold
	}
	if o.UDPMbps > 0 {
		jitter := ms / 40
		mine.Sent, h.Arrived, h.JitterMS = h.Received/1100+37, h.Received/1100, &jitter
	}
	yes, no, rss := true, false, uint64(41<<20)
	mine.After.GSO, mine.After.GRO, h.After.GSO = &yes, &yes, &no
	mine.RSS, h.RSS = &rss, &rss
	p := pair{mine: mine, their: h, spec: roundSpec{
		Path: kind, Seconds: o.Seconds, Skip: o.Skip, Streams: o.Streams, UDPMbps: o.UDPMbps,
		Send: o.Direction != "receive", Receive: o.Direction != "send",
	}}
	mine.Intervals = make([]uint64, len(h.Intervals))
	round.Result = p.result(round.RTTs)
	return p, round
}

// usual is what bench does when it is not told otherwise.
func usual() Options {
	return Options{Compare: true, Seconds: 5, Skip: 1, Rounds: 3, Streams: 1, Direction: "send"}
}

// samples are reports of all kinds.
func samples() map[string]*Report {
	list := map[string]*Report{
		"usual":           sampled(usual(), map[string][2]float64{Direct: {812, 9.4}, Relayed: {196, 41}}),
		"alike":           sampled(usual(), map[string][2]float64{Direct: {94, 20}, Relayed: {93, 21}}),
		"nothing arrives": sampled(usual(), map[string][2]float64{Direct: {0, 9}, Relayed: {20, 40}}),
		"nothing at all":  sampled(usual(), map[string][2]float64{Direct: {0, 9}}),
		"empty":           {Rounds: []Round{}},
	}
	o := usual()
	o.UDPMbps, o.Direction = 50, "receive"
	list["datagrams"] = sampled(o, map[string][2]float64{Direct: {50, 9}, Relayed: {49, 40}})

	o = usual()
	o.Rounds, o.Seconds, o.Streams, o.Direction = 10, 10, 8, "both"
	list["long"] = sampled(o, map[string][2]float64{Direct: {9400, 0.21}, Relayed: {8.3, 240}})

	o = usual()
	o.Compare, o.Rounds, o.Seconds, o.Skip = false, 1, 0.25, 0
	list["one short round"] = sampled(o, map[string][2]float64{Direct: {0.31, 700}})

	r := sampled(usual(), map[string][2]float64{Relayed: {18.2, 55}})
	r.Verdict.Text = "relayed: this side's router gives each destination another port (address- and port-dependent mapping), and so does the peer's"
	r.Missing = map[string]string{Direct: "not measured: there is none"}
	r.Verdict.Remedy = "forward a UDP port to this machine, and pass it as --udp-port"
	r.Relayed.RelayBytesIn, r.Relayed.RelayBytesOut = nil, nil
	r.Relayed.MTU, r.Relayed.Loss, r.Sender.RSSBytes, r.Receiver.CPURelayed = nil, nil, nil, nil
	list["no direct path"] = r

	r = sampled(usual(), map[string][2]float64{Direct: {300, 12}, Relayed: {90, 30}})
	r.Rounds[2] = Round{Path: Direct, Direction: "send", Start: r.Rounds[2].Start, Error: "the path in use changed meanwhile"}
	r.Rounds[3].Elsewhere.Payload = 2_345_678
	list["spoiled"] = r

	r = sampled(usual(), map[string][2]float64{Direct: {300, 12}, Relayed: {90, 30}})
	long := "a-machine-with-a-name-that-somebody-thought-funny-and-that-goes-on-and-on-and-on.example"
	r.Sender.Name, r.Receiver.Name, r.Peer = `<script>alert("x")</script>`, long, `"><img src=x onerror=alert(1)>`
	r.Verdict.Text, r.Verdict.Remedy = "</p></style><script>verdict</script>", `'"&<b>`
	r.Sender.Version, r.Sender.Machine.CPU = "{{.}}", "</td>"+long
	r.Rounds[1] = Round{Path: "<i>", Error: "<svg onload=x>"}
	list["hostile"] = r
	return list
}
