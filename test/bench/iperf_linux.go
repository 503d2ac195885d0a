package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

const iperfPort = "5201"

// startIperf serves iperf3 at peer-b, on every address.
func (b *bed) startIperf(ctx context.Context) (*process, error) {
	p, err := b.start(peerB, nil, "iperf3", "--server", "--port", iperfPort, "--forceflush")
	if err != nil {
		return nil, err
	}
	if _, err := p.awaitText(ctx, p.stdout, "Server listening"); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// iperf measures TCP from peer-a to an iperf3 server and returns what arrived, in
// Mbit/s.
func (b *bed) iperf(ctx context.Context, host, port string) (float64, error) {
	args := []string{"iperf3", "--client", host, "--port", port, "--time", strconv.Itoa(b.effort.seconds), "--json"}
	if b.effort.omit > 0 {
		args = append(args, "--omit", strconv.Itoa(b.effort.omit))
	}
	out, err := b.output(ctx, peerA, args...)
	mbps, reportErr := parseIperf(out)
	if err != nil && out == "" {
		return 0, err
	}
	if reportErr != nil { // it says more than the exit code
		return 0, fmt.Errorf("iperf3 to %s: %w", host, reportErr)
	}
	return mbps, err
}

// parseIperf reads the report of iperf3's client.
func parseIperf(out string) (mbps float64, err error) {
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
		Error string
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return 0, fmt.Errorf("its report: %w", err)
	}
	switch {
	case report.Error != "":
		return 0, errors.New(report.Error)
	case report.End.Received.BitsPerSecond <= 0:
		return 0, errors.New("nothing arrived")
	}
	return report.End.Received.BitsPerSecond / 1e6, nil
}

// measureRaw is TCP through both NATs, with nothing of ours.
func measureRaw(ctx context.Context, b *bed, rec recorder) error {
	server, err := b.startIperf(ctx)
	if err != nil {
		return err
	}
	defer server.stop()
	mbps, err := b.iperf(ctx, publicB, iperfPort)
	if err != nil {
		return err
	}
	rec.set(rawMbps, mbps)
	return nil
}
