package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// dispatch runs a subcommand, or the whole without one.
func dispatch(ctx context.Context, args []string) error {
	subcommands := map[string]func(context.Context, []string) error{
		"quic-server": quicServer,
		"quic-client": quicClient,
		"pion-turn":   pionTURN,
		"turn-load":   turnLoadMain,
	}
	if len(args) > 0 {
		if run, ok := subcommands[args[0]]; ok {
			return run(ctx, args[1:])
		}
	}
	return runAll(ctx, args)
}

// errNotWhole is a run that has figures missing; what is missing was said.
var errNotWhole = errors.New("not everything could be measured")

// runAll measures and writes the document, also when something could not be
// measured. It returns an error then.
func runAll(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 5, "how often everything is measured")
	only := flags.String("only", "", "comma-separated `parts` to measure instead of all; see go doc ./test/bench")
	quick := flags.Bool("quick", false, "one short round, to see that everything works; its figures mean nothing")
	out := flags.String("out", "docs/measurements.md", "`file` to write, - for stdout")
	programs := flags.String("bin", "bin", "`directory` of p2pagent and signal")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? there are the flags of -h", flags.Arg(0))
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if *rounds < 1 {
		return fmt.Errorf("-rounds %d: at least one", *rounds)
	}
	if os.Getuid() != 0 {
		return errors.New("the measurements reach into a lab from outside, which takes root")
	}
	dir, err := filepath.Abs(*programs)
	if err != nil {
		return err
	}
	e := fullEffort(*rounds)
	if *quick {
		e = quickEffort()
	}
	r, began := newResults(), time.Now()
	if err := measureAll(ctx, dir, e, chosen, r); err != nil {
		return err
	}
	d := document{
		results: r, effort: e, parts: names(chosen), quick: *quick, machine: describeMachine(ctx, dir),
		command: strings.Join(append([]string{"bin/bench"}, args...), " "), began: began, took: time.Since(began),
	}
	if err := d.writeFile(*out); err != nil {
		return err
	}
	if len(r.failed) > 0 {
		return errNotWhole
	}
	return nil
}

// measureAll measures every part in every round. A part that fails is told and
// missing in that round; an error is the end of the run.
func measureAll(ctx context.Context, programs string, e effort, chosen []part, r *results) (err error) {
	began := time.Now()
	tell := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%4.0f s] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	tell("standing up a lab")
	b, err := makeBed(ctx, programs, e)
	if err != nil {
		return fmt.Errorf("stand up a lab: %w", err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.introduce(ctx, chosen); err != nil {
		return err
	}
	for round := range e.rounds {
		for _, p := range chosen {
			tell("round %d of %d: %s", round+1, e.rounds, p.name)
			limit := p.limit(e)
			within, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
			err := p.measure(within, b, recorder{r, round})
			cancel()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				r.failed = append(r.failed, failure{p.name, round + 1, err})
				tell("%s: %v", p.name, err)
			}
		}
	}
	return nil
}

// introduce pairs the agents, where a part needs them.
func (b *bed) introduce(ctx context.Context, chosen []part) error {
	for _, p := range chosen {
		if p.agents {
			ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not within a minute"))
			defer cancel()
			if err := b.pair(ctx); err != nil {
				return fmt.Errorf("pair the agents: %w", err)
			}
			return nil
		}
	}
	return nil
}

// describeMachine says what the figures were measured with.
func describeMachine(ctx context.Context, programs string) machine {
	m := machine{cpu: "unknown", kernel: "unknown"}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.cpu = cpuModel(string(b))
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kernel = strings.TrimSpace(string(b))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, p := range []struct{ name, path string }{
		{"p2pagent", filepath.Join(programs, "p2pagent")}, {"iperf3", "iperf3"}, {"coturn", "turnserver"},
	} {
		out, err := exec.CommandContext(ctx, p.path, "--version").Output()
		if version, ok := firstVersion(string(out)); err == nil && ok {
			m.programs = append(m.programs, p.name+" "+version)
		}
	}
	return m
}
