// Package candidates answers two questions about this host: which transport
// addresses might a peer reach it at, and what does the NAT in front of it do
// to them.
//
// A candidate is an address with its origin, in the words of RFC 8445: host
// (an interface of ours), server-reflexive (what a STUN server saw), peer-
// reflexive and relayed. [Gather] lists ours, asking STUN from the very socket
// that will carry the traffic; [Filter] judges the peer's list, which is hostile
// until proved otherwise, before one packet goes to any of it; [DecodeList] reads
// that list from the sealed channel.
//
// A candidate may be in a tunnel, such as a VPN's ([Tunnels]): the kernel says
// what its interfaces are and where its routes lead. Such candidates come last,
// and the peer is told which they are.
//
// A NAT is described in the words of RFC 4787: mapping and filtering, each
// endpoint-independent, address-dependent or address-and-port-dependent. [Probe]
// measures both by the tests of RFC 5780. What was not measured stays unknown
// and is null in JSON; it is never reported as no. The names that people use
// ("full-cone", "symmetric") stand in one table, [Kinds].
//
// The package does not punch, does not speak TURN and decides nothing about
// paths. Relayed candidates come from package relay.
//
// Begin reading at classify.go: the verdict on a NAT as a pure function of what
// was observed. probe.go and gather.go are the loops that observe.
package candidates
