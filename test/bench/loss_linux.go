package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// measureLoss is TCP and our session while nat-a drops at random what it forwards.
func measureLoss(ctx context.Context, b *bed, rec recorder) error {
	for _, share := range lossShares() {
		err := b.losing(ctx, share, func() error { return b.lossy(ctx, rec, share) })
		if err != nil {
			return fmt.Errorf("%v%% lost: %w", 100*share, err)
		}
	}
	return nil
}

func (b *bed) lossy(ctx context.Context, rec recorder, share float64) error {
	server, err := b.startIperf(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	tcp, err := b.iperf(ctx, publicB, iperfPort)
	if err != nil {
		return err
	}
	rec.set(lossKey(share, "tcp"), tcp)
	run, err := b.bench(ctx, b.short(), "--require", "direct")
	if err != nil {
		return err
	}
	direct, err := on(run.report.Direct, "direct", run.report)
	if err != nil {
		return err
	}
	rec.set(lossKey(share, "direct"), direct.Goodput)
	return nil
}

// losing calls f while a share of the packets through nat-a is lost. Every path
// between the peers crosses it once, each way.
func (b *bed) losing(ctx context.Context, share float64, f func() error) error {
	rule := []string{"FORWARD", "-m", "statistic", "--mode", "random", "--probability", strconv.FormatFloat(share, 'f', -1, 64), "-j", "DROP"}
	table := func(ctx context.Context, command string) error {
		_, err := b.output(ctx, natA, append([]string{"iptables", "-t", "mangle", command}, rule...)...)
		return err
	}
	if err := table(ctx, "-I"); err != nil {
		return err
	}
	err := f()
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, table(after, "-D"))
}
