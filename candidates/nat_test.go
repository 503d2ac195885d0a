package candidates

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
)

// to makes the observations of one socket: the destinations asked, in order, and
// the mapping each one saw.
func to(pairs ...string) (ms []mapping) {
	for i := 0; i < len(pairs); i += 2 {
		ms = append(ms, mapping{ap(pairs[i]), ap(pairs[i+1])})
	}
	return ms
}

func TestClassify(t *testing.T) {
	const (
		a1, a2 = "192.0.2.1:3478", "192.0.2.1:3479" // one server, two ports
		b1, b2 = "192.0.2.2:3478", "192.0.2.2:3479" // its other address
	)
	home := []netip.AddrPort{ap("10.0.0.7:5000")}
	public := []netip.AddrPort{ap("198.51.100.2:5000")}
	same := to(a1, "198.51.100.2:5000", a2, "198.51.100.2:5000", b1, "198.51.100.2:5000", b2, "198.51.100.2:5000")
	open := filterTest{Base: true, Able: true, OtherAddress: true, OtherPort: true}
	byAddress := filterTest{Base: true, Able: true, OtherPort: true}
	byPort := filterTest{Base: true, Able: true}
	random := to(a1, "198.51.100.2:31739", a2, "198.51.100.2:35033", b1, "198.51.100.2:8812", b2, "198.51.100.2:61000")
	rising := to(a1, "198.51.100.2:40000", a2, "198.51.100.2:40001", b1, "198.51.100.2:40002", b2, "198.51.100.2:40003")

	for _, tt := range []struct {
		name               string
		o                  observed
		kind               string
		mapping, filtering Dependence
		varies             *bool
		pattern            Pattern
		step               int
	}{
		{name: "none", kind: "none", o: observed{Local: public, Mappings: same, Filter: open},
			mapping: EndpointIndependent, filtering: EndpointIndependent, varies: ptr(false)},
		{name: "full-cone", kind: "full-cone", o: observed{Local: home, Mappings: same, Filter: open},
			mapping: EndpointIndependent, filtering: EndpointIndependent, varies: ptr(false), pattern: Preserving},
		{name: "address-restricted", kind: "address-restricted", o: observed{Local: home, Mappings: same, Filter: byAddress},
			mapping: EndpointIndependent, filtering: AddressDependent, varies: ptr(false), pattern: Preserving},
		{name: "port-restricted", kind: "port-restricted", o: observed{Local: home, Mappings: same, Filter: byPort},
			mapping: EndpointIndependent, filtering: AddressAndPortDependent, varies: ptr(false), pattern: Preserving},
		{name: "port-restricted-open looks the same", kind: "port-restricted", o: observed{Local: home, Mappings: same, Filter: byPort},
			mapping: EndpointIndependent, filtering: AddressAndPortDependent, varies: ptr(false), pattern: Preserving},
		{name: "cgnat looks like its stricter NAT", kind: "port-restricted",
			o:       observed{Local: home, Mappings: to(a1, "198.51.100.2:7777", b1, "198.51.100.2:7777"), Filter: byPort},
			mapping: EndpointIndependent, filtering: AddressAndPortDependent, varies: ptr(false)},
		{name: "symmetric", kind: "symmetric", o: observed{Local: home, Mappings: random, Filter: byPort},
			mapping: AddressAndPortDependent, filtering: AddressAndPortDependent, varies: ptr(true), pattern: Random},
		{name: "symmetric-sequential", kind: "symmetric-sequential", o: observed{Local: home, Mappings: rising, Filter: byPort},
			mapping: AddressAndPortDependent, filtering: AddressAndPortDependent, varies: ptr(true), pattern: Sequential, step: 1},
		{name: "udp-blocked", kind: "udp-blocked", o: observed{Local: home, Silent: []netip.AddrPort{ap(a1), ap(a2), ap(b1)}}},
		{name: "one silent server is a silent server", o: observed{Local: home, Silent: []netip.AddrPort{ap(a1), ap(a2)}}},
		{name: "ipv6-firewall", kind: "ipv6-firewall",
			o: observed{Local: []netip.AddrPort{ap("[2001:db8:1::7]:5000")},
				Mappings: to("[2001:db8::1]:3478", "[2001:db8:1::7]:5000", "[2001:db8::2]:3478", "[2001:db8:1::7]:5000"), Filter: byPort},
			mapping: EndpointIndependent, filtering: AddressAndPortDependent, varies: ptr(false)},

		{name: "nothing asked", o: observed{Local: home}},
		{name: "one destination", o: observed{Local: home, Mappings: to(a1, "198.51.100.2:5000")}, pattern: Preserving},
		{name: "one destination, asked twice", o: observed{Local: home, Mappings: to(a1, "198.51.100.2:5000", a1, "198.51.100.2:5001")},
			pattern: Sequential, step: 1},
		{name: "two ports of one address agree", o: observed{Local: home, Mappings: to(a1, "198.51.100.2:5000", a2, "198.51.100.2:5000")},
			varies: ptr(false), pattern: Preserving},
		{name: "two ports of one address differ", o: observed{Local: home, Mappings: to(a1, "198.51.100.2:5000", a2, "198.51.100.2:9999")},
			mapping: AddressAndPortDependent, varies: ptr(true), pattern: Random},
		{name: "two addresses differ, ports unknown", o: observed{Local: home, Mappings: to(a1, "198.51.100.2:5000", b1, "198.51.100.2:9999")},
			varies: ptr(true), pattern: Random},
		{name: "address-dependent",
			o:       observed{Local: home, Mappings: to(a1, "198.51.100.2:5000", a2, "198.51.100.2:5000", b1, "198.51.100.2:9999")},
			mapping: AddressDependent, varies: ptr(true), pattern: Random},
		{name: "a pool of addresses with one port",
			o:       observed{Local: home, Mappings: to(a1, "198.51.100.2:7000", a2, "198.51.100.3:7000")},
			mapping: AddressAndPortDependent, varies: ptr(true)},
		{name: "sequence with others in between, falling",
			o:       observed{Local: home, Mappings: to(a1, "198.51.100.2:7020", a2, "198.51.100.2:7014", b1, "198.51.100.2:7012")},
			mapping: AddressAndPortDependent, varies: ptr(true), pattern: Sequential, step: -2},
		{name: "server without a second address proves nothing by silence",
			o:       observed{Local: home, Mappings: same, Filter: filterTest{Base: true}},
			mapping: EndpointIndependent, varies: ptr(false), pattern: Preserving},
		{name: "an answer from elsewhere proves something all the same",
			o:       observed{Local: home, Mappings: same, Filter: filterTest{Base: true, OtherAddress: true}},
			mapping: EndpointIndependent, filtering: EndpointIndependent, varies: ptr(false), pattern: Preserving, kind: "full-cone"},
		{name: "a refusal is an answer", o: observed{Local: home, Silent: []netip.AddrPort{ap(a1), ap(b1)}, Refused: true}},
		{name: "sockets beside it show the pattern",
			o: observed{Local: home, Mappings: to(a1, "198.51.100.2:7000", b1, "198.51.100.2:7000"),
				Others: []netip.AddrPort{ap("198.51.100.2:7002"), ap("198.51.100.2:7001")}},
			mapping: EndpointIndependent, varies: ptr(false), pattern: Sequential, step: 1},
		{name: "no base, no filtering", o: observed{Local: home, Mappings: same, Filter: filterTest{Able: true}},
			mapping: EndpointIndependent, varies: ptr(false), pattern: Preserving},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := classify(tt.o)
			if n.Mapping != tt.mapping || n.Filtering != tt.filtering {
				t.Errorf("mapping %q, filtering %q; want %q, %q", n.Mapping, n.Filtering, tt.mapping, tt.filtering)
			}
			if !reflect.DeepEqual(n.Varies, tt.varies) {
				t.Errorf("varies %v, want %v", text(n.Varies), text(tt.varies))
			}
			want := Allocation{}
			if tt.pattern != "" {
				want.Pattern = ptr(tt.pattern)
			}
			if tt.pattern == Sequential {
				want.Step = ptr(tt.step)
			}
			if !reflect.DeepEqual(n.Allocation, want) {
				t.Errorf("allocation %s, want %s", text(n.Allocation), text(want))
			}
			if n.Name() != tt.kind {
				t.Errorf("named %q, want %q", n.Name(), tt.kind)
			}
		})
	}
}

func TestClassifyUDP(t *testing.T) {
	silent := []netip.AddrPort{ap("192.0.2.1:3478"), ap("192.0.2.1:3479"), ap("203.0.113.9:3478")}
	for _, tt := range []struct {
		name       string
		o          observed
		want       *bool
		unanswered bool
	}{
		{"nothing asked", observed{}, nil, false},
		{"silence of one", observed{Silent: silent[:1]}, nil, true},
		{"silence of two ports of one address", observed{Silent: silent[:2]}, nil, true},
		{"silence of two addresses", observed{Silent: silent}, ptr(false), false},
		{"refusal", observed{Silent: silent, Refused: true}, ptr(true), false},
		{"answer", observed{Silent: silent, Mappings: to("192.0.2.1:3478", "198.51.100.2:5000")}, ptr(true), false},
	} {
		got := classify(tt.o)
		if !reflect.DeepEqual(got.UDP, tt.want) || got.Unanswered() != tt.unanswered {
			t.Errorf("%s: %s, unanswered %v; want %s, %v", tt.name, text(got.UDP), got.Unanswered(), text(tt.want), tt.unanswered)
		}
		if !reflect.DeepEqual(got.Silent, tt.o.Silent) {
			t.Errorf("%s: silent are %v", tt.name, got.Silent)
		}
	}
}

func TestClassifyHairpin(t *testing.T) {
	local := []netip.AddrPort{ap("10.0.0.7:5000")}
	steady := to("192.0.2.1:3478", "198.51.100.2:5000", "192.0.2.2:3478", "198.51.100.2:5000")
	varying := to("192.0.2.1:3478", "198.51.100.2:5000", "192.0.2.2:3478", "198.51.100.2:6000")
	untranslated := to("192.0.2.1:3478", "10.0.0.7:5000", "192.0.2.2:3478", "10.0.0.7:5000")
	for _, tt := range []struct {
		name     string
		mappings []mapping
		seen     *bool
		want     *bool
	}{
		{"not tried", steady, nil, nil},
		{"came round", steady, ptr(true), ptr(true)},
		{"did not", steady, ptr(false), ptr(false)},
		{"came round though the mapping varies", varying, ptr(true), ptr(true)},
		{"did not, but the mapping varies", varying, ptr(false), nil},
		{"no NAT to come round at", untranslated, ptr(true), nil},
	} {
		if got := classify(observed{Local: local, Mappings: tt.mappings, Hairpin: tt.seen}).Hairpin; !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, text(got), text(tt.want))
		}
	}
}

func text(v any) string { b, _ := json.Marshal(v); return string(b) }

// TestKinds holds the table together: every kind has the name it is found by,
// and one that is shadowed is so by an earlier one.
func TestKinds(t *testing.T) {
	for _, k := range Kinds() {
		n := NAT{UDP: &k.UDP, Mapping: k.Mapping, Filtering: k.Filtering, Translated: &k.Translated}
		if k.Pattern != "" {
			n.Allocation.Pattern = &k.Pattern
		}
		if got := n.Name(); (got != k.Name) != k.Shadowed || got == "" {
			t.Errorf("%s is found as %q", k.Name, got)
		}
	}
}

func TestNATJSON(t *testing.T) {
	unknown := `{"udp":null,"mapping":null,"filtering":null,"hairpin":null,"allocation":{"pattern":null,"step":null},` +
		`"mapped":[],"lifetime_s":null,"port_mapping":{"pcp":null,"nat_pmp":null,"upnp":null}}`
	if got := text(NAT{}); got != unknown {
		t.Errorf("nothing measured:\n%s, want\n%s", got, unknown)
	}
	n := NAT{
		UDP: ptr(true), Mapping: EndpointIndependent, Filtering: AddressAndPortDependent, Hairpin: ptr(false),
		Allocation: Allocation{ptr(Sequential), ptr(1)}, Mapped: []netip.AddrPort{ap("198.51.100.2:5000")},
		Lifetime: ptr(31), PortMapping: PortMapping{ptr(true), ptr(false), nil},
		Translated: ptr(true), Varies: ptr(false),
	}
	known := `{"udp":true,"mapping":"endpoint-independent","filtering":"address-and-port-dependent","hairpin":false,` +
		`"allocation":{"pattern":"sequential","step":1},"mapped":["198.51.100.2:5000"],"lifetime_s":31,` +
		`"port_mapping":{"pcp":true,"nat_pmp":false,"upnp":null}}`
	if got := text(n); got != known {
		t.Errorf("all measured:\n%s, want\n%s", got, known)
	}
	for _, want := range []NAT{{}, n} {
		want.Translated, want.Varies = nil, nil // stay here
		var got NAT
		if err := json.Unmarshal([]byte(text(want)), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("read back %s, %v", text(got), err)
		}
	}
	if err := json.Unmarshal([]byte(`{"mapping":"cone"}`), new(NAT)); err == nil {
		t.Error("cone is a behaviour now")
	}
}
