package lab

import (
	"bufio"
	"context"
	"strings"
	"syscall"
	"testing"
)

const routerRules = "iptables-save -t filter; iptables-save -t nat; iptables-save -t mangle; nft list tables | sort"

// A machine that already routes becomes a NAT by command, is proved to be it, and is
// what it was before when the command ends.
func TestBeRouter(t *testing.T) {
	needSandbox(t)
	for _, name := range []string{"address-restricted", "symmetric"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := build(t, Topology{A: kind(t, "none"), B: kind(t, name)}, func(k Kind, r Router) []Rule {
				if k.Name == name {
					// Connection tracking, which the lab wants to set up, comes with a rule.
					return []Rule{rule("nat", "POSTROUTING", "-m", "conntrack", "--ctstate", "NEW")}
				}
				return k.Rules(r)
			})
			startResponder(t, l)
			nat := l.Node(NatB)
			before, err := nat.Run(t.Context(), "sh", "-c", routerRules)
			if err != nil {
				t.Fatal(err)
			}

			cmd := nat.Command(context.Background(), "/proc/self/exe", "lab", "nat", name, "10.2.0.0/24", wanInterface)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := nat.Start(cmd); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatalf("router said %q: %v", line, err)
			}
			if err := l.CheckNATs(t.Context()); err != nil {
				t.Error(err)
			}
			second, err := nat.Run(t.Context(), "/proc/self/exe", "lab", "nat", name, "10.2.0.0/24", wanInterface)
			if err == nil || !strings.Contains(err.Error(), "filters already") {
				t.Errorf("a second router on the machine: %q, %v", second, err)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("terminated router: %v", err)
			}
			after, err := nat.Run(t.Context(), "sh", "-c", routerRules)
			if err != nil {
				t.Fatal(err)
			}
			if strip(after) != strip(before) {
				t.Errorf("rules after\n%s\nbefore\n%s", strip(after), strip(before))
			}
		})
	}
}

// strip leaves out comments, with their times, and counters of chains.
func strip(rules string) string {
	var b strings.Builder
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, "table ip p2p") {
			b.WriteString(line)
		}
	}
	return b.String()
}
