package measure

import (
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// A Report is what `p2pagent bench` found: the object of --json, and what the
// HTML report is drawn from. Rates are megabits (10^6) of payload a second,
// bytes are integers, what was not measured is null or absent, never zero.
type Report struct {
	Direct  *Figures `json:"direct,omitempty"`  // absent: that path could not be measured
	Relayed *Figures `json:"relayed,omitempty"` // likewise
	Rounds  []Round  `json:"rounds"`            // in the order in which they ran

	Missing map[string]string `json:"missing,omitempty"` // by path, why it has no figures
	Cut     string            `json:"cut,omitempty"`     // why it ended before all rounds had run

	Sender   End `json:"sender"`
	Receiver End `json:"receiver"`

	Verdict trace.Verdict `json:"verdict"` // which path the link takes, and why

	Peer    string    `json:"peer"`
	Time    time.Time `json:"time"` // of the start
	Options Options   `json:"options"`
	Machine Machine   `json:"machine"` // of the side that ran bench
	Version string    `json:"version"`
}

// Options are what was asked for.
type Options struct {
	Compare   bool    `json:"compare"`
	Seconds   float64 `json:"seconds"` // of one round, its start included
	Skip      float64 `json:"skip_s"`  // at the start of each round, not counted
	Rounds    int     `json:"rounds"`  // of each path
	Streams   int     `json:"streams"`
	Direction string  `json:"direction"` // "send", "receive", "both"; as bench sees it
	UDPMbps   float64 `json:"udp_mbps,omitempty"`
}

// Figures are one path's, the medians of its rounds.
type Figures struct {
	Goodput       float64    `json:"goodput_mbps"`                // both directions together
	GoodputSpread [2]float64 `json:"goodput_mbps_range"`          // least and most of the rounds
	Sent          *float64   `json:"goodput_sent_mbps,omitempty"` // with both directions, what this side sent
	Received      *float64   `json:"goodput_received_mbps,omitempty"`

	RTT50       *float64 `json:"rtt_p50_ms"` // idle
	RTT99       *float64 `json:"rtt_p99_ms"`
	LoadedRTT50 *float64 `json:"loaded_rtt_p50_ms"` // while payload flowed
	LoadedRTT99 *float64 `json:"loaded_rtt_p99_ms"`
	Jitter      *float64 `json:"jitter_ms"` // with --udp that of the datagrams (RFC 3550, section 6.4.1), else of the idle round trips

	Loss        *float64 `json:"loss"`         // 0 to 1: of datagrams with --udp, else of QUIC's packets as their sender sees it
	MTU         *int     `json:"mtu"`          // longest UDP payload proved, bytes: the least of the rounds
	CPUPerGB    *float64 `json:"cpu_s_per_gb"` // of this process, user and system, for 10^9 bytes of payload
	SocketDrops *uint64  `json:"socket_drops"` // datagrams that either side's kernel dropped for want of buffer

	// What the relay counted on its two legs while this path was measured:
	// payload that came in, and payload that went out. Absent on the direct
	// path, null when the relay does not tell.
	RelayBytesIn  *uint64 `json:"relay_bytes_in,omitempty"`
	RelayBytesOut *uint64 `json:"relay_bytes_out,omitempty"`
	PayloadBytes  uint64  `json:"payload_bytes"` // of the application, all rounds, whole rounds
}

// A Round is one measurement of one path.
type Round struct {
	Path      string  `json:"path"`      // "direct", "relayed"
	Direction string  `json:"direction"` // "send", "receive", "both"
	Start     float64 `json:"start_s"`   // since the start of the run

	*Result        // its members are the round's; absent where it has none
	Error   string `json:"error,omitempty"` // why there is no result

	RTTs       []float64 `json:"rtts_ms,omitempty"`        // idle, before the round
	LoadedRTTs []float64 `json:"loaded_rtts_ms,omitempty"` // during it
}

// A Result is what a round has shown.
type Result struct {
	Seconds float64 `json:"seconds"` // that were counted

	Bytes    uint64   `json:"bytes"`                       // payload that arrived in them
	Goodput  float64  `json:"goodput_mbps"`                // both directions together
	Sent     *float64 `json:"goodput_sent_mbps,omitempty"` // with both directions, what this side sent
	Received *float64 `json:"goodput_received_mbps,omitempty"`

	// Intervals are the payload of each tenth of a second from the first byte
	// that arrived, in megabits a second, what was skipped included.
	Intervals []float64 `json:"intervals_mbps"`

	CPUPerGB *float64 `json:"cpu_s_per_gb"`
	Loss     *float64 `json:"loss"`
	Jitter   *float64 `json:"jitter_ms"`
	MTU      *int     `json:"mtu"`

	// What crossed the other paths meanwhile, both sides' sends, by class.
	// Only Probes may be more than nothing.
	Elsewhere Classes `json:"elsewhere"`
	Here      Classes `json:"here"` // and the path that was measured
}

// Classes are bytes of UDP payload by what they are.
type Classes struct {
	Payload   uint64 `json:"payload"`
	Fragments uint64 `json:"fragments"`
	Replays   uint64 `json:"replays"`
	Probes    uint64 `json:"probes"`
}

// An End is what one side says of itself. With both directions "sender" is the
// side that ran bench.
type End struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Machine     Machine  `json:"machine"`
	CPUDirect   *float64 `json:"cpu_s_per_gb_direct"` // medians
	CPURelayed  *float64 `json:"cpu_s_per_gb_relayed"`
	RSSBytes    *uint64  `json:"rss_bytes"` // at the end
	SocketDrops *uint64  `json:"socket_drops"`
	GSO         *bool    `json:"gso"` // sends are cut by the kernel
	GRO         *bool    `json:"gro"` // reads are coalesced by it
}

// A Machine is what a process runs on.
type Machine struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	CPUs   int    `json:"cpus"`
	CPU    string `json:"cpu,omitempty"`
	Kernel string `json:"kernel,omitempty"`
}
