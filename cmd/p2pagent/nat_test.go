package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/candidates"
)

func TestPrintNAT(t *testing.T) {
	yes, no := true, false
	at := netip.MustParseAddrPort
	own := candidates.NAT{UDP: &yes, Translated: &no, OneAddress: true, Mapped: []netip.AddrPort{at("192.0.2.2:5000")}}
	known := own
	known.OneAddress, known.Mapping, known.Filtering = false, candidates.EndpointIndependent, candidates.EndpointIndependent
	behind := own
	behind.Translated = &yes
	for _, tt := range []struct {
		name string
		n    candidates.NAT
		want []string
	}{
		{"no NAT, one address", own, []string{
			"NAT          none: 192.0.2.2 is this machine's own\n", "filtering    not measured: the server has one address\n",
			"mapping      not measured: the server has one address\n", "hairpinning  not measured: there is none\n", "allocation   not measured: there is none\n",
		}},
		{"no NAT, all measured", known, []string{"NAT          none: 192.0.2.2 is this machine's own\n", "filtering    endpoint-independent\n"}},
		{"one address", behind, []string{"NAT          not known well enough for a name\n", "filtering    not measured: the server has one address\n", "hairpinning  not measured\n"}},
		{"one silent server", candidates.NAT{Silent: []netip.AddrPort{at("192.0.2.9:3478")}}, []string{
			"NAT          not known", "UDP          not measured\n", "no answer    192.0.2.9:3478\n",
		}},
		{"no UDP", candidates.NAT{UDP: &no, Silent: []netip.AddrPort{at("192.0.2.9:3478"), at("198.51.100.9:3478")}}, []string{
			"NAT          udp-blocked\n", "UDP          no\n", "no answer    192.0.2.9:3478\nno answer    198.51.100.9:3478\n",
		}},
	} {
		var b strings.Builder
		if err := printNAT(&b, tt.n); err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", tt.name, want, &b)
			}
		}
	}
}
