package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A spool keeps what a program writes, and lets others wait for a part of it.
type spool struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed and replaced with every write
}

func newSpool() *spool { return &spool{changed: make(chan struct{})} }

func (s *spool) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.b.Write(b)
}

func (s *spool) look() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String(), s.changed
}

func (s *spool) String() string {
	text, _ := s.look()
	return text
}

// A process is a program that runs. Whoever starts it stops it.
type process struct {
	name           string
	cmd            *exec.Cmd
	inNode         bool // cmd only entered the node, and waits for the program
	stdout, stderr *spool
	ended          chan struct{}
	err            error // how it ended; readable after ended
}

// start runs a program until it ends or stop is called.
func start(name string, inNode bool, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, inNode: inNode, stdout: newSpool(), stderr: newSpool(), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	cmd.WaitDelay = time.Second // for children that outlive it and hold its pipes
	// A ^C is for us alone: we end the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// pid is the program's own number, as seen from here. In a node it has one once
// the node was entered.
func (p *process) pid(ctx context.Context) (int, error) {
	own := p.cmd.Process.Pid
	for p.inNode {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", own))
		if err != nil {
			return 0, p.failed("find its process", err)
		}
		if child, _, ok := strings.Cut(string(list), " "); ok {
			return strconv.Atoi(child)
		}
		if err := p.pause(ctx, 5*time.Millisecond); err != nil {
			return 0, p.failed("find its process", err)
		}
	}
	return own, nil
}

var errEnded = errors.New("it has ended")

// pause waits for a while, less if the program or ctx ends.
func (p *process) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-p.ended:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// awaitText waits until the program has written something that matches, and
// returns the match and its groups.
func (p *process) awaitText(ctx context.Context, s *spool, pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	var found []string
	err := p.await(ctx, s, pattern, func(text string) bool {
		found = re.FindStringSubmatch(text)
		return found != nil
	})
	return found, err
}

// await waits until what the program has written meets a condition.
func (p *process) await(ctx context.Context, s *spool, what string, ok func(string) bool) error {
	for {
		text, changed := s.look()
		if ok(text) {
			return nil
		}
		select {
		case <-changed:
		case <-p.ended:
			if ok(s.String()) {
				return nil
			}
			return p.failed("wait for "+what, errEnded)
		case <-ctx.Done():
			return p.failed("wait for "+what, context.Cause(ctx))
		}
	}
}

// explain adds to an error that the program has ended, where it has: whoever needed
// it may know no more than that nobody answered.
func (p *process) explain(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%w (%w)", err, p.failed("", errors.Join(errEnded, p.err)))
	default:
		return err
	}
}

// wait waits for the program's own end, which has to be a good one.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return p.failed("wait for its end", context.Cause(ctx))
	}
	if p.err != nil {
		return p.failed("", p.err)
	}
	return nil
}

// stop asks the program to end as a key press would, and makes it end if it does
// not. It may be called again and on nil.
func (p *process) stop() {
	const patience = 5 * time.Second
	if p == nil {
		return
	}
	// What entered the node goes last: while it waits, nobody takes the program for
	// gone that still has its ports.
	for _, end := range []func(){
		func() { p.signal(syscall.SIGINT) },
		func() { p.signal(syscall.SIGKILL) },
		func() { p.cmd.Process.Kill() },
	} {
		end()
		select {
		case <-p.ended:
			return
		case <-time.After(patience):
		}
	}
	<-p.ended
}

// signal reaches the program itself, where it is there still.
func (p *process) signal(sig syscall.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	select {
	case <-p.ended:
		return
	default:
	}
	if pid, err := p.pid(ctx); err == nil {
		syscall.Kill(pid, sig)
	}
}

// failed is an error with what was tried, and the program's last words.
func (p *process) failed(what string, err error) error {
	if what != "" {
		err = fmt.Errorf("%s: %w", what, err)
	}
	if last := lastWords(p.stderr.String()); last != "" {
		return fmt.Errorf("%s: %w (its last words: %s)", p.name, err, last)
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

// lastWords is the last line of what a program said, without the hints after it,
// which are indented.
func lastWords(text string) (last string) {
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && (last == "" || !strings.HasPrefix(line, " ")) {
			last = trimmed
		}
	}
	return last
}
