// Command signal is the public side of p2pagent in one process: the signaling
// service over WebSocket, and STUN and TURN. Without flags it is a whole
// deployment on one machine; it prints on stdout the one line that peers need.
//
// This package is wiring: options.go reads flags, deployment.go turns them
// into listeners and ends those in order. The work is in signaling and relay.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/spf13/cobra"
)

const (
	exitOK      = 0
	exitRuntime = 1
	exitUsage   = 2
)

// errUsage marks what the user can mend by other flags.
var errUsage = errors.New("usage")

func main() {
	cli.LimitProcs()
	limitGarbage()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, cli.Interrupts()...)
	cli.OutliveBrokenPipes()
	drain := func(error) { // nobody reads its lines any more
		select {
		case signals <- syscall.SIGTERM:
		default: // it ends already
		}
	}
	os.Exit(run(os.Args[1:], environment{signals: signals, getenv: os.Getenv, stdout: os.Stdout, stderr: cli.Stderr(drain)}))
}

// limitGarbage has the memory collected when half as much again is in use as is
// needed, and not twice as much, unless $GOGC says otherwise. Most of what is needed
// belongs to connections that wait: with 5,000 of them that is 2.5 KB for each, for
// two collections a second instead of one when 10,000 messages are passed on in it.
func limitGarbage() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// environment is what a run has of the process around it.
type environment struct {
	signals        <-chan os.Signal
	getenv         func(string) string
	stdout, stderr io.Writer
}

func run(args []string, env environment) int {
	cmd := command(env)
	cmd.SetArgs(args)
	err := cmd.Execute()
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(env.stderr, "signal: %v\ntry: signal --help\n", err)
		return exitUsage
	}
	fmt.Fprintf(env.stderr, "signal: %v\n", err)
	return exitRuntime
}

func command(env environment) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "signal",
		Short:         "Signaling, STUN and TURN for p2pagent, in one process",
		Long:          "Signaling, STUN and TURN for p2pagent, in one process. Without flags it is a whole\ndeployment; it prints the line that peers need on stdout, all else on stderr.\n\nSIGTERM drains: nothing new is accepted, agents are told to come back, relayed\nsessions get --grace to end. A second SIGTERM ends at once.",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(fmt.Errorf("unexpected argument %q", args[0]))
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			p, err := o.plan(env.getenv)
			if err != nil {
				return err
			}
			return serve(p, env)
		},
	}
	o.register(cmd.Flags())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	cmd.SetOut(env.stdout)
	cmd.SetErr(env.stderr)
	return cmd
}

func usageError(err error) error { return &usage{err} }

type usage struct{ err error }

func (u *usage) Error() string        { return u.err.Error() }
func (u *usage) Unwrap() error        { return u.err }
func (u *usage) Is(target error) bool { return target == errUsage }

// version is that of the module, or of the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return v
}
