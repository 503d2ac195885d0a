package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

// measureTURN loads our relay and coturn, one after the other, in every way.
func measureTURN(ctx context.Context, b *bed, rec recorder) (failed error) {
	for _, load := range turnLoads() {
		for _, server := range []string{signalServer, coturnServer} {
			r, err := b.load(ctx, server, load)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s, %s: %w", server, load, err))
				continue // the others are not worse for it
			}
			rec.set(load.key(server, "mbps"), r.Mbps)
			rec.set(load.key(server, "loss"), 100*r.Loss)
			rec.set(load.key(server, "cpu"), r.CPUPerGB)
		}
	}
	return failed
}

// load starts a server, and clients behind nat-a with peers that are public.
func (b *bed) load(ctx context.Context, server string, load turnLoad) (r loadResult, err error) {
	s, err := b.startTURN(ctx, server)
	if err != nil {
		return r, err
	}
	defer s.stop()
	defer func() { err = s.explain(err) }()
	pid, err := s.pid(ctx)
	if err != nil {
		return r, err
	}
	peers, err := b.namespace(ctx, signalNode)
	if err != nil {
		return r, err
	}
	p, err := b.startLoad(ctx, peerA, "-peer-net", peers, "-server-pid", strconv.Itoa(pid), "-t", b.effort.loadFor.String(),
		"-mbps", fmt.Sprint(load.mbps), fmt.Sprintf("-gso=%v", load.gso), fmt.Sprintf("-to-client=%v", load.toClient))
	if err != nil {
		return r, err
	}
	defer p.stop()
	if err := p.wait(ctx); err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(p.stdout.String()), &r); err != nil {
		return r, p.failed("read its result", err)
	}
	return r, nil
}

// startLoad starts turn-load with its clients in a node. It runs outside of the
// lab, as a process has one network and this one needs two.
func (b *bed) startLoad(ctx context.Context, clients string, args ...string) (*process, error) {
	network, err := b.namespace(ctx, clients)
	if err != nil {
		return nil, err
	}
	args = append([]string{"turn-load", "-server", serverAddr + ":" + turnPort, "-secret-file", b.secretFile(), "-client-net", network}, args...)
	return start("turn-load of "+clients, false, exec.Command(b.self, args...))
}

// measureMemory is what the servers need by themselves, and for allocations that
// do nothing.
func measureMemory(ctx context.Context, b *bed, rec recorder) error {
	for _, server := range []string{signalServer, coturnServer} {
		if err := b.memory(ctx, server, rec); err != nil {
			return fmt.Errorf("%s: %w", server, err)
		}
	}
	return nil
}

func (b *bed) memory(ctx context.Context, server string, rec recorder) (err error) {
	const idle = time.Second // for what happens after the start, and after the last allocation
	s, err := b.startTURN(ctx, server)
	if err != nil {
		return err
	}
	defer s.stop()
	defer func() { err = s.explain(err) }()
	pid, err := s.pid(ctx)
	if err != nil {
		return err
	}
	before, err := residentAfter(ctx, s, pid, idle)
	if err != nil {
		return err
	}
	// Half of them from each home: one address may have 512 on our relay.
	homes := []string{peerA, peerB}
	each := b.effort.allocations / len(homes)
	var holders []*process
	for _, home := range homes {
		p, err := b.startLoad(ctx, home, "-hold", strconv.Itoa(each))
		if err != nil {
			return err
		}
		defer p.stop()
		holders = append(holders, p)
	}
	for _, p := range holders {
		if _, err := p.awaitText(ctx, p.stdout, "holding"); err != nil {
			return err
		}
	}
	after, err := residentAfter(ctx, s, pid, idle)
	if err != nil {
		return err
	}
	rec.set(idleRSS(server), float64(before)/1e6)
	rec.set(heldRSS(server), float64(after)/1e6)
	rec.set(allocationKB(server), float64(after-before)/1e3/float64(each*len(homes)))
	return nil
}

func residentAfter(ctx context.Context, p *process, pid int, d time.Duration) (int64, error) {
	if err := p.pause(ctx, d); err != nil {
		return 0, p.failed("idle", err)
	}
	return memoryOf(pid, residentNow)
}
