package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A part is one of the things that are measured, once a round.
type part struct {
	name    string
	agents  bool // the two have to know each other
	measure func(context.Context, *bed, recorder) error
}

// parts are all of them, in the order of a round.
func parts() []part {
	return []part{
		{name: "raw", measure: measureRaw},
		{name: "quic", measure: measureQUIC},
		{name: "agents", agents: true, measure: measureAgents},
		{name: "forward", agents: true, measure: measureForward},
		{name: "relayed", agents: true, measure: measureRelayed},
		{name: "turn", measure: measureTURN},
		{name: "memory", measure: measureMemory},
		{name: "loss", agents: true, measure: measureLoss},
	}
}

// choose returns the parts with these names, all of them for an empty list.
func choose(list string) ([]part, error) {
	all := parts()
	if list == "" {
		return all, nil
	}
	known := names(all)
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-only %q: the parts are %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(p part) bool { return !slices.Contains(wanted, p.name) }), nil
}

func names(parts []part) (out []string) {
	for _, p := range parts {
		out = append(out, p.name)
	}
	return out
}

// limit is how long a part may take in one round.
func (p part) limit(e effort) time.Duration {
	switch p.name {
	case "agents":
		return time.Minute + 4*time.Duration(e.compareFor)*time.Second
	case "turn":
		return time.Duration(2*len(turnLoads())) * (e.loadFor + 10*time.Second)
	case "memory":
		return 2 * (30*time.Second + time.Duration(e.allocations)*50*time.Millisecond)
	}
	return time.Minute + 8*time.Duration(e.benchFor)*time.Second
}
