package main

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/spf13/cobra"
)

func listenCommand() *cobra.Command {
	var c common
	var pair bool
	var allow []string
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Wait for known peers; the first time, print a pairing code",
		Long: `Wait for known peers and serve all of them at once. The first time, or with --pair,
print a code that the other machine redeems with "p2pagent connect CODE".

Nothing on this machine can be reached unless --allow names it:
  --allow localhost:22          one port of one host
  --allow 10.1.0.0/24:80-90     a range of ports of every host of a prefix
  --allow listen:8080           the peer may open port 8080 here, with -R`,
		Args: cobra.NoArgs,
	}
	c.add(cmd)
	cmd.Flags().Lookup("timeout").Hidden = true // refused
	cmd.Flags().StringVar(&c.name, "name", hostname(), "what this machine is called when pairing")
	cmd.Flags().BoolVar(&pair, "pair", false, "pair with one more machine")
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "TARGET that peers may reach through this machine; repeatable")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if cmd.Flags().Changed("timeout") {
			return usageError{errors.New("--timeout: listen waits for its peers until it is interrupted, and never gives up")}
		}
		if err := identity.ValidateName(c.name); err != nil {
			return usageError{fmt.Errorf("--name: %w", err)}
		}
		list, err := forward.ParseAllow(net.DefaultResolver, allow)
		if err != nil {
			return usageError{err}
		}
		s, err := c.prepare(cmd)
		if err != nil {
			return err
		}
		defer s.finish(&err)
		s.cfg.Allow = list
		if list.Empty() {
			fmt.Fprintln(cmd.ErrOrStderr(), "note: no --allow, so peers can link but reach nothing here; for ssh: --allow localhost:22")
		}
		show := codePrinter(s.cfg.Trace, s.events, cmd.OutOrStdout(), cmd.ErrOrStderr())
		ls, err := agent.NewListener(s.cfg, agent.ListenConfig{Pair: pair, OnCode: show})
		if err != nil {
			return err
		}
		return clean(cmd.Context(), ls.Run(cmd.Context()))
	}
	return cmd
}

// codeShown is a pairing code among the events of --json: the only place where one
// is, and not in the trace. So it is not among the events of package trace.
type codeShown struct {
	Code string `json:"code"`
	Why  string `json:"why,omitempty"` // of a code that takes the place of another
}

// EventName is the word for it.
func (codeShown) EventName() string { return "pairing.code" }

// codePrinter shows pairing codes: stdout has the code alone, or, with events, a record
// among them.
func codePrinter(rec *trace.Recorder, events trace.Sink, stdout, stderr io.Writer) func(code identity.Code, why string) {
	return func(code identity.Code, why string) {
		if events != nil {
			rec.EmitTo(events, codeShown{code.String(), why})
			return
		}
		if why != "" {
			fmt.Fprintf(stderr, "%s; the new code is (one use, ten minutes):\n", why)
		} else {
			fmt.Fprintln(stderr, "on the other machine: p2pagent connect CODE, with this code (one use, ten minutes):")
		}
		fmt.Fprintln(stdout, code)
	}
}
