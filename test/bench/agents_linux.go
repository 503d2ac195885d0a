package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pion/turn/v3"

	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// The agents are called a, at peer-a, and b, at peer-b, which listens.
const (
	forwardEntry  = "6000"                   // -L at peer-a
	forwardTarget = "127.0.0.1:" + iperfPort // where it leads to at peer-b
)

// pair makes the two agents known to each other.
func (b *bed) pair(ctx context.Context) error {
	listener, err := b.start(peerB, nil, "p2pagent", "listen", "--name", "b", "--pair", "--json")
	if err != nil {
		return err
	}
	defer listener.stop()
	code, err := listener.awaitText(ctx, listener.stdout, `"code":"([^"]+)"`)
	if err != nil {
		return err
	}
	if err := b.write("code", code[1]+"\n"); err != nil {
		return err
	}
	connector, err := b.start(peerA, nil, "p2pagent", "connect", "--code-file", b.file("code"), "--name", "a", "--as", "b", "--json")
	if err != nil {
		return err
	}
	defer connector.stop()
	for _, p := range []*process{listener, connector} {
		if err := p.awaitEvent(ctx, "the pairing", func(e trace.Event) bool { _, ok := e.(trace.Paired); return ok }); err != nil {
			return err
		}
	}
	return nil
}

// awaitEvent waits for an event of a program that runs with --json.
func (p *process) awaitEvent(ctx context.Context, what string, match func(trace.Event) bool) error {
	return p.await(ctx, p.stdout, what, func(text string) bool {
		for r, err := range trace.Read(strings.NewReader(text)) {
			if err == nil && match(r.Event) { // the last line may be half written
				return true
			}
		}
		return false
	})
}

// listen starts peer-b's agent and waits until it can be found.
func (b *bed) listen(ctx context.Context, flags ...string) (*process, error) {
	p, err := b.start(peerB, nil, append([]string{"p2pagent", "listen", "--name", "b", "--allow", forwardTarget, "--json"}, flags...)...)
	if err != nil {
		return nil, err
	}
	err = p.awaitEvent(ctx, "the signaling server", func(e trace.Event) bool {
		s, ok := e.(trace.SignalState)
		return ok && s.State == "connected"
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// A benchRun is what one call of `p2pagent bench` found, and what the two agents
// took for it as seen from outside.
type benchRun struct {
	report           measure.Report
	sender, receiver usage
}

// bench runs `p2pagent bench` from peer-a against a fresh listener, both with the
// flags for both.
func (b *bed) bench(ctx context.Context, own []string, both ...string) (run benchRun, err error) {
	listener, err := b.listen(ctx, both...)
	if err != nil {
		return run, err
	}
	defer listener.stop()
	argv := slices.Concat([]string{"p2pagent", "bench", "b", "--json"}, own, both)
	p, err := b.start(peerA, nil, argv...)
	if err != nil {
		return run, err
	}
	defer p.stop()
	if run.sender, err = watch(ctx, p); err != nil {
		return run, err
	}
	if err := p.wait(ctx); err != nil {
		return run, err
	}
	if run.receiver, err = usageOf(ctx, listener); err != nil {
		return run, err
	}
	run.report, err = lastReport(p.stdout.String())
	if err != nil {
		return run, p.failed("read its report", err)
	}
	return run, nil
}

// short are the flags of a bench of one path.
func (b *bed) short() []string { return []string{"-t", strconv.Itoa(b.effort.benchFor)} }

// A usage is what a process has taken since its start.
type usage struct {
	cpu  time.Duration
	peak int64 // of memory, bytes
}

func usageOf(ctx context.Context, p *process) (u usage, err error) {
	pid, err := p.pid(ctx)
	if err != nil {
		return u, err
	}
	if u.cpu, err = cpuOf(pid); err != nil {
		return u, err
	}
	u.peak, err = memoryOf(pid, residentPeak)
	return u, err
}

// watch reads what a process takes until it ends, which takes the figures along:
// the last look counts.
func watch(ctx context.Context, p *process) (last usage, err error) {
	const every = 20 * time.Millisecond
	for {
		now, err := usageOf(ctx, p)
		if err == nil {
			last = now
		}
		if err := p.pause(ctx, every); errors.Is(err, errEnded) {
			return last, nil
		} else if err != nil {
			return last, p.failed("watch it", err)
		}
	}
}

// lastReport finds the report among the events of --json: the last object that has
// rounds.
func lastReport(out string) (r measure.Report, err error) {
	found := false
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return r, err
		}
		var probe struct{ Rounds *[]json.RawMessage }
		if json.Unmarshal(raw, &probe) != nil || probe.Rounds == nil {
			continue
		}
		r, found = measure.Report{}, true
		if err := json.Unmarshal(raw, &r); err != nil {
			return r, err
		}
	}
	if !found {
		return r, errors.New("there is none")
	}
	return r, nil
}

// on is one path's figures, or the verdict of why there are none.
func on(figures *measure.Figures, path string, r measure.Report) (*measure.Figures, error) {
	if figures == nil || figures.Goodput <= 0 {
		return nil, fmt.Errorf("p2pagent bench measured no %s path: %s", path, r.Verdict.Text)
	}
	return figures, nil
}

// measureAgents is our session on the direct path alone, right after quic-go's, and
// then over both paths in turn.
func measureAgents(ctx context.Context, b *bed, rec recorder) error {
	if err := b.direct(ctx, rec); err != nil {
		return err
	}
	return b.compare(ctx, rec)
}

func (b *bed) direct(ctx context.Context, rec recorder) error {
	run, err := b.bench(ctx, b.short(), "--require", "direct")
	if err != nil {
		return err
	}
	direct, err := on(run.report.Direct, "direct", run.report)
	if err != nil {
		return err
	}
	payload := int64(direct.PayloadBytes)
	rec.set(directMbps, direct.Goodput)
	rec.set(directSendCPU, perGB(run.sender.cpu, payload))
	rec.set(directRecvCPU, perGB(run.receiver.cpu, payload))
	rec.set(directCPU, perGB(run.sender.cpu+run.receiver.cpu, payload))
	return nil
}

// compare takes the agents' word for their CPU: from outside, the paths cannot be
// told apart.
func (b *bed) compare(ctx context.Context, rec recorder) error {
	before, err := cpuOf(b.signalPID)
	if err != nil {
		return err
	}
	run, err := b.bench(ctx, []string{"--compare", "-t", strconv.Itoa(b.effort.compareFor)})
	if err != nil {
		return err
	}
	after, err := cpuOf(b.signalPID)
	if err != nil {
		return err
	}
	rec.set(benchRSS, float64(run.sender.peak)/1e6)
	rec.set(listenRSS, float64(run.receiver.peak)/1e6)
	direct, err := on(run.report.Direct, "direct", run.report)
	if err != nil {
		return err
	}
	relayed, err := on(run.report.Relayed, "relayed", run.report)
	if err != nil {
		return err
	}
	rec.set(compareDirectMbps, direct.Goodput)
	rec.set(compareRelayedMbps, relayed.Goodput)
	rec.set(compareRelayCPU, perGB(after-before, int64(relayed.PayloadBytes)))
	for k, cpu := range map[key]*float64{
		compareDirectSendCPU: run.report.Sender.CPUDirect, compareDirectRecvCPU: run.report.Receiver.CPUDirect,
		compareRelayedSendCPU: run.report.Sender.CPURelayed, compareRelayedRecvCPU: run.report.Receiver.CPURelayed,
	} {
		if cpu != nil {
			rec.set(k, *cpu)
		}
	}
	return nil
}

// measureForward is iperf3 through a forwarded port.
func measureForward(ctx context.Context, b *bed, rec recorder) error {
	server, err := b.startIperf(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	listener, err := b.listen(ctx)
	if err != nil {
		return err
	}
	defer listener.stop()
	connector, err := b.start(peerA, nil, "p2pagent", "connect", "b", "-L", forwardEntry+":"+forwardTarget, "--json")
	if err != nil {
		return err
	}
	defer connector.stop()
	err = connector.awaitEvent(ctx, "a direct path", func(e trace.Event) bool {
		c, ok := e.(trace.PathChanged)
		return ok && c.To != nil && c.To.Kind == "direct"
	})
	if err != nil {
		return err
	}
	mbps, err := b.iperf(ctx, "127.0.0.1", forwardEntry)
	if err != nil {
		return err
	}
	rec.set(forwardMbps, mbps)
	return nil
}

// measureRelayed is a session that must not be direct, through our relay, coturn and
// pion/turn.
func measureRelayed(ctx context.Context, b *bed, rec recorder) error {
	for _, server := range []string{signalServer, coturnServer, pionServer} {
		if err := b.relayedThrough(ctx, server, rec); err != nil {
			return fmt.Errorf("through %s: %w", server, err)
		}
	}
	return nil
}

// relayedThrough starts a relay that the agents are told of as of any other.
func (b *bed) relayedThrough(ctx context.Context, server string, rec recorder) (err error) {
	s, err := b.startTURN(ctx, server)
	if err != nil {
		return err
	}
	defer s.stop()
	defer func() { err = s.explain(err) }()
	user, password, err := turn.GenerateLongTermTURNRESTCredentials(turnSecret, "bench", time.Hour)
	if err != nil {
		return err
	}
	if err := b.write("turn-auth", user+":"+password+"\n"); err != nil {
		return err
	}
	before, err := usageOf(ctx, s)
	if err != nil {
		return err
	}
	run, err := b.bench(ctx, b.short(), "--relay-only", "--stun", "stun:"+serverAddr,
		"--turn", "turn:"+serverAddr, "--turn-auth-file", b.file("turn-auth"))
	if err != nil {
		return err
	}
	after, err := usageOf(ctx, s)
	if err != nil {
		return err
	}
	relayed, err := on(run.report.Relayed, "relayed", run.report)
	if err != nil {
		return err
	}
	rec.set(relayedKey(server, "mbps"), relayed.Goodput)
	rec.set(relayedKey(server, "cpu"), perGB(after.cpu-before.cpu, int64(relayed.PayloadBytes)))
	return nil
}
