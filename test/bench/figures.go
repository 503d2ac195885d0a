package main

import (
	"fmt"
	"time"
)

// The figures of a run. Rates are Mbit/s of payload, CPU is seconds for 10^9 bytes
// of payload, memory is MB of 10^6 bytes.
const (
	rawMbps key = "raw.mbps"

	quicMbps    key = "quic.mbps"
	quicSendCPU key = "quic.cpu.send"
	quicRecvCPU key = "quic.cpu.receive"
	quicCPU     key = "quic.cpu"

	directMbps    key = "direct.mbps"
	directSendCPU key = "direct.cpu.send"
	directRecvCPU key = "direct.cpu.receive"
	directCPU     key = "direct.cpu"

	compareDirectMbps     key = "compare.direct.mbps"
	compareDirectSendCPU  key = "compare.direct.cpu.send"
	compareDirectRecvCPU  key = "compare.direct.cpu.receive"
	compareRelayedMbps    key = "compare.relayed.mbps"
	compareRelayedSendCPU key = "compare.relayed.cpu.send"
	compareRelayedRecvCPU key = "compare.relayed.cpu.receive"
	compareRelayCPU       key = "compare.relayed.cpu.relay"

	benchRSS  key = "bench.rss"
	listenRSS key = "listen.rss"

	forwardMbps key = "forward.mbps"
)

// The servers that are compared.
const (
	signalServer = "signal"
	coturnServer = "coturn"
	pionServer   = "pion/turn"
)

// relayedKey is of our session through a server: mbps, or cpu, which is the server's.
func relayedKey(server, what string) key { return key("relayed." + server + "." + what) }

func idleRSS(server string) key      { return key(server + ".rss.idle") }
func heldRSS(server string) key      { return key(server + ".rss.held") }
func allocationKB(server string) key { return key(server + ".allocation.kb") }

// lossShares are what the loss part loses, of the packets each way.
func lossShares() []float64 { return []float64{0.01, 0.05} }

func lossKey(share float64, what string) key {
	return key(fmt.Sprintf("loss.%v.%s", share, what))
}

// A turnLoad is one way to load a TURN server.
type turnLoad struct {
	toClient bool    // from the peers to the clients, else the other way
	gso      bool    // UDP_SEGMENT and UDP_GRO at both ends, as our agents do, else a datagram each
	mbps     float64 // of all clients; 0 is flat out
}

const (
	loadClients = 8
	loadPayload = 1200 // bytes in a packet
	fixedMbps   = 400
	plainBurst  = 8  // packets in one sendmmsg
	gsoBurst    = 40 // in one super-packet, which has room for 54
)

func (l turnLoad) flatOut() bool { return l.mbps == 0 }

// turnLoads are all of them.
func turnLoads() (list []turnLoad) {
	for _, gso := range []bool{false, true} {
		for _, mbps := range []float64{fixedMbps, 0} {
			for _, toClient := range []bool{false, true} {
				list = append(list, turnLoad{toClient: toClient, gso: gso, mbps: mbps})
			}
		}
	}
	return list
}

func (l turnLoad) variant() string {
	if l.gso {
		return "gso"
	}
	return "plain"
}

func (l turnLoad) rate() string {
	if l.flatOut() {
		return "flat out"
	}
	return fmt.Sprintf("%v Mbit/s", l.mbps)
}

func (l turnLoad) direction() string {
	if l.toClient {
		return "peer to client"
	}
	return "client to peer"
}

func (l turnLoad) String() string {
	return fmt.Sprintf("%s, %s, %s", l.variant(), l.rate(), l.direction())
}

func (l turnLoad) key(server, what string) key {
	return key(fmt.Sprintf("turn.%s.%s.%s", server, l, what))
}

// An effort is how long a run takes.
type effort struct {
	rounds      int
	seconds     int           // of iperf3 and quic-go
	omit        int           // of iperf3's start, not counted
	skip        time.Duration // the same of quic-go's
	compareFor  int           // seconds of p2pagent bench --compare, of each path; it takes no fewer
	benchFor    int           // the same where only one path is measured
	loadFor     time.Duration // of a TURN load
	allocations int           // idle ones
}

func fullEffort(rounds int) effort {
	return effort{rounds: rounds, seconds: 4, omit: 1, skip: 500 * time.Millisecond, compareFor: 10, benchFor: 4, loadFor: 4 * time.Second, allocations: 1000}
}

func quickEffort() effort {
	return effort{rounds: 1, seconds: 1, skip: 200 * time.Millisecond, compareFor: 10, benchFor: 2, loadFor: time.Second, allocations: 100}
}
