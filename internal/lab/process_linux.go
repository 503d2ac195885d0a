package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// process is a program of ours that runs in a node.
type process struct {
	name string
	cmd  *exec.Cmd
	last *lastLine
	done chan struct{}
	err  error // how it ended; readable after done
}

// program says what to start.
type program struct {
	node   *Node
	name   string   // for errors and the log file
	argv   []string // program first
	env    []string // beside the node's
	log    string   // file for stderr
	stdout func(line []byte)
}

// start runs the program until it ends or stop is called.
func (p program) start() (*process, error) {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	p.node.log.print(p.node.Name, p.argv)
	proc := &process{name: p.name, last: &lastLine{}, done: make(chan struct{})}
	proc.cmd = p.node.Command(context.Background(), p.argv[0], p.argv[1:]...)
	proc.cmd.Env = append(proc.cmd.Env[:len(proc.cmd.Env):len(proc.cmd.Env)], p.env...)
	proc.cmd.Stdout = &lineWriter{line: p.stdout}
	proc.cmd.Stderr = io.MultiWriter(log, &lineWriter{line: proc.last.set})
	proc.cmd.WaitDelay = time.Second // for children that keep its stdout
	if err := p.node.Start(proc.cmd); err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		defer close(proc.done)
		defer log.Close()
		proc.err = proc.cmd.Wait()
	}()
	return proc, nil
}

// patience is how long a program may take to end when it is asked to.
const patience = 5 * time.Second

// stop asks the program to end as a key press would, and makes it end if it does
// not. It may be called again and on nil.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// failure describes a program that ended too early.
func (p *process) failure() error {
	how := "ended"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s: %s: %s", p.name, how, p.last.get())
}

// waitFor waits until the channel is closed or has something, which is then
// returned, or the program or ctx ends.
func waitFor[T any](ctx context.Context, p *process, what string, c <-chan T) (T, error) {
	var zero T
	select {
	case v := <-c:
		return v, nil
	case <-p.done:
		return zero, fmt.Errorf("wait for %s: %w", what, p.failure())
	case <-ctx.Done():
		return zero, fmt.Errorf("wait for %s of %s: %w (its last words: %s)", what, p.name, context.Cause(ctx), p.last.get())
	}
}

// lineWriter calls line for each full line written to it.
type lineWriter struct {
	line func([]byte)
	rest []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if w.line != nil {
			w.line(line)
		}
		w.rest = bytes.Clone(rest)
	}
}

// lastLine keeps what a program said last.
type lastLine struct {
	mu   sync.Mutex
	line string
}

func (l *lastLine) set(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(bytes.TrimSpace(b)) > 0 {
		l.line = string(b)
	}
}

func (l *lastLine) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line == "" {
		return "it said nothing"
	}
	return l.line
}

// recording collects the trace that a program prints.
type recording struct {
	mu      sync.Mutex
	events  []trace.Record
	changed chan struct{} // closed and replaced with every record
}

func newRecording() *recording { return &recording{changed: make(chan struct{})} }

// line takes one line of stdout. What is no record is not for us.
func (r *recording) line(b []byte) {
	var rec trace.Record
	if rec.UnmarshalJSON(b) != nil || rec.Event == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, rec)
	close(r.changed)
	r.changed = make(chan struct{})
}

// all returns the records so far, and a channel that is closed when there are more.
func (r *recording) all() ([]trace.Record, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)], r.changed
}

// wait waits until the records meet the condition.
func (r *recording) wait(ctx context.Context, p *process, what string, ok func([]trace.Record) bool) error {
	for {
		events, changed := r.all()
		if ok(events) {
			return nil
		}
		if _, err := waitFor(ctx, p, what, changed); err != nil {
			return err
		}
	}
}

// findBinaries returns the directory of the programs, and an error that says how
// to make those that are missing.
func findBinaries(dir string) (string, error) {
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		dir = filepath.Dir(self)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, name := range []string{signalBinary, agentBinary} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("no program %s in %s: build both with `go build -o bin ./cmd/...` and say --bin bin: %w", name, dir, err)
		}
	}
	return dir, nil
}

const (
	signalBinary = "signal"
	agentBinary  = "p2pagent"
)
