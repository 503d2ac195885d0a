package udpsock

import "sync/atomic"

// Counters are totals since Listen.
type Counters struct {
	Reads     uint64 // system calls that returned datagrams
	RxPackets uint64 // datagrams read
	RxBytes   uint64
	RxErrors  uint64 // reads that failed and were survived

	Sends     uint64 // system calls that sent datagrams
	TxPackets uint64 // datagrams sent
	TxBytes   uint64
	TxErrors  uint64 // datagrams that the kernel refused to send

	KernelDrops uint64 // received, but dropped by the kernel for want of buffer
	Malformed   uint64 // STUN by its first byte that Check refused; empty datagrams, unless Raw
	Stray       uint64 // answers to a RoundTrip from where it did not ask
}

type counts struct {
	reads, rxPackets, rxBytes, rxErrors atomic.Uint64
	sends, txPackets, txBytes, txErrors atomic.Uint64
	malformed, stray                    atomic.Uint64
}

// Counters returns the totals so far.
func (s *Socket) Counters() Counters {
	c := &s.counts
	return Counters{
		Reads:       c.reads.Load(),
		RxPackets:   c.rxPackets.Load(),
		RxBytes:     c.rxBytes.Load(),
		RxErrors:    c.rxErrors.Load(),
		Sends:       c.sends.Load(),
		TxPackets:   c.txPackets.Load(),
		TxBytes:     c.txBytes.Load(),
		TxErrors:    c.txErrors.Load(),
		KernelDrops: s.conn.drops(),
		Malformed:   c.malformed.Load(),
		Stray:       c.stray.Load(),
	}
}
