package candidates

// Kind is a NAT by the name that people use for it.
type Kind struct {
	Name       string
	UDP        bool // UDP passes at all
	Translated bool
	Mapping    Dependence // "" where nothing can be measured
	Filtering  Dependence
	Pattern    Pattern // "" where it is not part of the name
	// Shadowed is true for a kind that STUN cannot tell from an earlier one.
	Shadowed bool
}

// Kinds is the one table from the names that people use to the words of RFC
// 4787: what [Probe] has to find behind each of them.
func Kinds() []Kind {
	const (
		ei  = EndpointIndependent
		ad  = AddressDependent
		apd = AddressAndPortDependent
	)
	return []Kind{
		{Name: "none", UDP: true, Mapping: ei, Filtering: ei},
		{Name: "full-cone", UDP: true, Translated: true, Mapping: ei, Filtering: ei},
		{Name: "address-restricted", UDP: true, Translated: true, Mapping: ei, Filtering: ad},
		{Name: "port-restricted", UDP: true, Translated: true, Mapping: ei, Filtering: apd},
		// Accepts packets to the router itself, which only its peers can find out.
		{Name: "port-restricted-open", UDP: true, Translated: true, Mapping: ei, Filtering: apd, Shadowed: true},
		{Name: "symmetric", UDP: true, Translated: true, Mapping: apd, Filtering: apd, Pattern: Random},
		{Name: "symmetric-sequential", UDP: true, Translated: true, Mapping: apd, Filtering: apd, Pattern: Sequential},
		// Two NATs in a row behave as the stricter of them.
		{Name: "cgnat", UDP: true, Translated: true, Mapping: ei, Filtering: apd, Shadowed: true},
		{Name: "udp-blocked", Translated: true},
		{Name: "ipv6-firewall", UDP: true, Mapping: ei, Filtering: apd},
	}
}

// Name returns the name that people use for n, or "" where n is not known well
// enough, or fits none of them.
func (n NAT) Name() string {
	for _, k := range Kinds() {
		if !k.Shadowed && k.fits(n) {
			return k.Name
		}
	}
	return ""
}

func (k Kind) fits(n NAT) bool {
	if !k.UDP {
		return is(n.UDP, false)
	}
	return is(n.UDP, true) && is(n.Translated, k.Translated) &&
		n.Mapping == k.Mapping && n.Filtering == k.Filtering &&
		(k.Pattern == "" || n.Allocation.Pattern != nil && *n.Allocation.Pattern == k.Pattern)
}
