package candidates

import (
	"net/netip"
	"slices"
)

// observed is what came of asking. Deciding from it is [classify]'s alone.
type observed struct {
	// Local are the transport addresses under which the asking sockets know
	// themselves: each interface address with the socket's port.
	Local []netip.AddrPort
	// Silent are the destinations that a plain Binding request went to and that
	// had all the time there is to answer, and did not.
	Silent []netip.AddrPort
	// Refused says that a server answered with an error, which passed the NAT too.
	Refused bool
	// Mappings are the other answers, in the order in which the requests were sent.
	Mappings []mapping
	// Others are the mappings of sockets of ours beside the one asked about.
	Others []netip.AddrPort
	// Filter is the outcome of the filtering tests; zero when there were none.
	Filter filterTest
	// Hairpin is nil when the test could not be made.
	Hairpin *bool
}

// mapping is one answer to a plain Binding request: the destination, and the
// source address it saw us with.
type mapping struct{ Dst, Mapped netip.AddrPort }

// filterTest is the outcome of RFC 5780 section 4.4, made from a socket that had
// never sent to any but the server's primary address.
type filterTest struct {
	// Base is an answer to test I: the server is there and answers this socket.
	Base bool
	// Able says that the server announced a second address, by which it
	// promises to honour CHANGE-REQUEST, and was not caught ignoring it. Silence
	// means nothing without it.
	Able bool
	// OneAddress says that no server announced a second address.
	OneAddress bool
	// OtherAddress and OtherPort are answers to tests II and III that really came
	// from another address, or the same address and another port.
	OtherAddress, OtherPort bool
}

// classify says what NAT the observations show. It claims nothing that they
// leave open.
func classify(o observed) NAT {
	n := NAT{Silent: o.Silent}
	if len(o.Mappings) == 0 {
		switch {
		case o.Refused:
			n.UDP = ptr(true)
		case manyHosts(o.Silent):
			n.UDP = ptr(false)
		}
		return n
	}
	n.UDP = ptr(true)
	n.Mapped = distinct(o.Mappings)
	n.Translated = ptr(!slices.Contains(o.Local, n.Mapped[0]))
	n.Mapping, n.Varies = classifyMapping(o.Mappings)
	n.Filtering = classifyFiltering(o.Filter)
	n.OneAddress = o.Filter.OneAddress
	if *n.Translated {
		n.Allocation = classifyAllocation(o.Local, n.Mapped, o.Others)
		// Where the mapping varies, the mapped address that was tried is not the
		// one that the answer would have come to: only a success proves anything.
		if is(n.Varies, false) || is(o.Hairpin, true) {
			n.Hairpin = o.Hairpin
		}
	}
	return n
}

// manyHosts reports that there is more than one host among servers. One that is
// silent is a server that is down, as far as anybody knows, whatever the number of
// its ports; it takes two to say that nothing passes.
func manyHosts(servers []netip.AddrPort) bool {
	return slices.ContainsFunc(servers, func(s netip.AddrPort) bool { return s.Addr() != servers[0].Addr() })
}

// classifyMapping applies RFC 5780 section 4.3 to any set of destinations.
func classifyMapping(ms []mapping) (d Dependence, varies *bool) {
	var addresses, ports, byAddress, byPort bool
	for i, a := range ms {
		for _, b := range ms[:i] {
			switch {
			case a.Dst == b.Dst:
			case a.Dst.Addr() == b.Dst.Addr():
				ports = true
				byPort = byPort || a.Mapped != b.Mapped
			default:
				addresses = true
				byAddress = byAddress || a.Mapped != b.Mapped
			}
		}
	}
	switch {
	case byPort:
		return AddressAndPortDependent, ptr(true)
	case byAddress && ports:
		return AddressDependent, ptr(true)
	case byAddress: // one port each: nothing says whether the port counts too
		return "", ptr(true)
	case addresses:
		return EndpointIndependent, ptr(false)
	case ports:
		return "", ptr(false)
	}
	return "", nil
}

// classifyFiltering applies RFC 5780 section 4.4.
func classifyFiltering(f filterTest) Dependence {
	switch {
	case f.OtherAddress:
		return EndpointIndependent
	case !f.Base || !f.Able:
		return ""
	case f.OtherPort:
		return AddressDependent
	}
	return AddressAndPortDependent
}

// A sequential NAT serves others too: between two mappings of ours may lie some
// of theirs, so up to this many ports each are still taken for a sequence. Four
// random ports fall so close together less than once in a million times.
const sequentialGap = 8

// classifyAllocation tells the pattern from the mappings of one socket, in the
// order of their making, the port that the socket has itself, and the mappings
// of sockets beside it, of no known order.
func classifyAllocation(local, mapped, others []netip.AddrPort) Allocation {
	var ports []int
	preserved := true
	for _, m := range mapped {
		ports = append(ports, int(m.Port()))
		preserved = preserved && slices.ContainsFunc(local, func(l netip.AddrPort) bool { return l.Port() == m.Port() })
	}
	if preserved {
		return Allocation{Pattern: ptr(Preserving)}
	}
	rising := ports[len(ports)-1] >= ports[0]
	for _, o := range others {
		ports = append(ports, int(o.Port()))
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	if len(ports) < 2 {
		return Allocation{} // one port, and not the socket's: could be anything
	}
	step := ports[1] - ports[0]
	for i := 1; i < len(ports); i++ {
		gap := ports[i] - ports[i-1]
		if gap > sequentialGap {
			return Allocation{Pattern: ptr(Random)}
		}
		step = min(step, gap)
	}
	if !rising {
		step = -step
	}
	return Allocation{Pattern: ptr(Sequential), Step: &step}
}

// distinct returns the mapped addresses without repetitions, in order.
func distinct(ms []mapping) []netip.AddrPort {
	var out []netip.AddrPort
	for _, m := range ms {
		if !slices.Contains(out, m.Mapped) {
			out = append(out, m.Mapped)
		}
	}
	return out
}

func ptr[T any](v T) *T { return &v }
