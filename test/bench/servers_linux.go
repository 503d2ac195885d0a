package main

import (
	"context"
	"fmt"
)

const turnPort = "3478"

// The secret of the lab's servers is in a file that makeBed writes.
const (
	turnSecret = "a secret of this measurement"
	secretName = "turn-secret"
)

func (b *bed) secretFile() string { return b.file(secretName) }

// startTURN starts one of the servers that are compared in the node of nobody, and
// waits until it serves. Each takes REST credentials with the same secret.
func (b *bed) startTURN(ctx context.Context, server string) (*process, error) {
	secret := b.secretFile()
	var argv []string
	var ready string // on stderr
	switch server {
	case signalServer:
		argv = []string{"signal", "--public-ip", serverAddr, "--turn-secret-file", secret, "--grace", "0s"}
		for _, network := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"} { // documentation, which is the lab's public side
			argv = append(argv, "--allow-peer", network)
		}
	case coturnServer:
		argv = []string{"turnserver", "-n", "--log-file", "stdout", "--simple-log", "--no-cli", "--no-tls", "--no-dtls",
			"--listening-ip", serverAddr, "--relay-ip", serverAddr, "--listening-port", turnPort,
			"--use-auth-secret", "--static-auth-secret", turnSecret, "--realm", "bench",
			"--userdb", b.file("coturn.db"), "--pidfile", b.file("coturn.pid")}
	case pionServer:
		argv = []string{"bench", "pion-turn", "-ip", serverAddr, "-secret-file", secret}
		ready = "listening on"
	default:
		return nil, fmt.Errorf("no server %q", server)
	}
	p, err := b.start(serverNode, nil, argv...)
	if err != nil || ready == "" { // the others are asked until they answer
		return p, err
	}
	if _, err := p.awaitText(ctx, p.stderr, ready); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}
