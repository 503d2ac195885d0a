package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// nearEnough is how many letters may be wrong in what is still understood.
const nearEnough = 2

// unknownCommand is how cobra says it; there is no type for it.
var unknownCommand = regexp.MustCompile(`^unknown command ("[^"]*") for`)

// meant adds to an error of cobra, about the command line of cmd, what may have been
// meant instead.
func meant(cmd *cobra.Command, err error) error {
	var near []string
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		for _, name := range suggestions(flagNames(cmd), unknown.GetSpecifiedName()) {
			near = append(near, "--"+name)
		}
		err = usageError{err}
	} else if m := unknownCommand.FindStringSubmatch(err.Error()); m != nil {
		cmd.SuggestionsMinimumDistance = nearEnough
		near = cmd.SuggestionsFor(strings.Trim(m[1], `"`))
		err = usageError{fmt.Errorf("unknown command %s", m[1])}
	}
	if len(near) == 0 {
		return err
	}
	return usageError{fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))}
}

func flagNames(cmd *cobra.Command) (names []string) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// suggestions are those of names that typed may stand for, by cobra's own rule for
// commands.
func suggestions(names []string, typed string) []string {
	if len(typed) < 2 {
		return nil // everything is near
	}
	of := &cobra.Command{SuggestionsMinimumDistance: nearEnough}
	for _, name := range names {
		of.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	return of.SuggestionsFor(typed)
}
