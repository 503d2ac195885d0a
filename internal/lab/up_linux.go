package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Up runs this program once more, with the same arguments, as the supervisor of a
// lab that stays when the command is done, and waits until that calls Hold and is
// ready.
func Up(ctx context.Context, name string) (Standing, error) {
	if err := checkName(name); err != nil {
		return Standing{}, err
	}
	reg, err := openRegistry()
	if err != nil {
		return Standing{}, err
	}
	dir, lock, err := reg.create(name)
	if err != nil {
		return Standing{}, err
	}
	defer lock.Close()
	s, err := startStanding(ctx, dir, lock)
	if err == nil {
		err = reg.write(name, s)
	}
	if err != nil {
		return Standing{}, errors.Join(fmt.Errorf("lab %q: %w", name, err), os.RemoveAll(dir))
	}
	return Standing{Name: name, Signal: s.Signal, Addrs: s.Addrs}, nil
}

// startStanding starts the supervisor in a session of its own and waits for its
// state.
func startStanding(ctx context.Context, dir string, lock *os.File) (state, error) {
	var s state
	log, err := os.Create(filepath.Join(dir, logFile))
	if err != nil {
		return s, err
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return s, err
	}
	defer ready.Close()
	cmd := secondRun(dir, lock)
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setsid = true
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return s, deniedError(err, readUserNamespaceFacts())
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	if err := json.NewDecoder(ready).Decode(&s); err != nil {
		cmd.Wait() // it closes the pipe before it says why
		if ctx.Err() != nil {
			return s, context.Cause(ctx)
		}
		return s, lastWords(log.Name())
	}
	s.PID = cmd.Process.Pid
	if s.Started, err = startTime(s.PID); err != nil {
		return s, err
	}
	return s, cmd.Process.Release()
}

// lastWords is the error that a supervisor ended with.
func lastWords(log string) error {
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	text := "the supervisor said nothing"
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text = lines.Text()
	}
	return errors.New(strings.TrimPrefix(text, "p2pagent: "))
}

// Hold builds the lab that Up waits for, starts signal and proves the NATs, and
// keeps all of it until ctx ends.
func (s *Sandbox) Hold(ctx context.Context, t Topology, cfg Config) error {
	ready := os.NewFile(readyFD, "ready")
	defer ready.Close()
	unix.CloseOnExec(readyFD)
	bin, err := findBinaries(cfg.Bin)
	if err != nil {
		return err
	}
	l, err := s.Build(ctx, t, cfg.Verbose)
	if err != nil {
		return err
	}
	capture, err := l.startCapture(cfg.Pcap)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	err = l.hold(ctx, bin, cfg, ready)
	return errors.Join(err, capture.close(), l.Close())
}

func (l *Lab) hold(ctx context.Context, bin string, cfg Config, ready io.WriteCloser) error {
	step, cancel := context.WithTimeoutCause(ctx, cfg.timeout(), errTimeout)
	defer cancel()
	logs := l.dir
	if cfg.Trace != "" {
		logs = cfg.Trace
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	d, err := deploySignal(step, l, bin, logs)
	if err != nil {
		return err
	}
	defer d.close()
	if err := l.CheckNATs(step); err != nil {
		return err
	}
	if err := l.ForgetMappings(step); err != nil {
		return err
	}
	if err := json.NewEncoder(ready).Encode(l.state(d.url, bin)); err != nil {
		return err
	}
	ready.Close()
	defer reapOrphans(d.signal.cmd.Process.Pid)()
	<-ctx.Done()
	return nil
}

func (l *Lab) state(url, bin string) state {
	s := state{Signal: url, PATH: bin + ":" + os.Getenv("PATH"), Nodes: map[string]nodeState{}, Addrs: l.addresses()}
	for name, n := range l.nodes {
		s.Nodes[name] = nodeState{NS: n.ns, Home: n.dir}
	}
	return s
}

// addresses says for each node where it is found.
func (l *Lab) addresses() map[string]string {
	core := []string{signalLink().near.Addr().String(), serverLink().near.Addr().String()}
	out := map[string]string{
		Signal: signalLink().far[0].Addr().String() + ", " + signalLink().far[1].Addr().String(),
		Server: serverLink().far[0].Addr().String() + ", " + serverLink().far[1].Addr().String(),
	}
	for _, s := range l.sites {
		core = append(core, s.wan.near.Addr().String())
		out[s.router] = s.lan.near.Addr().String() + " inside, " + s.wan.far[0].Addr().String() + " outside"
		for i, host := range s.hosts {
			out[host] = s.lan.far[i].Addr().String()
		}
	}
	out[Core] = strings.Join(core, ", ")
	return out
}

// Down ends a lab and everything that runs in it.
func Down(ctx context.Context, name string) error {
	reg, err := openRegistry()
	if err != nil {
		return err
	}
	s, err := reg.read(name)
	if err != nil {
		return err
	}
	// From here on the number cannot come to mean another process.
	process, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		return fmt.Errorf("lab %q: supervisor %d: %w", name, s.PID, err)
	}
	defer unix.Close(process)
	if now, err := startTime(s.PID); err != nil || now != s.Started {
		return reg.notUp(name)
	}
	waiting := entrances(s.PID)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := unix.PidfdSendSignal(process, sig, nil, 0); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end lab %q: %w", name, err)
		}
		resume(waiting)
		if gone(ctx, process, 2*patience) {
			return reg.sweep() // another lab of that name may be up by now
		}
	}
	return fmt.Errorf("lab %q: supervisor %d does not end; processes %v wait for commands in it", name, s.PID, waiting)
}

// gone waits until the process has ended.
func gone(ctx context.Context, process int, limit time.Duration) bool {
	end := time.Now().Add(limit)
	for ctx.Err() == nil && time.Now().Before(end) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 100)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
	return false
}

// ExecCommand prepares a command inside a node of a lab that stands. It replaces
// this process best (syscall.Exec with its Path, Args and Env): the terminal, the
// signals and the exit code are then its own.
func ExecCommand(name, node string, argv []string) (*exec.Cmd, error) {
	reg, err := openRegistry()
	if err != nil {
		return nil, err
	}
	s, err := reg.read(name)
	if err != nil {
		return nil, err
	}
	n, ok := s.Nodes[node]
	if !ok {
		return nil, fmt.Errorf("lab %q has no node %q; it has %s", name, node,
			strings.Join(slices.Sorted(maps.Keys(s.Nodes)), ", "))
	}
	if len(argv) == 0 {
		return nil, errors.New("no command to run in the node")
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	target := fmt.Sprintf("/proc/%d", s.PID)
	args := []string{"--target", fmt.Sprint(s.PID), "--mount", "--pid", fmt.Sprintf("--net=%s/fd/%d", target, n.NS), "--wdns=" + wd}
	if !sameUserNamespace(target) {
		args = append(args, "--user", "--preserve-credentials")
	}
	cmd := exec.Command("nsenter", append(append(args, "--"), argv...)...)
	if cmd.Err != nil {
		return nil, fmt.Errorf("enter a node: %w: apt-get install util-linux", cmd.Err)
	}
	cmd.Env = append(labEnv(os.Environ()), nodeEnv(n.Home)...)
	cmd.Env = append(cmd.Env, "P2PAGENT_SIGNAL="+s.Signal, "PATH="+s.PATH)
	return cmd, nil
}

func sameUserNamespace(target string) bool {
	ours, err := os.Readlink("/proc/self/ns/user")
	theirs, err2 := os.Readlink(target + "/ns/user")
	return err == nil && err2 == nil && ours == theirs
}
