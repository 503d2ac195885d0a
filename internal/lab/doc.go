// Package lab builds, on one Linux machine and from the kernel's own parts, the
// network that the product is made for: two peers behind two routers whose NATs
// are known, a routed public side, and the rendezvous server on it. It runs the
// real binaries there, one process a node, and judges from outside what they did.
//
//	peer-a ── nat-a ──┐            ┌── nat-b ── peer-b
//	10.1.0.2          │            │            10.2.0.2
//	       198.51.100.2            203.0.113.2
//	                  └─── core ───┘
//	            192.0.2.2  │  │  192.0.2.130
//	               signal ─┘  └─ server
//
// Each node is a network namespace. The public side is routed, one network per
// site, because a packet that should die on the way to the other router needs a
// hop to die at; what the core cannot route it drops in silence. A site whose
// kind is "none" has public addresses on its LAN and a router that only routes.
// With one NAT for both (Topology.SameNAT) there is no nat-b, and peer-b shares
// peer-a's LAN.
//
// Nothing outside is touched: a command that needs a lab runs itself once more
// with namespaces of its own ([Enter]) and is process 1 in there, so the kernel
// ends every node and every process with it, however it dies. Root is not needed
// where the kernel lets a user make namespaces.
//
// A NAT is iptables rules (rules.go), and is believed only after it was measured
// from its peer with our own prober (natcheck.go). A path is believed only after
// payload was sent over it and counted in the relay and in both routers
// (verdict.go).
//
// The package does not know how agents work: of the product it uses the command
// line, the trace and the prober. It makes no delay; the kernel parts for that
// are not everywhere.
//
// Begin reading at kinds.go, then rules.go; plan.go has the addresses; run_linux.go
// is a measured run from beginning to end. Of the rest, *_linux.go does and the
// other files decide.
package lab
