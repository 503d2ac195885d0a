package lab

import (
	"fmt"
	"strings"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Result is what one measured run found, and the object that --json prints. Times
// count from the start of the connecting program.
type Result struct {
	A           string        `json:"a"`
	B           string        `json:"b"`
	SameNAT     bool          `json:"same_nat,omitempty"`
	Connected   bool          `json:"connected"`
	Path        Path          `json:"path"`
	FirstByteMS *int64        `json:"first_byte_ms"` // to a byte that came back through the link; null without
	DirectMS    *int64        `json:"direct_ms"`     // to the move onto a direct path; null when relayed
	Proof       *Proof        `json:"proof"`         // null when not connected
	Verdict     trace.Verdict `json:"verdict"`       // the agent's own last word on its path

	// Exit is the exit code of a connecting program that ended by itself.
	Exit int `json:"-"`
}

// String is the result for people.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", pairName(r.A, r.B, r.SameNAT))
	switch {
	case !r.Connected:
		b.WriteString("no path")
	case r.DirectMS != nil:
		fmt.Fprintf(&b, "%s after %d ms", r.Path, *r.DirectMS)
	default:
		b.WriteString(string(r.Path))
	}
	if r.FirstByteMS != nil {
		fmt.Fprintf(&b, ", first byte after %d ms", *r.FirstByteMS)
	}
	if p := r.Proof; p != nil {
		fmt.Fprintf(&b, "\n  proof: of %d bytes each way the relay carried %d, nat-a saw %d, nat-b %d",
			p.PayloadBytes, p.RelayBytes, p.NATABytes, p.NATBBytes)
	}
	if r.Verdict.Text != "" {
		fmt.Fprintf(&b, "\n  %s", r.Verdict)
	}
	return b.String()
}

func pairName(a, b string, sameNAT bool) string {
	if sameNAT {
		return "both behind one " + a
	}
	return a + " × " + b
}
