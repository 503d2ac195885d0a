package lab

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// sandbox is nil where this machine has no namespaces for us; why then says why.
var (
	sandbox *Sandbox
	why     error
)

// The whole test binary runs once more in namespaces of its own, as the lab's
// command does, and stands in for that command where a test wants a process.
func TestMain(m *testing.M) {
	if code, ok := fakeMain(); ok {
		os.Exit(code)
	}
	if len(os.Args) > 1 && os.Args[1] == "lab" {
		os.Exit(command(os.Args[2:]))
	}
	if !InSandbox() {
		code, err := Enter()
		if err == nil {
			os.Exit(code)
		}
		why = err
	} else if sandbox, why = OpenSandbox(); why != nil {
		sandbox = nil
	}
	// Most of these tests wait for packets that must not come.
	flag.Parse()
	flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}

func command(args []string) int {
	if err := runCommand(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// runCommand is the lab's command line, as far as the tests need it.
func runCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	switch args[0] {
	case ProbeCommand:
		var servers []netip.AddrPort
		for _, a := range args[1:] {
			servers = append(servers, netip.MustParseAddrPort(a))
		}
		return Probe(ctx, servers, os.Stdout)
	case "stay": // BIN: a lab with a program in it, until interrupted
		return inSandbox(func(s *Sandbox) error { return stay(ctx, s, args[1]) })
	case "prove": // KIND
		return inSandbox(func(s *Sandbox) error { return prove(ctx, s, args[1]) })
	case "up": // NAME BIN
		if !InSandbox() {
			standing, err := Up(ctx, args[1])
			fmt.Println(standing.Signal)
			return err
		}
		return inSandbox(func(s *Sandbox) error {
			none := Kinds()[0]
			return s.Hold(ctx, Topology{A: none, B: none}, Config{Bin: args[2]})
		})
	case "nat": // KIND LAN WAN
		k, err := ParseKind(args[1])
		if err != nil {
			return err
		}
		return BeRouter(ctx, RouterConfig{Kind: k, LAN: args[2], WAN: args[3]}, func(r Router) { fmt.Println("ready", r) })
	}
	return fmt.Errorf("no test command %q", args[0])
}

func inSandbox(f func(*Sandbox) error) error {
	if !InSandbox() {
		code, err := Enter()
		if err == nil && code != 0 {
			os.Exit(code)
		}
		return err
	}
	s, err := OpenSandbox()
	if err != nil {
		return err
	}
	return f(s)
}

func stay(ctx context.Context, s *Sandbox, bin string) error {
	none := Kinds()[0]
	l, err := s.Build(ctx, Topology{A: none, B: none}, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	d, err := deploySignal(ctx, l, bin, l.dir)
	if err != nil {
		return err
	}
	defer d.close()
	sleep := l.Node(PeerA).Command(context.Background(), "sleep", "1000")
	sleep.Stdout = os.Stdout
	if err := l.Node(PeerA).Start(sleep); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil // the sleeper is left to the kernel
}

func prove(ctx context.Context, s *Sandbox, name string) error {
	k, err := ParseKind(name)
	if err != nil {
		return err
	}
	l, err := s.Build(ctx, Topology{A: k, B: k}, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	stop, err := runResponder(ctx, l)
	if err != nil {
		return err
	}
	defer stop()
	if err := l.CheckNATs(ctx); err != nil {
		return err
	}
	fmt.Println("proved")
	return nil
}

func needSandbox(t *testing.T) *Sandbox {
	t.Helper()
	if sandbox == nil {
		t.Skipf("no lab here: %v", why)
	}
	return sandbox
}

func kind(t *testing.T, name string) Kind {
	t.Helper()
	k, err := ParseKind(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// build makes a lab that ends with the test.
func build(t *testing.T, top Topology, recipe func(Kind, Router) []Rule) *Lab {
	t.Helper()
	if recipe == nil {
		recipe = Kind.Rules
	}
	l, err := needSandbox(t).build(t.Context(), top, nil, recipe)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}
