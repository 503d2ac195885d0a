package punch

import "time"

// What one attempt may send, whatever the peer asks for. An ICE agent answers
// every request and knows no limit of its own, so the limit stands below it.
const (
	sendRate   = 200 // packets per second
	sendBurst  = 20
	sendBudget = 4000 // packets in all; 20 s at full rate

	// checkRate is the part of sendRate that ordinary checks share. The rest is
	// for answers and for checks that the peer is known to wait for.
	checkRate = 150
	// answerReserve are tokens that only answers and triggered checks may take.
	answerReserve = 6
)

// urgency is how much a packet matters when there are more than may be sent.
type urgency int

const (
	ordinary  urgency = iota // a check to an address that was never heard
	triggered                // a check to an address heard, a nomination, an answer, an opener
)

// pacer is a token bucket with a budget. Its methods take the time as an
// argument and are not safe for concurrent use.
type pacer struct {
	tokens float64
	last   time.Time
	spent  int
}

func newPacer(now time.Time) pacer { return pacer{tokens: sendBurst, last: now} }

// take reports whether a packet may be sent now, and counts it if so.
func (p *pacer) take(u urgency, now time.Time) bool {
	if d := now.Sub(p.last); d > 0 {
		p.tokens = min(sendBurst, p.tokens+d.Seconds()*sendRate)
		p.last = now
	}
	need := 1.0
	if u == ordinary {
		need += answerReserve
	}
	if p.tokens < need || p.spent >= sendBudget {
		return false
	}
	p.tokens--
	p.spent++
	return true
}

// exhausted reports that the budget is gone: nothing will be sent any more.
func (p *pacer) exhausted() bool { return p.spent >= sendBudget }

// checkGap is the time between two ordinary checks to one of n destinations.
// The agent walks its list in the same order at every tick; without a gap for
// each destination the head of the list would take every token and the tail
// would never be tried.
func checkGap(n int) time.Duration {
	return time.Duration(n) * time.Second / checkRate
}
