package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

const (
	// defaultTimeout is --timeout where a command cannot wait for ever.
	defaultTimeout = 30 * time.Second
	// pairTimeout is how long a code is tried.
	pairTimeout = 60 * time.Second
)

func connectCommand() *cobra.Command {
	var c common
	var as string
	var locals, remotes []string
	cmd := &cobra.Command{
		Use:   "connect [CODE|PEER]",
		Short: "Link with a peer and keep the link",
		Long: `Link with a known peer, or redeem a pairing code first, and keep the link: while the
peer sleeps or reboots, or the signaling server cannot be reached, go on trying, for as
long as --timeout says. A code is tried for a minute. It may also come from --code-file,
--code-stdin or $` + envCode + `.`,
		Args:              oneCodeOrPeer,
		ValidArgsFunction: first(peerNames),
	}
	c.add(cmd)
	c.addCode(cmd)
	cmd.Flags().StringVar(&as, "as", "", "name under which a new peer is remembered")
	cmd.Flags().StringArrayVarP(&locals, "local", "L", nil, "[bind:]port:host:port: a port here leads to a target there; repeatable")
	cmd.Flags().StringArrayVarP(&remotes, "remote", "R", nil, "[bind:]port:host:port: a port there leads to a target here; repeatable")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ls, err := parseSpecs("-L", locals)
		if err != nil {
			return err
		}
		rs, err := parseSpecs("-R", remotes)
		if err != nil {
			return err
		}
		s, err := c.prepare(cmd)
		if err != nil {
			return err
		}
		defer s.finish(&err)
		ctx := cmd.Context()
		open, err := agent.OpenLocals(ctx, ls)
		if err != nil {
			return err
		}
		for _, l := range open {
			fmt.Fprintf(cmd.ErrOrStderr(), "listening on %s for %s at the peer\n", l.Listeners, l.Spec.Target)
		}
		if len(args) > 1 { // a code with spaces
			args = []string{strings.Join(args, "-")}
		}
		peer, err := c.findPeer(ctx, cmd, s, args, as)
		if err != nil {
			return err
		}
		cc := agent.ConnectConfig{Timeout: c.timeout, Locals: ls, Remotes: rs}
		if c.timeout == 0 && s.cfg.RequireDirect {
			cc.DirectTimeout = defaultTimeout
		}
		conn, err := agent.NewConnector(s.cfg, peer, cc)
		if err != nil {
			return err
		}
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() error { return conn.Run(gctx) })
		g.Go(func() error { return conn.ServeLocals(gctx, open) })
		if err = clean(ctx, g.Wait()); err == nil && !s.linked.Load() {
			return context.Cause(ctx) // interrupted before there was a link
		}
		return err
	}
	return cmd
}

func parseSpecs(flag string, texts []string) ([]forward.Spec, error) {
	var out []forward.Spec
	for _, t := range texts {
		spec, err := forward.ParseSpec(t)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
		}
		out = append(out, spec)
	}
	return out, nil
}

// findPeer looks a peer up, or pairs with it.
func (c *common) findPeer(ctx context.Context, cmd *cobra.Command, s *setup, args []string, as string) (identity.Peer, error) {
	if len(args) == 1 && (c.codeFile != "" || c.codeStdin) {
		return identity.Peer{}, usageError{errors.New("give an argument, or a code with --code-file or --code-stdin, not both")}
	}
	var code identity.Code
	var err error
	switch {
	case len(args) == 1 && !identity.LooksLikeCode(args[0]):
		peer, err := knownPeer(s.cfg.Peers, args[0])
		if err == nil && as != "" && as != peer.Name {
			err = usageError{fmt.Errorf("--as %s is for a new peer, and %s is known; its name changes with: p2pagent peers rename %s %s", as, peer.Name, shellWord(peer.Name), shellWord(as))}
		}
		return peer, err
	case len(args) == 1: // whatever the environment says
		code, err = identity.ParseCode(args[0])
	default:
		var found bool
		if code, found, err = c.readCode(ctx, cmd); err == nil && !found {
			err = usageError{errors.New("whom to connect to? give the code that `p2pagent listen` printed, or the name of a known peer (p2pagent peers)")}
		}
	}
	if err != nil {
		return identity.Peer{}, err
	}
	if err := identity.ValidateName(s.cfg.Name); err != nil {
		return identity.Peer{}, usageError{fmt.Errorf("--name: %w", err)}
	}
	timeout := c.timeout
	if timeout == 0 {
		timeout = pairTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return agent.Pair(ctx, s.cfg, code, as)
}

var errCodeForPeer = errors.New("that is a pairing code: `p2pagent connect CODE` first, then this command with the peer's name")

func knownPeer(store *identity.Store, name string) (identity.Peer, error) {
	peer, err := store.Get(name)
	switch {
	case errors.Is(err, identity.ErrUnknownPeer) && identity.LooksLikeCode(name):
		return peer, usageError{errCodeForPeer}
	case errors.Is(err, identity.ErrUnknownPeer):
		return peer, usageError{fmt.Errorf("%q is neither a known peer nor a pairing code; see `p2pagent peers`", name)}
	}
	return peer, err
}

func pipeCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "pipe PEER [HOST:PORT]",
		Short: "Connect standard input and output to a target at the peer",
		Long: `Connect standard input and output to HOST:PORT as the peer sees it, by default
localhost:22. For ssh: ssh -o ProxyCommand='p2pagent pipe PEER' user@PEER

Where standard input is no terminal, only an error is told; -v tells all.`,
		Args:              onePeerAndTarget,
		ValidArgsFunction: first(peerNames),
	}
	c.add(cmd)
	c.name = hostname()
	cmd.Flags().BoolVarP(&c.quiet, "quiet", "q", false, "no lines on stderr but an error")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		target := "localhost:22"
		if len(args) == 2 {
			target = args[1]
		}
		if err := checkTarget(target); err != nil {
			return usageError{err}
		}
		if c.json {
			return usageError{errors.New("pipe: stdout is the connection, so there is no --json; use --trace FILE")}
		}
		if c.quiet && c.verbose {
			return usageError{errors.New("-q and -v exclude each other")}
		}
		c.quiet = c.quiet || !c.verbose && !isTerminal(cmd.InOrStdin())
		defer func() {
			if c.quiet && cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				err = hushed{} // ssh hangs up its proxy when it is done with it
			}
		}()
		s, err := c.prepare(cmd)
		if err != nil {
			return err
		}
		defer s.finish(&err)
		return withConnector(cmd.Context(), &c, s, args[0], func(ctx context.Context, conn *agent.Connector) error {
			header := session.Header{Kind: session.KindDial, Target: target}
			stream, err := conn.Open(ctx, header)
			if err != nil {
				return err
			}
			return forward.Pipe(ctx, newStdio(cmd.InOrStdin(), cmd.OutOrStdout()), header, stream, s.cfg.Trace)
		})
	}
	return cmd
}

// hushed is an interrupt of a command that was told to be quiet.
type hushed struct{}

func (hushed) Error() string { return "" }
func (hushed) ExitCode() int { return exitInterrupted }

// checkTarget refuses what no peer could dial.
func checkTarget(target string) error {
	host, port, err := net.SplitHostPort(target)
	if err != nil || host == "" {
		return fmt.Errorf("target %q: want HOST:PORT", target)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("target %q: a port is 1 to 65535", target)
	}
	return nil
}

// withConnector links with a known peer for as long as use runs.
func withConnector(ctx context.Context, c *common, s *setup, name string, use func(context.Context, *agent.Connector) error) error {
	peer, err := knownPeer(s.cfg.Peers, name)
	if err != nil {
		return err
	}
	timeout := c.timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	conn, err := agent.NewConnector(s.cfg, peer, agent.ConnectConfig{Timeout: timeout, Once: true})
	if err != nil {
		return err
	}
	done := errors.New("done")
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return conn.Run(gctx) })
	var result error
	g.Go(func() error {
		if result = use(gctx, conn); result != nil && gctx.Err() != nil {
			return gctx.Err() // the link's own end says why
		}
		return done
	})
	if err := g.Wait(); !errors.Is(err, done) {
		return err
	}
	return result
}

// stdio is standard input and output as one connection. Reading goes through a
// pipe of our own, since a read of a terminal cannot be interrupted; the
// goroutine that is left in it ends with the process.
type stdio struct {
	*io.PipeReader
	out io.Writer
}

func newStdio(in io.Reader, out io.Writer) *stdio {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, in)
		w.CloseWithError(err)
	}()
	return &stdio{r, out}
}

// Close ends both directions, also a Write that nobody reads.
func (s *stdio) Close() error { return errors.Join(s.PipeReader.Close(), s.CloseWrite()) }

func (s *stdio) Write(b []byte) (int, error) { return s.out.Write(b) }

// CloseWrite closes standard output, so that the program behind it sees the
// end while it still sends.
func (s *stdio) CloseWrite() error {
	if c, ok := s.out.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
