package main

import "fmt"

// A bar is what a figure, or the ratio of two, has to reach.
type bar struct {
	what  string
	over  key
	under key  // of a ratio; empty for a figure by itself
	worst bool // every round has to reach it, not the median
	least bool // the limit is the least, else the most
	limit float64
	aim   float64 // what we would like; 0: the limit
	unit  string
}

// bars are what this project wants to be held to.
func bars() []bar {
	list := []bar{
		{what: "direct session over plain quic-go: goodput", over: directMbps, under: quicMbps, least: true, limit: 1.3},
		{what: "direct session over plain quic-go: CPU per byte, both ends", over: directCPU, under: quicCPU, limit: 0.78},
		{what: "`-L` over raw TCP: goodput", over: forwardMbps, under: rawMbps, least: true, limit: 0.22, aim: 0.30},
		{what: "session through our relay over the same through pion/turn: goodput", over: relayedKey(signalServer, "mbps"), under: relayedKey(pionServer, "mbps"), least: true, limit: 3},
	}
	for _, l := range turnLoads() {
		list = append(list, bar{
			what:  fmt.Sprintf("our relay over coturn, %s: CPU per byte delivered", l),
			over:  l.key(signalServer, "cpu"),
			under: l.key(coturnServer, "cpu"),
			limit: l.bar(),
		})
	}
	return append(list,
		bar{what: "our relay over coturn, session of our agents, flat out: CPU per byte of payload",
			over: relayedKey(signalServer, "cpu"), under: relayedKey(coturnServer, "cpu"), limit: 0.1},
		bar{what: "memory of `p2pagent bench`, peak", over: benchRSS, worst: true, limit: 60, unit: "MB"},
		bar{what: "memory of `p2pagent listen` meanwhile, peak", over: listenRSS, worst: true, limit: 60, unit: "MB"},
		bar{what: "memory of `signal`, idle", over: idleRSS(signalServer), worst: true, limit: 30, unit: "MB"},
		bar{what: "memory of one idle allocation", over: allocationKB(signalServer), limit: 20, unit: "KB"},
	)
}

// bar is how little of coturn's CPU our relay may take under this load.
func (l turnLoad) bar() float64 {
	switch {
	case l.gso:
		return 0.1
	case l.flatOut():
		return 0.6
	}
	return 0.9
}

// A judgement is what became of a bar.
type judgement string

const (
	met         judgement = "met"
	metAim      judgement = "met, and the aim"
	notMet      judgement = "**not met**"
	notMeasured judgement = "not measured"
)

// judge holds the results to the bar.
func (b bar) judge(r *results) (spread, judgement) {
	s, ok := r.of(b.over)
	if b.under != "" {
		s, ok = r.ratio(b.over, b.under)
	}
	if !ok {
		return s, notMeasured
	}
	v := s.median
	switch {
	case b.worst && b.least:
		v = s.least
	case b.worst:
		v = s.most
	}
	switch {
	case !b.reached(v, b.limit):
		return s, notMet
	case b.aim != 0 && b.reached(v, b.aim):
		return s, metAim
	}
	return s, met
}

func (b bar) reached(v, limit float64) bool {
	if b.least {
		return v >= limit
	}
	return v <= limit
}

// wanted is the bar in words.
func (b bar) wanted() string {
	sign := "≤"
	if b.least {
		sign = "≥"
	}
	text := fmt.Sprintf("%s %v", sign, b.limit)
	if b.unit != "" {
		text += " " + b.unit
	}
	if b.aim != 0 {
		text += fmt.Sprintf(", aim %v", b.aim)
	}
	return text
}
