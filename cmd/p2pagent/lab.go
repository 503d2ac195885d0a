package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/lab"
	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// labError is the end of a run that has no error but what it found.
type labError struct {
	topology lab.Topology
	code     int
	what     string
}

func (e *labError) Error() string { return fmt.Sprintf("%s: %s", e.topology, e.what) }
func (e *labError) ExitCode() int { return e.code }

func labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Build NATs on this machine and run two agents behind them",
		Long: `Build two sites with routers of chosen NATs and a public network between them, out
of network namespaces, and run the real programs there. Nothing outside of the lab
is touched. Needs Linux, ip, iptables, nft and conntrack; root or a kernel that
lets users make namespaces.

NATs: ` + strings.Join(labKindNames(), ", "),
	}
	cmd.AddCommand(labRunCommand(), labMatrixCommand(), labUpCommand(), labDownCommand(), labExecCommand(), labNATCommand(), labProbeCommand())
	return cmd
}

func labKindNames() (names []string) {
	for _, k := range lab.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

// labTopology is the flags that say what to build.
type labTopology struct {
	a, b, linkA, linkB string
	sameNAT            bool
}

func (f *labTopology) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.a, "a", "a", "", "NAT in front of peer-a") // cobra completes a name of one letter only if it has a shorthand
	cmd.Flags().StringVarP(&f.b, "b", "b", "", "NAT in front of peer-b")
	cmd.Flags().BoolVar(&f.sameNAT, "same-nat", false, "both peers on one LAN behind nat-a")
	cmd.Flags().StringVar(&f.linkA, "link-a", "", "line of site A: rate=20mbit,loss=1%,mtu=1400")
	cmd.Flags().StringVar(&f.linkB, "link-b", "", "line of site B")
	cmd.MarkFlagRequired("a")
	completes(cmd, "a", oneOf(labKindNames()...))
	completes(cmd, "b", oneOf(labKindNames()...))
}

func (f *labTopology) topology() (t lab.Topology, err error) {
	t.SameNAT = f.sameNAT
	switch {
	case f.sameNAT && f.b != "" && f.b != f.a:
		return t, fmt.Errorf("--same-nat has one NAT for both, but --a is %s and --b %s", f.a, f.b)
	case !f.sameNAT && f.b == "":
		return t, errors.New("--b is missing: a NAT, or --same-nat")
	}
	if t.A, err = lab.ParseKind(f.a); err != nil {
		return t, fmt.Errorf("--a: %w", err)
	}
	if !f.sameNAT {
		if t.B, err = lab.ParseKind(f.b); err != nil {
			return t, fmt.Errorf("--b: %w", err)
		}
	}
	if t.LinkA, err = lab.ParseLink(f.linkA); err != nil {
		return t, fmt.Errorf("--link-a: %w", err)
	}
	if t.LinkB, err = lab.ParseLink(f.linkB); err != nil {
		return t, fmt.Errorf("--link-b: %w", err)
	}
	return t, t.Validate()
}

// labPrograms is the flags that say how to run the programs.
type labPrograms struct {
	cfg     lab.Config
	verbose bool
}

func (f *labPrograms) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cfg.Bin, "bin", "", "directory of signal and p2pagent (default: that of this program)")
	cmd.Flags().StringVar(&f.cfg.Trace, "trace", "", "directory that keeps traces and logs of all programs")
	cmd.Flags().StringVar(&f.cfg.Pcap, "pcap", "", "directory for what passed both sides of each router")
	cmd.Flags().DurationVar(&f.cfg.Timeout, "timeout", 30*time.Second, "longest wait for a program")
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "print every command that makes the lab")
}

func (f *labPrograms) config() lab.Config {
	if f.verbose {
		f.cfg.Verbose = os.Stderr
	}
	return f.cfg
}

// inLab runs the command once more in namespaces of its own, and f there. The outer
// run ends here, with the exit code of the inner one.
func inLab(ctx context.Context, f func(context.Context, *lab.Sandbox) error) error {
	if !lab.InSandbox() {
		code, err := lab.Enter()
		if err == nil && code != 0 {
			os.Exit(code) // the inner run has said why
		}
		return err
	}
	// A terminal interrupts both runs, and the outer one passes it on: the second
	// interrupt is the first one again, and must not end this run on the way out.
	signal.Notify(make(chan os.Signal, 1), cli.Interrupts()...)
	s, err := lab.OpenSandbox()
	if err != nil {
		return err
	}
	err = f(ctx, s)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // what else was said followed from that
	}
	return err
}

func labRunCommand() *cobra.Command {
	var topology labTopology
	var programs labPrograms
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "run --a NAT --b NAT",
		Short: "Link two agents behind two NATs and prove which path they found",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := topology.topology()
			if err != nil {
				return usageError{err}
			}
			return inLab(cmd.Context(), func(ctx context.Context, s *lab.Sandbox) error {
				var first error
				err := s.Run(ctx, t, programs.config(), func(r lab.Result) error {
					if first == nil {
						first = judgeLabResult(t, r)
					}
					return printLabResult(cmd.OutOrStdout(), r, asJSON)
				})
				return errors.Join(err, first)
			})
		},
	}
	topology.add(cmd)
	programs.add(cmd)
	cmd.Flags().IntVar(&programs.cfg.Runs, "runs", 1, "measured runs, each with empty NAT tables")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a run")
	return cmd
}

// judgeLabResult is the error of a run without a link, with the exit code that the
// agent ended with, or without a proof of its path.
func judgeLabResult(t lab.Topology, r lab.Result) error {
	switch {
	case r.Connected && r.Path != lab.Unproven:
		return nil
	case r.Connected:
		return &labError{t, exitError, "the payload was counted neither in the relay nor in both routers"}
	case r.Exit > exitUsage:
		return &labError{t, r.Exit, "the peers were not linked"}
	}
	return &labError{t, exitNoPath, "the peers found no path"}
}

func printLabResult(w io.Writer, r lab.Result, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := fmt.Fprintln(w, r)
	return err
}

func labMatrixCommand() *cobra.Command {
	var programs labPrograms
	var asJSON bool
	var report string
	cmd := &cobra.Command{
		Use:   "matrix",
		Short: "Link two agents behind every pair of NATs and compare with what has to be found",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return inLab(cmd.Context(), func(ctx context.Context, s *lab.Sandbox) error {
				r := lab.Report{
					Time: time.Now(), Version: version(), Kernel: measure.ThisMachine().Kernel, Command: strings.Join(os.Args, " "),
				}
				done, all := 0, len(lab.Pairs())*programs.cfg.Runs
				m, err := s.Matrix(ctx, programs.config(), func(c lab.Cell) {
					done++
					fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d  %s\n", done, all, c)
				})
				if err != nil {
					return err
				}
				if r.Matrix = m; report != "" {
					file, err := openReport(report)
					if err != nil {
						return err
					}
					if err := file.write(r.WriteHTML); err != nil {
						return err
					}
				}
				if asJSON {
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(m)
				} else {
					_, err = fmt.Fprint(cmd.OutOrStdout(), m)
				}
				return errors.Join(err, m.Err())
			})
		},
	}
	programs.add(cmd)
	cmd.Flags().IntVar(&programs.cfg.Runs, "runs", 1, "measured runs of each pair")
	cmd.Flags().BoolVar(&asJSON, "json", false, "an array with one JSON object a run")
	cmd.Flags().StringVar(&report, "report", "", "write the table to this HTML file")
	return cmd
}

func labUpCommand() *cobra.Command {
	var topology labTopology
	var programs labPrograms
	var name string
	cmd := &cobra.Command{
		Use:   "up --a NAT --b NAT",
		Short: "Leave a lab running, with signal and without agents",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := topology.topology()
			if err != nil {
				return usageError{err}
			}
			if lab.InSandbox() {
				return inLab(cmd.Context(), func(ctx context.Context, s *lab.Sandbox) error {
					return s.Hold(ctx, t, programs.config())
				})
			}
			standing, err := lab.Up(cmd.Context(), name)
			if err != nil {
				return err
			}
			return printStanding(cmd.OutOrStdout(), t, standing)
		},
	}
	topology.add(cmd)
	programs.add(cmd)
	addLabName(cmd, &name)
	return cmd
}

func printStanding(w io.Writer, t lab.Topology, s lab.Standing) error {
	flag := ""
	if s.Name != lab.DefaultName {
		flag = " --name " + s.Name
	}
	fmt.Fprintf(w, "lab %s is up: %s\n\n", s.Name, t)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, node := range lab.Nodes() {
		if addr, ok := s.Addrs[node]; ok {
			fmt.Fprintf(table, "  %s\t%s\n", node, addr)
		}
	}
	table.Flush()
	_, err := fmt.Fprintf(w, `
In the nodes P2PAGENT_SIGNAL is set and both programs are found:

  p2pagent lab exec%[1]s peer-b -- p2pagent listen --allow 127.0.0.1:22
  p2pagent lab exec%[1]s peer-a -- p2pagent connect CODE --as peer-b -L 2222:127.0.0.1:22
  p2pagent lab exec%[1]s nat-a -- conntrack -L -p udp
  p2pagent lab down%[1]s
`, flag)
	return err
}

func addLabName(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "name", lab.DefaultName, "which lab, where there are several")
	completes(cmd, "name", labNames)
}

func labDownCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End a lab and everything in it",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return lab.Down(cmd.Context(), name) },
	}
	addLabName(cmd, &name)
	return cmd
}

func labExecCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "exec NODE -- COMMAND...",
		Short:             "Run a command inside a node of a running lab",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: nodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			node, argv, err := splitExec(cmd.Flags(), args)
			if err != nil {
				return err
			}
			c, err := lab.ExecCommand(name, node, argv)
			if err != nil {
				return err
			}
			return fmt.Errorf("run %s: %w", c.Path, replaceProcess(c))
		},
	}
	addLabName(cmd, &name)
	cmd.Flags().SetInterspersed(false) // what follows the node is the command's
	return cmd
}

// splitExec takes apart what follows the flags of exec: a node, more flags if a -- ends
// them, and the command with its own.
func splitExec(flags *pflag.FlagSet, args []string) (node string, argv []string, err error) {
	node, argv = args[0], args[1:]
	if end := slices.Index(argv, "--"); end == 0 || end > 0 && strings.HasPrefix(argv[0], "-") {
		more := argv[:end]
		argv = argv[end+1:]
		if err := flags.Parse(more); err != nil {
			return "", nil, usageError{err}
		}
		if flags.NArg() > 0 {
			return "", nil, usageError{fmt.Errorf("unexpected argument %q before --", flags.Arg(0))}
		}
	}
	if len(argv) == 0 {
		return "", nil, usageError{errors.New("no command to run in the node")}
	}
	return node, argv, nil
}

// replaceProcess becomes the command. Environ has each variable once: of two, a
// program may read the first, as nsenter does with PATH.
func replaceProcess(c *exec.Cmd) error { return syscall.Exec(c.Path, c.Args, c.Environ()) }

func labNATCommand() *cobra.Command {
	var kind, host string
	var verbose bool
	var cfg lab.RouterConfig
	cmd := &cobra.Command{
		Use:   "nat --type NAT --lan IF|CIDR --wan IF|CIDR",
		Short: "Make this machine or container a router with that NAT, until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Kind, err = lab.ParseKind(kind); err != nil {
				return usageError{fmt.Errorf("--type: %w", err)}
			}
			if host != "" {
				if cfg.Host, err = netip.ParseAddr(host); err != nil {
					return usageError{fmt.Errorf("--host: %w", err)}
				}
			}
			if verbose {
				cfg.Verbose = cmd.ErrOrStderr()
			}
			return clean(cmd.Context(), lab.BeRouter(cmd.Context(), cfg, func(r lab.Router) {
				fmt.Fprintf(cmd.ErrOrStderr(), "router with %s: lan %s, wan %s\n", kind, r.LAN, r.WAN)
			}))
		},
	}
	cmd.Flags().StringVar(&kind, "type", "", "NAT")
	cmd.Flags().StringVar(&cfg.LAN, "lan", "", "inner interface, or a network it has an address in")
	cmd.Flags().StringVar(&cfg.WAN, "wan", "", "outer interface, or a network it has an address in")
	cmd.Flags().StringVar(&host, "host", "", "where a NAT that lets packets in sends them (default: first address of the LAN that is not ours)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print every command")
	for _, name := range []string{"type", "lan", "wan"} {
		cmd.MarkFlagRequired(name)
	}
	completes(cmd, "type", oneOf(labKindNames()...))
	return cmd
}

// labProbeCommand is what the lab runs in its nodes to measure a NAT.
func labProbeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    lab.ProbeCommand + " SERVER...",
		Hidden: true,
		Args:   cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var servers []netip.AddrPort
			for _, a := range args {
				s, err := netip.ParseAddrPort(a)
				if err != nil {
					return usageError{err}
				}
				servers = append(servers, s)
			}
			return lab.Probe(cmd.Context(), servers, cmd.OutOrStdout())
		},
	}
}
