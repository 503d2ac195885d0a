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

// choose returns the parts with these names, all of them for "".
func choose(names string) ([]part, error) {
	all := parts()
	if names == "" {
		return all, nil
	}
	var known []string
	for _, p := range all {
		known = append(known, p.name)
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-only %q: the parts are %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(p part) bool { return !slices.Contains(wanted, p.name) }), nil
}

// limit is how long a part may take in one round.
func (p part) limit(e effort) time.Duration {
	one := 30*time.Second + 4*time.Duration(e.benchFor)*time.Second
	switch p.name {
	case "turn":
		return time.Duration(2*len(turnLoads())) * (e.loadFor + 10*time.Second)
	case "memory":
		return 2 * (30*time.Second + time.Duration(e.allocations)*50*time.Millisecond)
	}
	return 2 * one
}
