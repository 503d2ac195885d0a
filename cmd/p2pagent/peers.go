package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/spf13/cobra"
)

func peersCommand() *cobra.Command {
	var asJSON bool
	list := func(cmd *cobra.Command, _ []string) error { return listPeers(cmd, asJSON) }
	cmd := &cobra.Command{Use: "peers", Short: "List, rename or forget known peers", Args: cobra.NoArgs, RunE: list}
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "JSON on stdout")
	cmd.AddCommand(
		&cobra.Command{Use: "list", Short: "List known peers", Args: cobra.NoArgs, RunE: list},
		&cobra.Command{
			Use: "rename NAME NEW-NAME", Short: "Give a peer another name", Args: twoNames, ValidArgsFunction: first(peerNames),
			RunE: func(_ *cobra.Command, args []string) error {
				return changePeers(args[0], func(s *identity.Store) error { return s.Rename(args[0], args[1]) })
			},
		},
		&cobra.Command{
			Use: "forget NAME", Short: "Forget a peer: it cannot link any more, and a live link with it ends", Args: onePeer, ValidArgsFunction: first(peerNames),
			RunE: func(_ *cobra.Command, args []string) error {
				return changePeers(args[0], func(s *identity.Store) error { return s.Forget(args[0]) })
			},
		},
	)
	return cmd
}

func changePeers(name string, change func(*identity.Store) error) error {
	store, err := openStore()
	if err != nil {
		return err
	}
	err = change(store)
	if errors.Is(err, identity.ErrUnknownPeer) {
		return usageError{fmt.Errorf("%q is not a known peer; see `p2pagent peers`", name)}
	}
	return err
}

// listedPeer is an element of `peers --json`.
type listedPeer struct {
	identity.Peer
	Unconfirmed bool `json:"unconfirmed,omitempty"` // the other side of the pairing may not have it
}

func listPeers(cmd *cobra.Command, asJSON bool) error {
	store, err := openStore()
	if err != nil {
		return err
	}
	peers, err := store.List()
	if err != nil {
		return err
	}
	if asJSON {
		listed := []listedPeer{}
		for _, p := range peers {
			listed = append(listed, listedPeer{p, !p.Confirmed()})
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(listed)
	}
	if len(peers) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no known peers; pair with `p2pagent listen` here and `p2pagent connect CODE` there")
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKEY\tPAIRED")
	for _, p := range peers {
		when := p.Added.Format(time.DateTime)
		if !p.Confirmed() {
			when += ", not confirmed by it"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Fingerprint, when)
	}
	return w.Flush()
}
