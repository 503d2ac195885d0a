package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"

	"github.com/quic-go/quic-go"
)

// quic-go by itself: one stream over its own UDP socket, with the offloads that
// it finds there. Only the windows are those of internal/session, so that what
// differs is what we do about sockets and paths.

const (
	quicPort     = "4433"
	quicProtocol = "bench"
	quicBuffer   = 128 << 10 // of one read and one write
)

func quicConfig() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow:     256 << 10,
		MaxStreamReceiveWindow:         16 << 20,
		InitialConnectionReceiveWindow: 192 << 20,
		MaxConnectionReceiveWindow:     192 << 20,
	}
}

// A quicResult is what each end prints.
type quicResult struct {
	Bytes   int64         `json:"bytes"`             // of payload, all of it
	Mbps    float64       `json:"mbps,omitempty"`    // what arrived after the start was skipped
	CPU     time.Duration `json:"cpu_ns"`            // of the process, since its start
	Elapsed time.Duration `json:"elapsed,omitempty"` // that Mbps is about
}

// printQUICResult adds the CPU and prints.
func printQUICResult(r quicResult) error {
	var err error
	if r.CPU, err = cpuOf(os.Getpid()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// quicServer takes one stream and says how fast it came.
func quicServer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("quic-server", flag.ContinueOnError)
	listen := flags.String("listen", ":"+quicPort, "`address`")
	skip := flags.Duration("skip", 0, "start of the stream that is not counted")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	l, err := quic.ListenAddr(*listen, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{quicProtocol}}, quicConfig())
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintln(os.Stderr, "listening on", l.Addr())
	conn, err := l.Accept(ctx)
	if err != nil {
		return fmt.Errorf("accept a connection: %w", err)
	}
	stream, err := conn.AcceptUniStream(ctx)
	if err != nil {
		return fmt.Errorf("accept a stream: %w", err)
	}
	r, err := drainQUIC(stream, *skip)
	if err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	if err := conn.CloseWithError(0, "all read"); err != nil {
		return err
	}
	return printQUICResult(r)
}

// drainQUIC reads a stream to its end.
func drainQUIC(stream io.Reader, skip time.Duration) (r quicResult, err error) {
	buf := make([]byte, quicBuffer)
	var began, counting time.Time
	var counted int64
	for {
		n, err := stream.Read(buf)
		now := time.Now()
		r.Bytes += int64(n)
		switch {
		case began.IsZero():
			began = now
		case counting.IsZero() && now.Sub(began) >= skip:
			counting = now
		case !counting.IsZero():
			counted += int64(n)
		}
		if errors.Is(err, io.EOF) {
			r.Elapsed = now.Sub(counting)
			break
		}
		if err != nil {
			return r, err
		}
	}
	if counting.IsZero() || counted == 0 {
		return r, fmt.Errorf("it ended after %d bytes, before %v were over", r.Bytes, skip)
	}
	r.Mbps = float64(counted) * 8 / r.Elapsed.Seconds() / 1e6
	return r, nil
}

// quicClient fills one stream for a while.
func quicClient(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("quic-client", flag.ContinueOnError)
	addr := flags.String("connect", "", "`address` of quic-server")
	length := flags.Duration("t", 3*time.Second, "how long to send")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// Who the server is does not matter to a measurement.
	conn, err := quic.DialAddr(ctx, *addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{quicProtocol}}, quicConfig())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", *addr, err)
	}
	stream, err := conn.OpenUniStream()
	if err != nil {
		return err
	}
	var r quicResult
	buf := make([]byte, quicBuffer)
	for end := time.Now().Add(*length); time.Now().Before(end) && ctx.Err() == nil; {
		n, err := stream.Write(buf)
		r.Bytes += int64(n)
		if err != nil {
			return fmt.Errorf("write the stream: %w", err)
		}
	}
	if err := stream.Close(); err != nil {
		return err
	}
	select { // the server closes when it has read everything
	case <-conn.Context().Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return printQUICResult(r)
}

func selfSigned() (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}

// measureQUIC is quic-go through both NATs, with nothing of ours.
func measureQUIC(ctx context.Context, b *bed, rec recorder) error {
	server, err := b.start(peerB, nil, "bench", "quic-server", "-skip", b.effort.skip.String())
	if err != nil {
		return err
	}
	defer server.stop()
	if _, err := server.awaitText(ctx, server.stderr, "listening on"); err != nil {
		return err
	}
	length := time.Duration(b.effort.seconds) * time.Second
	client, err := b.start(peerA, nil, "bench", "quic-client", "-connect", publicB+":"+quicPort, "-t", length.String())
	if err != nil {
		return err
	}
	defer client.stop()
	var sent, received quicResult
	for _, end := range []struct {
		p *process
		r *quicResult
	}{{client, &sent}, {server, &received}} {
		if err := end.p.wait(ctx); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(end.p.stdout.String()), end.r); err != nil {
			return end.p.failed("read its result", err)
		}
	}
	rec.set(quicMbps, received.Mbps)
	rec.set(quicSendCPU, perGB(sent.CPU, received.Bytes))
	rec.set(quicRecvCPU, perGB(received.CPU, received.Bytes))
	rec.set(quicCPU, perGB(sent.CPU+received.CPU, received.Bytes))
	return nil
}
