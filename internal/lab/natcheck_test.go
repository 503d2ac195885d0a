package lab

import (
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/candidates"
)

func TestDifferences(t *testing.T) {
	yes, no := true, false
	natted := func(mapping, filtering candidates.Dependence, moves *bool) Observed {
		return Observed{candidates.NAT{UDP: &yes, Translated: &yes, Mapping: mapping, Filtering: filtering}, moves}
	}
	const (
		ei  = candidates.EndpointIndependent
		ad  = candidates.AddressDependent
		apd = candidates.AddressAndPortDependent
	)
	for _, tt := range []struct {
		kind string
		got  Observed
		want string // properties that differ
	}{
		{"none", Observed{NAT: candidates.NAT{UDP: &yes, Translated: &no, Mapping: ei, Filtering: ei}}, ""},
		{"none", natted(ei, ei, nil), "translation"},
		{"full-cone", natted(ei, ei, &no), ""},
		{"full-cone", natted(ei, ad, &no), "filtering"},
		{"full-cone", natted(apd, ad, nil), "mapping filtering"},
		{"full-cone", natted(ei, "", &no), "filtering"},
		{"port-restricted", natted(ei, apd, &no), ""},
		{"port-restricted", natted(ei, apd, &yes), "the port after an early probe"},
		{"port-restricted", natted(ei, apd, nil), "the port after an early probe"},
		{"port-restricted-open", natted(ei, apd, &yes), ""},
		{"port-restricted-open", natted(ei, apd, &no), "the port after an early probe"},
		{"symmetric", natted(apd, apd, nil), ""},
		{"symmetric", natted(ei, apd, &no), "mapping"},
		{"udp-blocked", Observed{NAT: candidates.NAT{UDP: &no}}, ""},
		{"udp-blocked", natted(ei, apd, &no), "UDP"},
		{"udp-blocked", Observed{}, "UDP"},
		{"port-restricted", Observed{NAT: candidates.NAT{UDP: &no}}, "UDP"},
	} {
		k, err := ParseKind(tt.kind)
		if err != nil {
			t.Fatal(err)
		}
		var properties []string
		for _, d := range differences(k, tt.got) {
			properties = append(properties, d.Property)
			if d.Measured == d.Expected || d.Measured == "" || d.Expected == "" {
				t.Errorf("%s: empty difference %+v", tt.kind, d)
			}
		}
		if got := strings.Join(properties, " "); got != tt.want {
			t.Errorf("%s with %+v: differs in %q, want %q", tt.kind, tt.got, got, tt.want)
		}
	}
}
