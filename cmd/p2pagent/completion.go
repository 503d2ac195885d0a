package main

import (
	"github.com/p2pagent/p2pagent/internal/lab"
	"github.com/spf13/cobra"
)

// What the shell completes. Cobra's own command `completion` prints the script for
// each shell. Where something cannot be read, nothing is proposed: that is not the
// time to complain.

type completion = cobra.CompletionFunc

// oneOf proposes words, and no files.
func oneOf(words ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// first proposes for the first argument only.
func first(of completion) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return of(cmd, args, typed)
	}
}

// peerNames proposes the known peers.
func peerNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if store, err := openStore(); err == nil {
		peers, _ := store.List()
		for _, p := range peers {
			names = append(names, p.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// labNames proposes the labs that are up.
func labNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names, _ := lab.Names()
	return names, cobra.ShellCompDirectiveNoFileComp
}

// nodes proposes those of a lab, and then what a shell has to propose for a command.
func nodes(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return oneOf(lab.Nodes()...)(cmd, args, typed)
}

// completes registers what a flag's value may be.
func completes(cmd *cobra.Command, flag string, of completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, of); err != nil {
		panic(err) // the command has no such flag: any test meets it
	}
}
