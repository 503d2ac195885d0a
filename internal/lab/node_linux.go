package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Node is a machine of the lab: a network namespace, and an environment for the
// programs that run in it.
type Node struct {
	Name string

	ns   int    // file descriptor of the namespace
	path string // the same as a path, for ip
	dir  string // home
	env  []string
	log  *commandLog
}

// newNode makes a namespace with nothing in it.
func newNode(s *Sandbox, name, dir string, env []string, log *commandLog) (*Node, error) {
	n := &Node{Name: name, dir: dir, log: log}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		n.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", name, err)
	}
	n.path = fmt.Sprintf("/proc/%s/fd/%d", s.pid, n.ns)
	n.env = slices.Concat(env, nodeEnv(dir)) // of its own: env may have room, which the next node would use too
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// nodeEnv gives each node a home of its own.
func nodeEnv(home string) []string {
	return []string{
		"HOME=" + home,
		"XDG_CONFIG_HOME=" + home + "/.config",
		"XDG_STATE_HOME=" + home + "/.local/state",
		"XDG_DATA_HOME=" + home + "/.local/share",
		"XDG_CACHE_HOME=" + home + "/.cache",
		"XDG_RUNTIME_DIR=" + home + "/run",
		"XTABLES_LOCKFILE=" + home + "/xtables.lock",
	}
}

func (n *Node) close() error { return unix.Close(n.ns) }

// Do calls f on a thread that is in the node: sockets and processes that f makes
// itself, not in another goroutine, belong to the node for good.
func (n *Node) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(n.ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n.Name, err)
		}
		return f()
	})
}

// onOwnThread calls f on a thread that has changed namespaces back, or is gone,
// before anything else runs on it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("left its goroutine") // stands where f ends it
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, e := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = e
			return
		}
		defer unix.Close(home)
		err = f()
		if e := unix.Setns(home, unix.CLONE_NEWNET); e != nil {
			err = errors.Join(err, e)
			return // still locked: the thread ends with this goroutine
		}
		runtime.UnlockOSThread()
	}()
	return <-done
}

// Command prepares a program to run in the node, with the node's environment.
// Start it with Start.
func (n *Node) Command(ctx context.Context, name string, arg ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, arg...)
	cmd.Env = n.env
	cmd.Dir = n.dir
	return cmd
}

// Start starts the command in the node.
func (n *Node) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Run runs a short command in the node and returns what it printed on stdout.
func (n *Node) Run(ctx context.Context, argv ...string) (string, error) {
	n.log.print(n.Name, argv)
	cmd := n.Command(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w: %s", n.Name, commandLine(argv), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// Sysctl sets a kernel parameter of the node.
func (n *Node) Sysctl(key, value string) error {
	n.log.print(n.Name, []string{"sysctl", "-w", key + "=" + value})
	return n.Do(func() error { return setSysctl(key, value) })
}

func setSysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0o644)
}

// Dial connects from the node to an address that needs no resolving.
func (n *Node) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the node for TCP.
func (n *Node) Listen(ctx context.Context, address string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		return err
	})
	return l, err
}

// ListenUDP opens a UDP socket in the node.
func (n *Node) ListenUDP(ctx context.Context, address string) (*net.UDPConn, error) {
	var c net.PacketConn
	err := n.Do(func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(ctx, "udp4", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// commandLog writes each command that makes the lab as one could type it, with
// the node where a prompt would stand.
type commandLog struct {
	mu    sync.Mutex
	w     io.Writer
	names map[string]string // namespace path to node name
}

func (l *commandLog) print(node string, argv []string) {
	if l == nil || l.w == nil {
		return
	}
	shown := make([]string, len(argv))
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, a := range argv {
		if name, ok := l.names[a]; ok {
			a = name
		}
		shown[i] = a
	}
	fmt.Fprintf(l.w, "%s# %s\n", node, commandLine(shown))
}

func (l *commandLog) name(path, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[path] = node
}
