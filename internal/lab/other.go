//go:build !linux

package lab

import (
	"context"
	"errors"
	"os/exec"
)

// ErrNeedsLinux is every answer of the lab on other systems.
var ErrNeedsLinux = errors.New("the lab needs Linux: it is made of the kernel's network namespaces and iptables")

// Sandbox cannot be had here.
type Sandbox struct{}

// InSandbox reports false.
func InSandbox() bool { return false }

// Enter fails with ErrNeedsLinux.
func Enter() (int, error) { return 1, ErrNeedsLinux }

// OpenSandbox fails with ErrNeedsLinux.
func OpenSandbox() (*Sandbox, error) { return nil, ErrNeedsLinux }

// Run fails with ErrNeedsLinux.
func (*Sandbox) Run(context.Context, Topology, Config, func(Result) error) error {
	return ErrNeedsLinux
}

// Matrix fails with ErrNeedsLinux.
func (*Sandbox) Matrix(context.Context, Config, func(Cell)) (Matrix, error) {
	return nil, ErrNeedsLinux
}

// Hold fails with ErrNeedsLinux.
func (*Sandbox) Hold(context.Context, Topology, Config) error { return ErrNeedsLinux }

// Up fails with ErrNeedsLinux.
func Up(context.Context, string) (Standing, error) { return Standing{}, ErrNeedsLinux }

// Down fails with ErrNeedsLinux.
func Down(context.Context, string) error { return ErrNeedsLinux }

// Names fails with ErrNeedsLinux.
func Names() ([]string, error) { return nil, ErrNeedsLinux }

// ExecCommand fails with ErrNeedsLinux.
func ExecCommand(string, string, []string) (*exec.Cmd, error) { return nil, ErrNeedsLinux }

// BeRouter fails with ErrNeedsLinux.
func BeRouter(context.Context, RouterConfig, func(Router)) error { return ErrNeedsLinux }
