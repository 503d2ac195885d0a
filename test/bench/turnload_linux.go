package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// A loadPlan is what the subcommand turn-load is asked for.
type loadPlan struct {
	server    netip.AddrPort
	serverPID int
	secret    string
	clientNet string // network namespaces
	peerNet   string
	load      turnLoad
	clients   int
	length    time.Duration
	hold      int // allocations to hold, instead of a load
}

// A loadResult is what turn-load prints.
type loadResult struct {
	Seconds   float64 `json:"seconds"`   // of sending
	Sent      uint64  `json:"sent"`      // packets
	Delivered uint64  `json:"delivered"` // packets
	Bytes     int64   `json:"bytes"`     // of payload that was delivered
	Mbps      float64 `json:"mbps"`
	Loss      float64 `json:"loss"`                   // 0 to 1
	CPUPerGB  float64 `json:"cpu_s_per_gb,omitempty"` // of the server, for payload that was delivered
}

func parseLoadPlan(args []string) (p loadPlan, err error) {
	flags := flag.NewFlagSet("turn-load", flag.ContinueOnError)
	server := flags.String("server", "", "`address` of the TURN server")
	flags.IntVar(&p.serverPID, "server-pid", 0, "the server's process, to read what CPU it takes")
	secretFile := flags.String("secret-file", "", "`file` with the server's secret for REST credentials")
	flags.StringVar(&p.clientNet, "client-net", "", "network namespace of the clients, such as /proc/PID/ns/net")
	flags.StringVar(&p.peerNet, "peer-net", "", "network namespace of the peers")
	flags.IntVar(&p.clients, "clients", loadClients, "how many clients, each with one peer")
	flags.DurationVar(&p.length, "t", 4*time.Second, "how long to send")
	flags.Float64Var(&p.load.mbps, "mbps", 0, "payload of all clients; 0: flat out")
	flags.BoolVar(&p.load.gso, "gso", false, "segmentation offload at both ends")
	flags.BoolVar(&p.load.toClient, "to-client", false, "from the peers to the clients")
	flags.IntVar(&p.hold, "hold", 0, "only make so many allocations, and hold them until interrupted")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	if p.server, err = netip.ParseAddrPort(*server); err != nil {
		return p, fmt.Errorf("-server: %w", err)
	}
	secret, err := os.ReadFile(*secretFile)
	if err != nil {
		return p, fmt.Errorf("-secret-file: %w", err)
	}
	p.secret = string(secret)
	return p, nil
}

func turnLoadMain(ctx context.Context, args []string) error {
	p, err := parseLoadPlan(args)
	if err != nil {
		return err
	}
	if p.hold > 0 {
		return p.holdAllocations(ctx)
	}
	r, err := p.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// open gives a socket in one of the two networks.
func (p loadPlan) open(peers bool, to netip.AddrPort) (*net.UDPConn, error) {
	if peers {
		return dialUDPIn(p.peerNet, to)
	}
	return dialUDPIn(p.clientNet, to)
}

// run loads the server.
func (p loadPlan) run(ctx context.Context) (loadResult, error) {
	var flows []*flow
	defer func() {
		for _, f := range flows {
			f.close()
		}
	}()
	for i := range p.clients {
		f, err := newFlow(i, p.load, p.server, p.secret, p.open)
		if err != nil {
			return loadResult{}, err
		}
		flows = append(flows, f)
	}
	return p.measure(ctx, flows)
}

// measure sends over all flows, waits for what is on the way, and counts.
func (p loadPlan) measure(ctx context.Context, flows []*flow) (r loadResult, err error) {
	before, err := p.serverCPU()
	if err != nil {
		return r, err
	}
	receivers, senders := errgroup.Group{}, errgroup.Group{}
	sending, cancel := context.WithTimeout(ctx, p.length)
	defer cancel()
	began := time.Now()
	for i, f := range flows {
		receivers.Go(f.receive)
		senders.Go(func() error {
			if p.load.flatOut() {
				return f.sendFlatOut(sending)
			}
			each := p.load.mbps * 1e6 / 8 / loadPayload / float64(len(flows))
			cycle := float64(f.from.burst()) / each * float64(time.Second)
			return f.sendPaced(sending, each, time.Duration(cycle*float64(i)/float64(len(flows))))
		})
	}
	err = senders.Wait()
	r.Seconds = time.Since(began).Seconds()
	settle(flows)
	after, cpuErr := p.serverCPU()
	for _, f := range flows {
		f.stopReceiving()
	}
	if err := errors.Join(err, cpuErr, receivers.Wait(), context.Cause(ctx)); err != nil {
		return r, err
	}
	for _, f := range flows {
		r.Sent += f.sent.Load()
		r.Delivered += f.arrived.Load()
	}
	if r.Delivered == 0 {
		return r, fmt.Errorf("none of %d packets came through %v", r.Sent, p.server)
	}
	r.Bytes = int64(r.Delivered) * loadPayload
	r.Mbps = float64(r.Bytes) * 8 / r.Seconds / 1e6
	r.Loss = 1 - float64(r.Delivered)/float64(r.Sent)
	r.CPUPerGB = perGB(after-before, r.Bytes)
	return r, nil
}

// settle waits until nothing arrives any more.
func settle(flows []*flow) {
	const pause, most = 50 * time.Millisecond, 20
	var before uint64
	for i := range most {
		var now uint64
		for _, f := range flows {
			now += f.arrived.Load()
		}
		if i > 0 && now == before {
			return
		}
		before = now
		time.Sleep(pause)
	}
}

func (p loadPlan) serverCPU() (time.Duration, error) {
	if p.serverPID == 0 {
		return 0, nil
	}
	return cpuOf(p.serverPID)
}

// holdAllocations makes allocations one after the other, slowly enough for servers
// that limit how many challenges they give a second, and says so when it has all.
// It holds them until it is interrupted, and not for ever if nobody is there to do so.
func (p loadPlan) holdAllocations(ctx context.Context) error {
	const every = 25 * time.Millisecond
	const perUser = 16
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range p.hold {
		c, err := p.open(false, p.server)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := allocateTURN(c, p.secret, fmt.Sprintf("held-%d-%d", os.Getpid(), i/perUser)); err != nil {
			return fmt.Errorf("allocation %d: %w", i+1, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	fmt.Println("holding", p.hold)
	<-ctx.Done()
	return nil
}
