package main

import (
	"errors"
	"strings"
	"unicode"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/measure"
	"github.com/p2pagent/p2pagent/internal/session"
)

// The exit codes. Scripts rely on them.
const (
	exitOK        = 0
	exitError     = 1
	exitUsage     = 2
	exitRelayed   = 3 // connected, but only relayed where direct was required or asked for
	exitAbsent    = 4 // the peer is not there
	exitWrongCode = 5
	exitSignaling = 6 // the signaling server cannot be reached
	exitNoPath    = 7
	exitRefused   = 8 // by policy or quota

	exitInterrupted = 130 // before it had done what it was for, as a shell says it of SIGINT
)

// exitCode finds the code of an error.
func exitCode(err error) int {
	var usage usageError
	var own interface{ ExitCode() int }
	var refused *session.RefusedError
	switch {
	case err == nil:
		return exitOK
	case err == cli.ErrInterrupted:
		return exitInterrupted
	case errors.As(err, &own):
		return own.ExitCode()
	case errors.As(err, &usage), errors.Is(err, identity.ErrBadCode), errors.Is(err, identity.ErrUnknownPeer), errors.Is(err, identity.ErrBadName),
		errors.Is(err, identity.ErrNameTaken), errors.Is(err, identity.ErrSelf),
		strings.HasPrefix(err.Error(), "unknown command"), strings.HasPrefix(err.Error(), "required flag"):
		return exitUsage
	case errors.Is(err, agent.ErrWrongCode):
		return exitWrongCode
	case errors.Is(err, agent.ErrOnlyRelayed), errors.Is(err, measure.ErrNotMeasured):
		return exitRelayed
	case errors.Is(err, agent.ErrPeerAbsent):
		return exitAbsent
	case errors.Is(err, agent.ErrSignaling):
		return exitSignaling
	case errors.Is(err, agent.ErrNoPath):
		return exitNoPath
	case errors.As(err, &refused):
		if refused.Code == session.CodeUnreachable {
			return exitError
		}
		return exitRefused
	case errors.Is(err, agent.ErrRefused), errors.Is(err, agent.ErrForgotten):
		return exitRefused
	}
	return exitError
}

// printable takes control characters out of text that may have come from
// somebody else, so that no terminal obeys it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
}
