package measure

import (
	"cmp"
	"slices"
)

// spoiled reports whether a side's payload did not take the path all the time.
func (p *pair) spoiled() bool {
	for _, h := range []*half{p.mine, p.their} {
		if h.Before.Active != p.spec.Path || h.After.Active != p.spec.Path {
			return true
		}
	}
	return false
}

// counted is the payload that arrived in the time that counts, on both sides.
func (p *pair) counted() uint64 { return p.mine.Counted + p.their.Counted }

// result is what both sides saw, with the idle round trips before it.
func (p *pair) result(idle []float64) *Result {
	r := &Result{Seconds: p.spec.Seconds - p.spec.Skip, Bytes: p.counted()}
	r.Goodput = megabits(r.Bytes, r.Seconds)
	if p.spec.Send && p.spec.Receive {
		sent, received := megabits(p.their.Counted, r.Seconds), megabits(p.mine.Counted, r.Seconds)
		r.Sent, r.Received = &sent, &received
	}
	for i, n := range p.mine.Intervals { // one for each of the round's, if nothing arrived too
		r.Intervals = append(r.Intervals, megabits(n+at(p.their.Intervals, i), interval.Seconds()))
	}
	r.CPUPerGB = per(p.mine.CPU, float64(r.Bytes)/1e9)
	r.Loss = p.loss()
	r.Jitter = p.jitter(idle)
	if mtu := min(p.mine.After.MTU, p.their.After.MTU); mtu > 0 {
		r.MTU = &mtu
	}
	for _, h := range []*half{p.mine, p.their} {
		for kind := range h.After.Out {
			d := h.After.Out[kind].less(h.Before.Out[kind])
			if kind == p.spec.Path {
				r.Here = r.Here.plus(d)
			} else {
				r.Elsewhere = r.Elsewhere.plus(d)
			}
		}
	}
	return r
}

func at(list []uint64, i int) uint64 {
	if i < len(list) {
		return list[i]
	}
	return 0
}

func (c Classes) plus(o Classes) Classes {
	return Classes{c.Payload + o.Payload, c.Fragments + o.Fragments, c.Replays + o.Replays, c.Probes + o.Probes}
}

// less is what came since o. A path that was closed meanwhile takes its counts
// along; that is not a negative number.
func (c Classes) less(o Classes) Classes {
	since := func(a, b uint64) uint64 { return a - min(a, b) }
	return Classes{since(c.Payload, o.Payload), since(c.Fragments, o.Fragments), since(c.Replays, o.Replays), since(c.Probes, o.Probes)}
}

// loss is of datagrams, or of QUIC's packets as those who sent payload see it.
func (p *pair) loss() *float64 {
	if p.spec.UDPMbps > 0 {
		sent := p.mine.Sent + p.their.Sent
		arrived := min(p.mine.Sent, p.their.Arrived) + min(p.their.Sent, p.mine.Arrived)
		return per(float64(sent-arrived), float64(sent))
	}
	var sent, lost uint64
	count := func(h *half) {
		sent += h.After.PacketsSent - min(h.After.PacketsSent, h.Before.PacketsSent)
		lost += h.After.PacketsLost - min(h.After.PacketsLost, h.Before.PacketsLost)
	}
	if p.spec.Send {
		count(p.mine)
	}
	if p.spec.Receive {
		count(p.their)
	}
	return per(float64(min(lost, sent)), float64(sent))
}

func (p *pair) jitter(idle []float64) *float64 {
	if p.spec.UDPMbps == 0 {
		return variation(idle)
	}
	mine, their := p.mine.JitterMS, p.their.JitterMS
	if mine == nil || their != nil && *their > *mine { // the worse direction's
		return their
	}
	return mine
}

// summarize makes the figures of the rounds.
func (c *client) summarize() {
	rep := c.report
	rep.Verdict = c.verdict()
	rep.Direct, rep.Relayed = c.figures(Direct), c.figures(Relayed)
	mine, their := c.ends()
	rep.Sender, rep.Receiver = mine, their
	if c.plan.Direction == "receive" {
		rep.Sender, rep.Receiver = their, mine
	}
}

// figures are the medians of one path's rounds, nil without any.
func (c *client) figures(kind string) *Figures {
	f := new(Figures)
	var goodput, sent, received, idle, loaded, jitter, loss, cpu []float64
	var drops uint64
	var relay relayCount
	for i := range c.halves {
		p := &c.halves[i]
		if p.spec.Path != kind {
			continue
		}
		r := &c.report.Rounds[p.round]
		goodput = append(goodput, r.Goodput)
		sent, received = appendKnown(sent, r.Sent), appendKnown(received, r.Received)
		idle = append(idle, r.RTTs...)
		loaded = append(loaded, r.LoadedRTTs...)
		jitter = appendKnown(jitter, r.Jitter)
		loss = appendKnown(loss, r.Loss)
		cpu = appendKnown(cpu, r.CPUPerGB)
		if r.MTU != nil && (f.MTU == nil || *r.MTU < *f.MTU) {
			f.MTU = r.MTU
		}
		f.PayloadBytes += p.mine.Received + p.their.Received
		for _, h := range []*half{p.mine, p.their} {
			drops += h.After.SocketDrops - min(h.After.SocketDrops, h.Before.SocketDrops)
		}
		relay = relay.plus(p.relay())
	}
	if len(goodput) == 0 {
		return nil
	}
	f.Goodput = *median(goodput)
	f.GoodputSpread = [2]float64{slices.Min(goodput), slices.Max(goodput)}
	f.Sent, f.Received = median(sent), median(received)
	f.RTT50, f.RTT99 = quantile(idle, 0.5), quantile(idle, 0.99)
	f.LoadedRTT50, f.LoadedRTT99 = quantile(loaded, 0.5), quantile(loaded, 0.99)
	f.Jitter, f.Loss, f.CPUPerGB = median(jitter), median(loss), median(cpu)
	f.SocketDrops = &drops
	if kind == Relayed && relay.word == RelayTold {
		f.RelayBytesIn, f.RelayBytesOut = &relay.in, &relay.out
	}
	return f
}

// relay is what the relays of both sides counted in the round. Where none did,
// there was one that does not tell.
func (p *pair) relay() relayCount {
	sum := relayCount{p.mine.RelayIn, p.mine.RelayOut, p.mine.Relay}.plus(relayCount{p.their.RelayIn, p.their.RelayOut, p.their.Relay})
	if sum.word == RelayNone {
		sum.word = RelaySilent
	}
	return sum
}

// plus joins what two relays say, which is known when neither is silent.
func (c relayCount) plus(o relayCount) relayCount {
	sum := relayCount{c.in + o.in, c.out + o.out, cmp.Or(c.word, o.word)}
	if o.word == RelaySilent {
		sum.word = RelaySilent
	}
	return sum
}

func appendKnown(list []float64, v *float64) []float64 {
	if v != nil {
		list = append(list, *v)
	}
	return list
}

// ends are what each side says of itself.
func (c *client) ends() (mine, their End) {
	mine, their = c.self, c.peer
	for _, e := range []struct {
		end  *End
		half func(*pair) *half
	}{
		{&mine, func(p *pair) *half { return p.mine }},
		{&their, func(p *pair) *half { return p.their }},
	} {
		cpu := map[string][]float64{}
		var drops uint64
		for i := range c.halves {
			p := &c.halves[i]
			h := e.half(p)
			cpu[p.spec.Path] = appendKnown(cpu[p.spec.Path], per(h.CPU, float64(p.counted())/1e9))
			drops += h.After.SocketDrops - min(h.After.SocketDrops, h.Before.SocketDrops)
			e.end.RSSBytes = cmp.Or(h.RSS, e.end.RSSBytes)
			e.end.GSO, e.end.GRO = h.After.GSO, h.After.GRO
		}
		e.end.CPUDirect, e.end.CPURelayed = median(cpu[Direct]), median(cpu[Relayed])
		if len(c.halves) > 0 {
			e.end.SocketDrops = &drops
		}
	}
	return mine, their
}
