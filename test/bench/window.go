package main

// A window is how a flat-out sender finds what a server can take, the way a
// congestion-controlled one does: it lets so many packets be on the way, more with
// every one that arrives, and half as many when some are lost. A load that ignored
// losses would measure how fast packets can be dropped.
//
// It is one sender's; what the receiver knows comes to it as two counts.
type window struct {
	size, most float64 // in packets

	sent    uint64 // packets
	through uint64 // those that are on the way no longer, arrived or lost
	lost    uint64
	regret  uint64 // losses among the packets before this one have been answered
	growing bool   // nothing was lost so far: the size doubles
}

const (
	firstWindow = 8
	leastWindow = 2
)

func newWindow(most int) *window {
	return &window{size: firstWindow, most: float64(most), growing: true}
}

// room is how many packets may be sent now.
func (w *window) room() int { return max(int(w.size)-int(w.sent-w.through), 0) }

func (w *window) took(packets int) { w.sent += uint64(packets) }

// heard takes the receiver's counts: the packets up to the latest that arrived, and
// how many of them are missing.
func (w *window) heard(through, lost uint64) {
	if through <= w.through {
		return
	}
	arrived := float64(through - w.through)
	w.through = through
	switch {
	case lost > w.lost && through > w.regret:
		w.halve()
	case w.growing:
		w.size += arrived
	default:
		w.size += arrived / w.size
	}
	w.lost = lost
	w.size = min(w.size, w.most)
}

// stalled gives up on what is on the way.
func (w *window) stalled() {
	w.lost += w.sent - w.through
	w.through = w.sent
	w.halve()
}

func (w *window) halve() {
	w.size = max(w.size/2, leastWindow)
	w.regret, w.growing = w.sent, false
}
