package lab

import (
	"fmt"
	"slices"
	"strings"

	"github.com/p2pagent/p2pagent/candidates"
)

// Kind is a NAT that the lab can build: what it has to be in RFC 4787 words, and
// the rules that make it so.
type Kind struct {
	candidates.Kind
	// OpenRouter is true where the router accepts packets to itself. A peer's
	// probe that comes before our own packet is then confirmed as a connection of
	// the router's, and our packet to that peer leaves from another port.
	OpenRouter bool

	rules func(Router) []Rule
}

// Kinds lists the NATs that the lab can build, in the order of the matrix.
func Kinds() []Kind {
	recipes := []struct {
		name       string
		openRouter bool
		rules      func(Router) []Rule
	}{
		{"none", false, routeOnly},
		{"full-cone", false, fullCone},
		{"address-restricted", false, addressRestricted},
		{"port-restricted", false, portRestricted},
		{"port-restricted-open", true, portRestrictedOpen},
		{"symmetric", false, symmetric},
		{"udp-blocked", false, udpBlocked},
	}
	words := candidates.Kinds()
	kinds := make([]Kind, 0, len(recipes))
	for _, r := range recipes {
		i := slices.IndexFunc(words, func(k candidates.Kind) bool { return k.Name == r.name })
		kinds = append(kinds, Kind{Kind: words[i], OpenRouter: r.openRouter, rules: r.rules})
	}
	return kinds
}

// ParseKind returns the kind with that name.
func ParseKind(name string) (Kind, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("the lab has no NAT %q; it has %s", name, strings.Join(names, ", "))
}

// Path is the kind of path between two peers.
type Path string

// The paths there are. Unproven is a working link whose payload was seen neither
// in the relay nor in both routers.
const (
	Direct   Path = "direct"
	Relayed  Path = "relayed"
	NoPath   Path = "none"
	Unproven Path = "unproven"
)

// Expected is the path that two agents have to find between two NATs. One NAT for
// both leaves them a LAN.
func Expected(a, b Kind, sameNAT bool) Path {
	switch {
	case sameNAT:
		return Direct
	case !a.UDP || !b.UDP:
		return Relayed
	case steady(a) && steady(b):
		return Direct
	case steady(a) && !byPort(a), steady(b) && !byPort(b):
		// The other side's port is not known before its packet comes, and this
		// side lets that packet in.
		return Direct
	}
	return Relayed
}

func steady(k Kind) bool { return k.Mapping == candidates.EndpointIndependent }
func byPort(k Kind) bool { return k.Filtering == candidates.AddressAndPortDependent }
