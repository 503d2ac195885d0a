// Command bench measures this project beside what people use without it, and
// writes docs/measurements.md. `make bench` runs it, as root on Linux: it stands
// in the lab of internal/lab and reaches into its nodes from outside.
//
// Two cores are few, and what a machine gives changes from minute to minute. So
// nothing is compared that was not measured in the same run: each part measures
// ours and its baseline once a round, one after the other, and a ratio is taken
// within a round. The document has medians and spreads of the rounds.
//
//	raw      iperf3 over TCP through both NATs
//	quic     quic-go alone, with its own socket and the windows of our session
//	agents   our session, direct and relayed: p2pagent bench --compare
//	forward  iperf3 through p2pagent connect -L
//	relayed  our session through our relay and through pion/turn as it comes
//	turn     our relay and coturn under the same load of TURN clients
//	memory   our relay and coturn, idle and with idle allocations
//	loss     our session and TCP where packets are lost
//
// Begin reading at run_linux.go; parts_linux.go has the parts in the order of a
// round. bed_linux.go is the lab that they measure in, results.go and bars.go what
// becomes of the figures, document.go how they are told. The program is also the
// two ends of quic, the server of relayed, and the load of turn and memory:
// quic_linux.go, pionturn_linux.go and turnload_linux.go are those subcommands.
//
// What signal costs as a rendezvous is not among the parts, as it needs no lab: it is
// BenchmarkSignaling, in signaling_linux_test.go, for anybody to run.
//
// CPU is user and system time of a process as /proc/PID/stat has it. What the
// kernel does for a packet on its way through the routers of the lab is mostly
// charged to who sent it, as it would be on a network card without offloads.
package main
