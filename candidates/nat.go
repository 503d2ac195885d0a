package candidates

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Dependence is on what a NAT's mapping or filtering depends (RFC 4787 sections
// 4.1 and 5). The empty string is "not measured" and null in JSON.
type Dependence string

// The three behaviours of RFC 4787.
const (
	EndpointIndependent     Dependence = "endpoint-independent"
	AddressDependent        Dependence = "address-dependent"
	AddressAndPortDependent Dependence = "address-and-port-dependent"
)

// MarshalJSON writes the word, or null when it was not measured.
func (d Dependence) MarshalJSON() ([]byte, error) {
	if d == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(d))
}

// UnmarshalJSON reads what MarshalJSON wrote and refuses any other word.
func (d *Dependence) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == nil {
		*d = ""
		return nil
	}
	switch v := Dependence(*s); v {
	case EndpointIndependent, AddressDependent, AddressAndPortDependent:
		*d = v
		return nil
	}
	return fmt.Errorf("%.40q is no behaviour of RFC 4787", *s)
}

// Pattern is how a NAT chooses the external port of a new mapping.
type Pattern string

// The allocation patterns that are told apart.
const (
	Preserving Pattern = "preserving" // the internal port, where it is free
	Sequential Pattern = "sequential" // a constant step from the last one
	Random     Pattern = "random"
)

// Allocation is a NAT's port allocation. Step is nil unless it is sequential.
type Allocation struct {
	Pattern *Pattern `json:"pattern"`
	Step    *int     `json:"step"`
}

// PortMapping tells which protocols the router offers to map a port on request.
type PortMapping struct {
	PCP    *bool `json:"pcp"`
	NATPMP *bool `json:"nat_pmp"`
	UPnP   *bool `json:"upnp"`
}

// NAT is what is known of the NATs between a socket and the public network, as
// if they were one. Its JSON form is that of `p2pagent nat --json`; whatever was
// not measured is null.
type NAT struct {
	// UDP is true when a STUN server answered, and false when none did and there
	// were servers at more than one address.
	UDP         *bool            `json:"udp"`
	Mapping     Dependence       `json:"mapping"`
	Filtering   Dependence       `json:"filtering"`
	Hairpin     *bool            `json:"hairpin"`
	Allocation  Allocation       `json:"allocation"`
	Mapped      trace.Addrs      `json:"mapped"` // in the order of asking, without repetitions
	Lifetime    *int             `json:"lifetime_s"`
	PortMapping PortMapping      `json:"port_mapping"`
	Silent      []netip.AddrPort `json:"silent,omitempty"` // servers that did not answer

	// Translated is false when servers saw an address of this very host.
	Translated *bool `json:"-"`
	// OneAddress says that no server had a second address, which filtering needs.
	OneAddress bool `json:"-"`
	// Varies tells whether the mapping was seen to differ between destinations.
	// It can be known where Mapping is not: two ports of one server that see the
	// same mapping rule out address-and-port-dependent and nothing else.
	Varies *bool `json:"-"`
}

// Event returns n as a trace event.
func (n NAT) Event() trace.NATMeasured {
	word := func(d Dependence) *string {
		if d == "" {
			return nil
		}
		s := string(d)
		return &s
	}
	return trace.NATMeasured{UDP: n.UDP, Mapping: word(n.Mapping), Filtering: word(n.Filtering), Mapped: n.Mapped}
}

// Unanswered reports that servers were asked and none has answered, all of them at
// one address: either they are down, or no UDP passes.
func (n NAT) Unanswered() bool { return n.UDP == nil && len(n.Silent) > 0 }

// is reports that a value is known and equal to want.
func is(known *bool, want bool) bool { return known != nil && *known == want }
