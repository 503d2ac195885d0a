// Command p2pagent links this machine with another one, both behind home
// routers, by the best path that exists, and says which path that is and why.
//
// This package is wiring: subcommands, flags, exit codes, and what goes to the
// terminal. stdout carries data, JSON and what is meant to be pasted; all else
// goes to stderr, one line per change.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/spf13/cobra"
)

func main() {
	// The buffers that quic-go would warn about are those of a socket that
	// carries nothing; udpsock sets the real ones.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "1")
	cli.LimitProcs()
	ctx, end := cli.Interruptible(context.Background())
	cli.OutliveBrokenPipes()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, cli.Stdout(end), cli.Stderr(end)))
}

// run is the program. It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	strict(root)
	cmd, err := root.ExecuteContextC(ctx)
	err = ended(ctx, err)
	if err == nil {
		return exitOK
	}
	err = meant(cmd, err)
	code := exitCode(err)
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "p2pagent: %s\n", printable(text))
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) && hint.Hint() != "" {
		fmt.Fprintf(stderr, "  try: %s\n", hint.Hint())
	} else if code == exitUsage {
		fmt.Fprintf(stderr, "  try: %s --help\n", cmd.CommandPath())
	}
	return code
}

// clean is the error of a command that lasts until it is interrupted: that is how it
// ends well.
func clean(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// ended is what a command's error means, with what ended the program.
func ended(ctx context.Context, err error) error {
	var unwritten *cli.OutputError
	switch {
	case errors.As(context.Cause(ctx), &unwritten):
		return unwritten // whatever followed from it
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, syscall.EPIPE)):
		return cli.ErrInterrupted
	}
	return err
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "p2pagent",
		Short: "Link two machines behind home routers",
		Long: `Link two machines behind home routers: start on a relay at once, punch a direct
path beside it, move the live session there, and say which path it is and why.

On one machine:    p2pagent listen --allow localhost:22
On the other one:  p2pagent connect CODE -L 2222:localhost:22`,
		SilenceErrors:      true,
		SilenceUsage:       true,
		DisableSuggestions: true, // in lines of its own; see meant
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(listenCommand(), connectCommand(), pipeCommand(), benchCommand(), pingCommand(), peersCommand(),
		natCommand(), statusCommand(), explainCommand(), labCommand(), versionCommand())
	for _, c := range root.Commands() {
		usageArgs(c)
	}
	everywhere(root)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), cmd.Root().Name(), "version", version())
			return err
		},
	}
}

// everywhere gives --version to every command; -v is for more lines.
func everywhere(c *cobra.Command) {
	c.Version = version()
	c.Flags().Bool("version", false, "print the version")
	for _, sub := range c.Commands() {
		everywhere(sub)
	}
}

// usageArgs makes wrong arguments of c and its subcommands usage errors.
func usageArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageArgs(sub)
	}
}

// version is the module's, as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
