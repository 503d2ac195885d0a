package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// The arguments that a command takes, and what is said of others. cobra's own words
// are of counts.

// onePeer is a peer's name.
func onePeer(_ *cobra.Command, args []string) error { return peerAnd("", args) }

// onePeerAndTarget is a peer's name, and a target if one likes.
func onePeerAndTarget(_ *cobra.Command, args []string) error { return peerAnd("a target", args) }

func peerAnd(more string, args []string) error {
	most, wanted := 1, "one peer"
	if more != "" {
		most, wanted = 2, "one peer and "+more
	}
	switch {
	case len(args) == 0:
		return errors.New("which peer? (`p2pagent peers` lists them)")
	case len(args) <= most:
		return nil
	case identity.LooksLikeCode(strings.Join(args, " ")):
		return errCodeForPeer
	}
	return fmt.Errorf("%s at most, and these are %d arguments; a name with a space stands in quotes", wanted, len(args))
}

// oneCodeOrPeer is a pairing code, in one argument or with a space between its words, or
// a peer's name; or nothing.
func oneCodeOrPeer(_ *cobra.Command, args []string) error {
	if len(args) <= 1 || identity.LooksLikeCode(strings.Join(args, " ")) {
		return nil
	}
	return fmt.Errorf("one code or peer, and these are %d arguments; write a code with hyphens, 1234-word-word-word, and a name with a space in quotes", len(args))
}

// twoNames is a peer's name and its new one.
func twoNames(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("which peer? (`p2pagent peers` lists them)")
	case 1:
		return errors.New("what is it to be called? the new name goes behind the old one")
	case 2:
		return nil
	}
	return fmt.Errorf("two names, and these are %d arguments; a name with a space stands in quotes", len(args))
}

// shellWord is text as a shell takes it for one word.
func shellWord(text string) string {
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("-_./:@+,%", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

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

// strict makes wrong words below root usage errors where cobra prints help and calls
// that a success: after a command that has only subcommands, and after help. Cobra's own
// completion command is made here, as it remembers where root writes.
func strict(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			c.RunE = helpAbout
		}
		knownWords(c)
	}
}

// knownWords has c, and what is below it, refuse a word that is no subcommand.
func knownWords(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.NoArgs
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	for _, sub := range c.Commands() {
		knownWords(sub)
	}
}

// helpAbout prints the help of the command that args name.
func helpAbout(help *cobra.Command, args []string) error {
	about, rest, err := help.Root().Find(args)
	if err == nil && len(rest) > 0 && about.HasSubCommands() {
		err = fmt.Errorf("unknown command %q for %q", rest[0], about.CommandPath())
	}
	if err != nil {
		return meant(about, err)
	}
	about.InitDefaultHelpFlag() // it shows those of commands that have run
	about.InitDefaultVersionFlag()
	return about.Help()
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
