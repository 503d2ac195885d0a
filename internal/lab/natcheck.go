package lab

import (
	"fmt"
	"strings"

	"github.com/p2pagent/p2pagent/candidates"
)

// Observed is what a peer measured of the NAT in front of it.
type Observed struct {
	candidates.NAT
	// EarlyProbeMoves tells whether our mapping for a destination gets another
	// port after a packet from there came first. Nil where that says nothing:
	// without translation, and where every destination has its own port.
	EarlyProbeMoves *bool
}

// NATError is a NAT that is not what it should be. Nothing may be concluded from
// a run behind it.
type NATError struct {
	Router, Peer, Kind string
	Differences        []Difference
}

// Difference is one property of a NAT that is not as expected.
type Difference struct{ Property, Measured, Expected string }

func (e *NATError) Error() string {
	var parts []string
	for _, d := range e.Differences {
		parts = append(parts, fmt.Sprintf("%s is %s, expected %s", d.Property, d.Measured, d.Expected))
	}
	return fmt.Sprintf("%s, measured from %s, is not %s: %s", e.Router, e.Peer, e.Kind, strings.Join(parts, "; "))
}

// differences compares a measurement with what the kind has to be. Not measured is
// a difference too.
func differences(k Kind, got Observed) []Difference {
	var out []Difference
	note := func(property, measured, expected string) {
		if measured != expected {
			out = append(out, Difference{property, measured, expected})
		}
	}
	note("UDP", known(got.UDP, "passing", "blocked"), word(k.UDP, "passing", "blocked"))
	if !k.UDP || out != nil {
		return out
	}
	note("translation", known(got.Translated, "on", "off"), word(k.Translated, "on", "off"))
	note("mapping", measured(got.Mapping), string(k.Mapping))
	note("filtering", measured(got.Filtering), string(k.Filtering))
	if k.Translated && k.Mapping == candidates.EndpointIndependent && out == nil {
		note("the port after an early probe", known(got.EarlyProbeMoves, "changed", "kept"), word(k.OpenRouter, "changed", "kept"))
	}
	return out
}

const notMeasured = "not measured"

func measured(d candidates.Dependence) string {
	if d == "" {
		return notMeasured
	}
	return string(d)
}

func known(b *bool, yes, no string) string {
	if b == nil {
		return notMeasured
	}
	return word(*b, yes, no)
}

func word(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}
