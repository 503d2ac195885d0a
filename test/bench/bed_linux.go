package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Nodes and addresses of the lab; internal/lab draws it.
const (
	peerA      = "peer-a"
	peerB      = "peer-b"
	natA       = "nat-a"
	natB       = "nat-b"
	signalNode = "signal" // the rendezvous server that every lab has
	serverNode = "server" // nobody's: where the servers that are measured run

	publicB    = "203.0.113.2" // nat-b outside
	privateB   = "10.2.0.2"    // peer-b
	serverAddr = "192.0.2.130" // server
)

const natKind = "port-restricted" // of both sides

// A bed is the lab that measurements run in.
type bed struct {
	programs string // directory of p2pagent and signal
	self     string // this program
	name     string
	dir      string // for files, which all nodes see
	effort   effort

	signalPID int                 // of the lab's own server
	anchors   map[string]*process // one that does nothing in each node that a load reaches into
}

// makeBed stands up a lab. It is ended with close, also when ctx has ended.
func makeBed(ctx context.Context, programs string, e effort) (*bed, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "p2pagent-bench-")
	if err != nil {
		return nil, err
	}
	b := &bed{programs: programs, self: self, name: fmt.Sprintf("bench-%d", os.Getpid()), dir: dir, effort: e, anchors: map[string]*process{}}
	if err := b.build(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bed) build(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not within 2 minutes"))
	defer cancel()
	if err := b.lab(ctx, "up", "--a", natKind, "--b", natKind); err != nil {
		return err
	}
	for _, node := range []string{peerA, peerB, signalNode} {
		anchor, err := b.start(node, nil, "sleep", "infinity")
		if err != nil {
			return err
		}
		b.anchors[node] = anchor
	}
	if err := b.findSignal(ctx); err != nil {
		return err
	}
	if err := b.write(secretName, turnSecret); err != nil {
		return err
	}
	return b.openNATs(ctx)
}

// findSignal finds the lab's own server: the one of that name in its node's network.
func (b *bed) findSignal(ctx context.Context) error {
	namespace, err := b.namespace(ctx, signalNode)
	if err != nil {
		return err
	}
	home, err := os.Readlink(namespace)
	if err != nil {
		return err
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	for _, name := range names { // of which some have ended by now
		dir := filepath.Dir(name)
		comm, _ := os.ReadFile(name)
		where, _ := os.Readlink(filepath.Join(dir, "ns/net"))
		if strings.TrimSpace(string(comm)) == "signal" && where == home {
			b.signalPID, err = strconv.Atoi(filepath.Base(dir))
			return err
		}
	}
	return errors.New("the lab's signal server is not among the processes")
}

// openNATs lets in what is measured without an agent: TCP to iperf3, and UDP to
// quic-go.
func (b *bed) openNATs(ctx context.Context) error {
	for _, in := range []struct{ proto, port string }{{"tcp", iperfPort}, {"udp", quicPort}} {
		rules := [][]string{
			{"-t", "nat", "-A", "PREROUTING", "-d", publicB, "-p", in.proto, "--dport", in.port, "-j", "DNAT", "--to", privateB},
			{"-I", "FORWARD", "-p", in.proto, "-d", privateB, "--dport", in.port, "-j", "ACCEPT"},
		}
		for _, rule := range rules {
			if _, err := b.output(ctx, natB, append([]string{"iptables"}, rule...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// close ends the lab, and with it everything that runs in there.
func (b *bed) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := b.lab(ctx, "down")
	if err != nil && strings.Contains(err.Error(), "no lab") { // it never came up
		err = nil
	}
	for _, p := range b.anchors {
		p.stop()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// lab runs a command that makes or ends the lab.
func (b *bed) lab(ctx context.Context, command string, args ...string) error {
	args = append([]string{"lab", command, "--name", b.name}, args...)
	p, err := start("p2pagent "+strings.Join(args, " "), false, exec.Command(b.program("p2pagent"), args...))
	if err != nil {
		return err
	}
	defer p.stop()
	return p.wait(ctx)
}

func (b *bed) program(name string) string { return filepath.Join(b.programs, name) }

func (b *bed) file(name string) string { return filepath.Join(b.dir, name) }

func (b *bed) write(name, content string) error {
	return os.WriteFile(b.file(name), []byte(content), 0o600)
}

// start runs a program in a node until it is stopped: one of ours, this one for
// "bench", or any other. env is beside the node's own.
func (b *bed) start(node string, env []string, argv ...string) (*process, error) {
	name := node + ": " + strings.Join(argv, " ")
	switch argv[0] {
	case "p2pagent", "signal":
		argv[0] = b.program(argv[0])
	case "bench":
		argv[0] = b.self
	}
	if len(env) > 0 {
		argv = append(append([]string{"env"}, env...), argv...)
	}
	args := append([]string{"lab", "exec", "--name", b.name, node, "--"}, argv...)
	return start(name, true, exec.Command(b.program("p2pagent"), args...))
}

// output runs a program in a node to its end.
func (b *bed) output(ctx context.Context, node string, argv ...string) (string, error) {
	p, err := b.start(node, nil, argv...)
	if err != nil {
		return "", err
	}
	defer p.stop()
	err = p.wait(ctx)
	return p.stdout.String(), err
}

// namespace is the node's network as a file.
func (b *bed) namespace(ctx context.Context, node string) (string, error) {
	pid, err := b.anchors[node].pid(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/net", pid), nil
}
