package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A document is docs/measurements.md.
type document struct {
	results *results
	effort  effort
	parts   []string // that were measured
	quick   bool
	machine machine
	command string
	began   time.Time
	took    time.Duration
}

// A machine is what was measured with.
type machine struct {
	cpu, kernel string
	programs    []string // names and versions
}

var versionNumber = regexp.MustCompile(`\d+\.\d[\w.+-]*|\(devel\)`)

// firstVersion finds what a program says with --version.
func firstVersion(text string) (string, bool) {
	v := versionNumber.FindString(text)
	return strings.Trim(v, "()"), v != ""
}

// cpuModel finds the processor in /proc/cpuinfo.
func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func (d document) writeFile(name string) error {
	if name == "-" {
		return d.write(os.Stdout)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	var text strings.Builder
	if err := d.write(&text); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text.String()), 0o644)
}

// write tells everything: what was measured and how, then the bars, then figures.
func (d document) write(w io.Writer) error {
	var text strings.Builder
	d.head(&text)
	table(&text, "Bars", "", []string{"", "wanted", "measured", ""}, d.barRows())
	for _, section := range []struct {
		of    []string // parts
		write func(*strings.Builder)
	}{
		{[]string{"raw", "quic", "agents", "forward", "relayed"}, d.throughput},
		{[]string{"loss"}, d.loss},
		{[]string{"turn"}, d.turn},
		{[]string{"memory", "agents"}, d.memory},
	} {
		if slices.ContainsFunc(section.of, func(p string) bool { return slices.Contains(d.parts, p) }) {
			section.write(&text)
		}
	}
	d.failures(&text)
	_, err := io.WriteString(w, text.String())
	return err
}

func (d document) head(w *strings.Builder) {
	fmt.Fprintf(w, "# Measurements\n\n")
	if d.quick {
		fmt.Fprintf(w, "**From a run with `-quick`: these figures mean nothing.**\n\n")
	}
	fmt.Fprintf(w, "Made by `make bench` (`%s`) on %s, in %v. Do not edit.\n\n", d.command, d.began.UTC().Format("2 January 2006"), d.took.Round(time.Second))
	fmt.Fprintf(w, "- machine: %s, %d cores, Linux %s\n", d.machine.cpu, runtime.NumCPU(), d.machine.kernel)
	fmt.Fprintf(w, "- programs: %s, %s\n", runtime.Version(), cmp.Or(strings.Join(d.machine.programs, ", "), "versions unknown"))
	fmt.Fprintf(w, "- network: `p2pagent lab`, port-restricted NATs on both sides; veth, no delay, and no loss where none is named\n")
	fmt.Fprintf(w, "- rounds: %d; each measures everything once, in turn\n\n", d.effort.rounds)
	fmt.Fprintf(w, `All ends, routers and servers share the cores, so what one takes the others lack: read
the ratios. A figure is the median of the rounds, with least and most; a ratio is taken
within each round. Mbit/s is 10^6 bits of payload; CPU is user and system time for 10^9
bytes of payload that arrived, in seconds; MB is 10^6 bytes.

`)
}

// figure is one cell: the spread of a figure, or a dash.
func (d document) figure(k key) string {
	s, ok := d.results.of(k)
	if !ok {
		return "–"
	}
	return s.String()
}

func (d document) ratio(a, b key) string {
	s, ok := d.results.ratio(a, b)
	if !ok {
		return "–"
	}
	return s.String()
}

func (d document) barRows() (rows [][]string) {
	for _, b := range bars() {
		s, judged := b.judge(d.results)
		measured := "–"
		if judged != notMeasured {
			measured = s.String()
		}
		rows = append(rows, []string{b.what, b.wanted(), measured, string(judged)})
	}
	return rows
}

func (d document) throughput(w *strings.Builder) {
	row := func(name string, mbps, send, receive key) []string {
		cells := []string{name, d.figure(mbps), d.ratio(mbps, rawMbps), "", ""}
		if send != "" {
			cells[3], cells[4] = d.figure(send), d.figure(receive)
		}
		return cells
	}
	table(w, "Throughput", fmt.Sprintf(`From peer-a to peer-b, through both NATs. iperf3 and quic-go send for %d s; quic-go
has its own socket and the windows of our session, and its first %v are not counted,
nor are %d s of iperf3's. Our session is that of `+"`p2pagent bench`"+`, which measures in
rounds of two seconds, and does not count the first half second of each: %d s with
`+"`--require direct`"+` and with `+"`--relay-only`"+`, %d s of each path with `+"`--compare`"+`, which goes
to and fro between them. CPU is that of whole processes, but with `+"`--compare`"+` what they
report for a path.`,
		d.effort.seconds, d.effort.skip, d.effort.omit, d.effort.benchFor, d.effort.compareFor),
		[]string{"", "Mbit/s", "of raw TCP", "CPU, sender", "CPU, receiver"}, [][]string{
			row("raw TCP (iperf3)", rawMbps, "", ""),
			row("plain quic-go", quicMbps, quicSendCPU, quicRecvCPU),
			row("our session, direct", directMbps, directSendCPU, directRecvCPU),
			row("`--compare`, direct", compareDirectMbps, compareDirectSendCPU, compareDirectRecvCPU),
			row("`--compare`, relayed", compareRelayedMbps, compareRelayedSendCPU, compareRelayedRecvCPU),
			row("iperf3 through `-L`, direct", forwardMbps, "", ""),
			row("our session, `--relay-only`, our relay", relayedKey(signalServer, "mbps"), "", ""),
			row("our session, `--relay-only`, coturn", relayedKey(coturnServer, "mbps"), "", ""),
			row("our session, `--relay-only`, pion/turn", relayedKey(pionServer, "mbps"), "", ""),
		})
	fmt.Fprintf(w, `The CPU of the relay for a GB of the session's payload, with the packets that go back and
the start and the end of the session: ours %s s (%s with `+"`--compare`"+`), coturn %s s, pion/turn %s s.

`, d.figure(relayedKey(signalServer, "cpu")), d.figure(compareRelayCPU), d.figure(relayedKey(coturnServer, "cpu")), d.figure(relayedKey(pionServer, "cpu")))
}

func (d document) loss(w *strings.Builder) {
	var rows [][]string
	for _, share := range lossShares() {
		tcp, direct := lossKey(share, "tcp"), lossKey(share, "direct")
		rows = append(rows, []string{fmt.Sprintf("%v %%", 100*share), d.figure(tcp), d.figure(direct), d.ratio(direct, tcp)})
	}
	table(w, "Loss", "nat-a drops at random what it forwards, each way. The router sees super-packets of\nsegmentation offload, TCP's as well as ours, so losses come in bursts.",
		[]string{"lost", "raw TCP, Mbit/s", "our session, direct", "ratio"}, rows)
}

func (d document) turn(w *strings.Builder) {
	var rows [][]string
	for _, l := range turnLoads() {
		ours, theirs := func(what string) key { return l.key(signalServer, what) }, func(what string) key { return l.key(coturnServer, what) }
		rows = append(rows, []string{
			l.variant(), l.rate(), l.direction(),
			d.figure(ours("cpu")), d.figure(theirs("cpu")), d.ratio(ours("cpu"), theirs("cpu")),
			d.figure(ours("mbps")), d.figure(theirs("mbps")),
			d.figure(ours("loss")), d.figure(theirs("loss")),
		})
	}
	table(w, "Relays under load", fmt.Sprintf(`%d clients behind nat-a, each with one peer that is public; packets of %d bytes as
ChannelData; %v each. CPU is the server's, for payload that was delivered. Under full load
the kernel does a part of the forwarding in threads of its own, for which no process is
charged, with either server.

"plain" is a datagram for each packet, sent and read in batches (sendmmsg, %d at a time,
and recvmmsg); "gso" is UDP_SEGMENT and UDP_GRO at both ends (%d at a time), as our agents
do. The bursts of the clients are spread evenly over time. Flat out keeps so many packets
on the way that few are lost, as a congestion-controlled sender does.`,
		loadClients, loadPayload, d.effort.loadFor, plainBurst, gsoBurst),
		[]string{"", "", "", "CPU, signal", "CPU, coturn", "ratio", "Mbit/s, signal", "Mbit/s, coturn", "lost, signal, %", "lost, coturn, %"}, rows)
}

func (d document) memory(w *strings.Builder) {
	var rows [][]string
	for _, server := range []string{signalServer, coturnServer} {
		rows = append(rows, []string{server, d.figure(idleRSS(server)), d.figure(heldRSS(server)), d.figure(allocationKB(server))})
	}
	table(w, "Memory", fmt.Sprintf("Resident, in MB; while `bench` ran, its process had %s at most and the listener %s.", d.figure(benchRSS), d.figure(listenRSS)),
		[]string{"", "idle", fmt.Sprintf("with %d idle allocations", d.effort.allocations), "KB for each"}, rows)
}

func (d document) failures(w *strings.Builder) {
	if len(d.results.failed) == 0 {
		return
	}
	fmt.Fprintf(w, "## Not measured\n\n")
	for _, f := range d.results.failed {
		fmt.Fprintf(w, "- %s, round %d: %s\n", f.part, f.round, strings.ReplaceAll(f.err.Error(), "\n", "; "))
	}
}

// table writes a section with one table.
func table(w *strings.Builder, title, text string, head []string, rows [][]string) {
	fmt.Fprintf(w, "## %s\n\n", title)
	if text != "" {
		fmt.Fprintf(w, "%s\n\n", text)
	}
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, r := range rows {
		line(r)
	}
	fmt.Fprintln(w)
}
