package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/session"
)

func TestExitCode(t *testing.T) {
	_, badCode := identity.ParseCode("hello")
	badName := identity.ValidateName("\n")
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"nothing", nil, 0},
		{"interrupted", cli.ErrInterrupted, 130},
		{"cancelled by nobody", context.Canceled, 1},
		{"anything", errors.New("disk on fire"), 1},
		{"usage", usageError{errors.New("--color pink")}, 2},
		{"usage behind a reason", fmt.Errorf("-L: %w", usageError{errors.New("no port")}), 2},
		{"code that is none", badCode, 2},
		{"name that is none", badName, 2},
		{"unknown peer", identity.ErrUnknownPeer, 2},
		{"cobra's unknown command", errors.New(`unknown command "x" for "p2pagent"`), 2},
		{"cobra's missing flag", errors.New(`required flag(s) "a" not set`), 2},
		{"only relayed", agent.ErrOnlyRelayed, 3},
		{"absent", agent.ErrPeerAbsent, 4},
		{"wrong code", agent.ErrWrongCode, 5},
		{"signaling", agent.ErrSignaling, 6},
		{"no path", agent.ErrNoPath, 7},
		{"refused", agent.ErrRefused, 8},
		{"forgotten", agent.ErrForgotten, 8},
		{"target not allowed", &session.RefusedError{Code: session.CodeNotAllowed}, 8},
		{"too many streams", &session.RefusedError{Code: session.CodeLimit}, 8},
		{"target away", &session.RefusedError{Code: session.CodeUnreachable}, 1},
		{"session idle", session.ErrIdle, 1},
		{"lab's own", &labError{code: 3}, 3},
	} {
		for _, err := range []error{tt.err, wrapped(tt.err)} {
			if got := exitCode(err); got != tt.want {
				t.Errorf("%s (%v): %d, want %d", tt.name, err, got, tt.want)
			}
		}
	}
}

// wrapped is err as callers wrap it; cobra's errors have no type and stay, and nobody
// wraps what the program itself says last.
func wrapped(err error) error {
	if err == nil || err == cli.ErrInterrupted || exitCode(err) == exitUsage && errors.Unwrap(err) == nil {
		return err
	}
	return fmt.Errorf("session with bob: %w", err)
}

// What ended the program decides what the error of its command means.
func TestEnded(t *testing.T) {
	interrupted, end := context.WithCancelCause(t.Context())
	end(cli.ErrInterrupted)
	full, end := context.WithCancelCause(t.Context())
	end(&cli.OutputError{Err: errors.New("write /dev/stdout: no space left on device")})
	absent := fmt.Errorf("%w: bob", agent.ErrPeerAbsent)
	for name, tt := range map[string]struct {
		ctx  context.Context
		err  error
		want int
	}{
		"well":                            {t.Context(), nil, 0},
		"well, interrupted at the end":    {interrupted, nil, 0},
		"an error":                        {t.Context(), absent, 4},
		"an error, then interrupted":      {interrupted, absent, 4},
		"interrupted":                     {interrupted, fmt.Errorf("wait: %w", context.Canceled), 130},
		"cancelled, and nobody did":       {t.Context(), context.Canceled, 1},
		"nothing of it could be printed":  {full, nil, 1},
		"interrupted by a full disk":      {full, context.Canceled, 1},
		"a full disk and what it entails": {full, absent, 1},
	} {
		if got := exitCode(ended(tt.ctx, tt.err)); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}
