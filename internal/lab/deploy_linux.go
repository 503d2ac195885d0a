package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// Addresses inside the nodes. Each is alone in its namespace.
const (
	adminAddr  = "127.0.0.1:8081" // signal's counters
	entryAddr  = "127.0.0.1:7000" // -L at peer-a
	targetAddr = "127.0.0.1:7001" // what it leads to at peer-b
	peerName   = "peer-b"         // as peer-a knows it
)

// deployment is the programs that run in a lab.
type deployment struct {
	lab    *Lab
	bin    string
	logs   string
	url    string // P2PAGENT_SIGNAL
	signal *process
	listen *process
	echo   *echoServer
}

// deploySignal starts the rendezvous server and waits for the line it prints.
func deploySignal(ctx context.Context, l *Lab, bin, logs string) (*deployment, error) {
	d := &deployment{lab: l, bin: bin, logs: logs}
	own := signalLink().far
	argv := []string{filepath.Join(bin, signalBinary), "--public-ip", own[0].Addr().String(), "--alt-ip", own[1].Addr().String(), "--admin", adminAddr}
	for _, p := range PublicNetworks() {
		argv = append(argv, "--allow-peer", p.String())
	}
	url := make(chan string, 1)
	var err error
	d.signal, err = program{node: l.Node(Signal), name: Signal, argv: argv, log: d.logFile(Signal), stdout: func(line []byte) {
		if v, ok := strings.CutPrefix(string(line), "export P2PAGENT_SIGNAL="); ok {
			select {
			case url <- strings.Trim(v, `'"`):
			default:
			}
		}
	}}.start()
	if err != nil {
		return nil, err
	}
	if d.url, err = waitFor(ctx, d.signal, "P2PAGENT_SIGNAL", url); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *deployment) logFile(name string) string { return filepath.Join(d.logs, name+".log") }

// close ends the programs, the server last.
func (d *deployment) close() {
	d.listen.stop()
	d.signal.stop()
	if d.echo != nil {
		d.echo.close()
	}
}

// deploy starts what a measured run needs and measures the NATs meanwhile: the
// peers know each other and peer-b listens.
func deploy(ctx context.Context, l *Lab, bin, logs string) (_ *deployment, err error) {
	d, err := deploySignal(ctx, l, bin, logs)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.echo, err = startEcho(ctx, l.Node(PeerB), targetAddr); err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.CheckNATs(ctx) })
	group.Go(func() error { return d.pair(ctx) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return d, nil
}

// agent is a p2pagent command in a node.
func (d *deployment) agent(node, log string, stdout func([]byte), env []string, args ...string) (*process, error) {
	return program{node: d.lab.Node(node), name: node, argv: append([]string{filepath.Join(d.bin, agentBinary)}, args...),
		env: append(env, "P2PAGENT_SIGNAL="+d.url), log: d.logFile(log), stdout: stdout}.start()
}

// pair starts the listener and makes the two known to each other.
func (d *deployment) pair(ctx context.Context) error {
	heard := newRecording()
	var err error
	d.listen, err = d.agent(PeerB, PeerB, heard.line, nil, "listen", "--name", PeerB, "--pair", "--allow", targetAddr,
		"--json", "--trace", filepath.Join(d.logs, PeerB+".jsonl"))
	if err != nil {
		return err
	}
	var code string
	err = heard.wait(ctx, d.listen, "a pairing code", func(events []trace.Record) bool {
		code = pairingCode(events)
		return code != ""
	})
	if err != nil {
		return err
	}
	told := newRecording()
	first, err := d.agent(PeerA, PeerA, told.line, []string{"P2PAGENT_CODE=" + code}, "connect", "--as", peerName, "--json")
	if err != nil {
		return err
	}
	defer first.stop()
	if err := told.wait(ctx, first, "the pairing", isPaired); err != nil {
		return err
	}
	return heard.wait(ctx, d.listen, "the pairing", isPaired)
}

// pairingCode finds the code among what a listener printed. It is no event of the
// trace, which holds no secrets.
func pairingCode(events []trace.Record) string {
	for _, r := range events {
		u, ok := r.Event.(trace.Unknown)
		if !ok || u.Name != "pairing.code" {
			continue
		}
		var data struct {
			Code string `json:"code"`
		}
		if json.Unmarshal(u.Data, &data) == nil {
			return data.Code
		}
	}
	return ""
}

func isPaired(events []trace.Record) bool {
	for _, r := range events {
		if _, ok := r.Event.(trace.Paired); ok {
			return true
		}
	}
	return false
}

// relayStats is the part of signal's counters that the lab reads.
type relayStats struct {
	Allocations int `json:"allocations"`
	Relay       struct {
		ClientToPeer int64 `json:"client_to_peer_bytes"`
		PeerToClient int64 `json:"peer_to_client_bytes"`
	} `json:"relay"`
}

func (d *deployment) relayStats(ctx context.Context) (s relayStats, err error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return d.lab.Node(Signal).Dial(ctx, network, addr)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+adminAddr+"/stats", nil)
	if err != nil {
		return s, err
	}
	res, err := client.Do(req)
	if err != nil {
		return s, fmt.Errorf("signal's counters: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("signal's counters: %s", res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("signal's counters: %w", err)
	}
	return s, nil
}

// read takes all counters at once.
func (d *deployment) read(ctx context.Context) (counters, error) {
	stats, err := d.relayStats(ctx)
	if err != nil {
		return counters{}, err
	}
	c := counters{relay: stats.Relay.ClientToPeer + stats.Relay.PeerToClient}
	sites := d.lab.sites
	if d.lab.Topology.SameNAT {
		for i, host := range sites[0].hosts {
			if c.sites[i], err = d.portTraffic(ctx, sites[0].router, lanPort(host)); err != nil {
				return c, err
			}
		}
		return c, nil
	}
	for i, s := range sites {
		if c.sites[i], err = d.natTraffic(ctx, s.router, sites[1-i].publicAddr()); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (d *deployment) natTraffic(ctx context.Context, router string, public netip.Addr) (traffic, error) {
	list, err := d.lab.Node(router).Run(ctx, "conntrack", "-L", "-o", "extended")
	if err != nil {
		return traffic{}, err
	}
	return trafficWith(list, public)
}

// portTraffic reads the counters of a bridge port; what a host sends, it receives.
func (d *deployment) portTraffic(ctx context.Context, router, port string) (traffic, error) {
	out, err := d.lab.Node(router).Run(ctx, "ip", "-s", "-j", "link", "show", "dev", port)
	if err != nil {
		return traffic{}, err
	}
	return parseLinkTraffic(out)
}

// quiet waits until the relay has no allocation any more, so that the next run
// starts as the first did. A relay that is slow to forget changes no result.
func (d *deployment) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Second, errSlowRelay)
	defer cancel()
	for {
		s, err := d.relayStats(ctx)
		switch {
		case err == nil && s.Allocations == 0 || context.Cause(ctx) == errSlowRelay:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// relayAtRest waits, for a short while, until next to nothing goes through the
// relay. After a move agents still measure what packets their other paths carry,
// with padded probes that would be counted with the payload.
func (d *deployment) relayAtRest(ctx context.Context) error {
	const window, few, patience = 50 * time.Millisecond, 1024, 40
	var before int64
	for i := range patience {
		s, err := d.relayStats(ctx)
		if err != nil {
			return err
		}
		now := s.Relay.ClientToPeer + s.Relay.PeerToClient
		if i > 0 && now-before < few {
			return nil
		}
		before = now
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(window):
		}
	}
	return nil
}

var errSlowRelay = errors.New("the relay still has allocations")
