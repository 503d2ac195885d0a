package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Proof is what was counted while payload went through a link, PayloadBytes in
// each direction.
type Proof struct {
	PayloadBytes int64 `json:"payload_bytes"`
	// RelayBytes is by how much the relay's payload counters grew, all together.
	RelayBytes int64 `json:"relay_bytes"`
	// NATABytes and NATBBytes are by how much the routers' connections with the
	// other side's public address grew, in the direction where they grew less.
	// With one NAT for both they are the same of the peers' ports on the LAN.
	NATABytes int64 `json:"nat_a_bytes"`
	NATBBytes int64 `json:"nat_b_bytes"`
}

// Path is what the proof proves.
func (p Proof) Path() Path {
	switch {
	case p.RelayBytes*100 < p.PayloadBytes && p.NATABytes >= p.PayloadBytes && p.NATBBytes >= p.PayloadBytes:
		return Direct
	case p.RelayBytes >= p.PayloadBytes:
		return Relayed
	}
	return Unproven
}

// counters is one reading of everything that a proof compares.
type counters struct {
	relay int64
	sites [2]traffic // at nat-a and nat-b, or at the ports of peer-a and peer-b
}

func (after counters) since(before counters, payload int64) Proof {
	return Proof{
		PayloadBytes: payload,
		RelayBytes:   after.relay - before.relay,
		NATABytes:    after.sites[0].since(before.sites[0]),
		NATBBytes:    after.sites[1].since(before.sites[1]),
	}
}

// traffic is a number of bytes each way.
type traffic struct{ out, in int64 }

func (after traffic) since(before traffic) int64 {
	return min(after.out-before.out, after.in-before.in)
}

// trafficWith adds up the connections with one address in what `conntrack -L -o
// extended` prints with accounting on.
func trafficWith(list string, public netip.Addr) (traffic, error) {
	var sum traffic
	for line := range strings.Lines(list) {
		t, err := rowTraffic(line, public)
		if err != nil {
			return sum, fmt.Errorf("conntrack row %q: %w", strings.TrimSpace(line), err)
		}
		sum.out += t.out
		sum.in += t.in
	}
	return sum, nil
}

// rowTraffic reads one row: the original direction's key=value pairs, then the
// same keys for the replies.
func rowTraffic(line string, public netip.Addr) (traffic, error) {
	var ends []netip.Addr // src, dst of the original direction, then of the replies
	var bytes []int64
	for field := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "src", "dst":
			a, err := netip.ParseAddr(value)
			if err != nil {
				return traffic{}, err
			}
			ends = append(ends, a)
		case "bytes":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return traffic{}, err
			}
			bytes = append(bytes, n)
		}
	}
	if len(ends) == 0 || !slices.Contains(ends[:min(2, len(ends))], public) {
		return traffic{}, nil
	}
	if len(ends) != 4 || len(bytes) != 2 {
		return traffic{}, errors.New("no byte counts; is nf_conntrack_acct on?")
	}
	if ends[0] == public { // they spoke first
		return traffic{out: bytes[1], in: bytes[0]}, nil
	}
	return traffic{out: bytes[0], in: bytes[1]}, nil
}

// lastPath is the path that the side which recorded the events is on; nil for none.
func lastPath(events []trace.Record) *trace.Path {
	for _, r := range slices.Backward(events) {
		if e, ok := r.Event.(trace.PathChanged); ok {
			return e.To
		}
	}
	return nil
}

// moves is how often the session changed its path.
func moves(events []trace.Record) int {
	n := 0
	for _, r := range events {
		if _, ok := r.Event.(trace.PathChanged); ok {
			n++
		}
	}
	return n
}

// settled reports that nothing better is to be waited for: the link is direct or,
// where only a relay is expected, an attempt has shown it.
func settled(events []trace.Record, expected Path) bool {
	if p := lastPath(events); p != nil && p.Kind == string(Direct) {
		return true
	}
	if expected == Direct {
		return false
	}
	return slices.ContainsFunc(events, func(r trace.Record) bool {
		e, ok := r.Event.(trace.AttemptEnded)
		return ok && !e.OK
	})
}

// wentDirect is the record of the first move onto a direct path.
func wentDirect(events []trace.Record) (trace.Record, bool) {
	i := slices.IndexFunc(events, func(r trace.Record) bool {
		e, ok := r.Event.(trace.PathChanged)
		return ok && e.To != nil && e.To.Kind == string(Direct)
	})
	if i < 0 {
		return trace.Record{}, false
	}
	return events[i], true
}

// lastVerdict is the agent's own last word on its path.
func lastVerdict(events []trace.Record) trace.Verdict {
	for _, r := range slices.Backward(events) {
		if v, ok := r.Event.(trace.Verdict); ok {
			return v
		}
	}
	return trace.Verdict{}
}

// parseLinkTraffic reads `ip -s -j link show dev` of a port, seen from the host at
// its other end.
func parseLinkTraffic(out string) (traffic, error) {
	var links []struct {
		Stats struct {
			RX, TX struct{ Bytes int64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		return traffic{}, fmt.Errorf("counters of a port: %v: %q", err, out)
	}
	return traffic{out: links[0].Stats.RX.Bytes, in: links[0].Stats.TX.Bytes}, nil
}
