package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// userNamespaceFacts are the switches by which systems keep users from making
// namespaces; empty where the kernel has no such switch.
type userNamespaceFacts struct {
	appArmor string // kernel.apparmor_restrict_unprivileged_userns, Ubuntu
	clone    string // kernel.unprivileged_userns_clone, Debian
	max      string // user.max_user_namespaces
	root     bool   // we are root already, so in a container that was given less
}

func readUserNamespaceFacts() userNamespaceFacts {
	read := func(file string) string {
		b, _ := os.ReadFile("/proc/sys/" + file) // absent is a fact as well
		return strings.TrimSpace(string(b))
	}
	return userNamespaceFacts{
		appArmor: read("kernel/apparmor_restrict_unprivileged_userns"),
		clone:    read("kernel/unprivileged_userns_clone"),
		max:      read("user/max_user_namespaces"),
		root:     os.Geteuid() == 0,
	}
}

// deniedError adds to a refusal by the kernel what caused it and how to go on.
func deniedError(err error, facts userNamespaceFacts) error {
	if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("make namespaces for the lab: %w", err)
	}
	why, allow := "this system does not let a user make namespaces", ""
	switch {
	case facts.root:
	case facts.appArmor == "1":
		why = "AppArmor keeps users from making namespaces (Ubuntu 24.04 does so by default)"
		allow = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case facts.clone == "0":
		allow = "sysctl -w kernel.unprivileged_userns_clone=1"
	case facts.max == "0":
		allow = "sysctl -w user.max_user_namespaces=10000"
	}
	hint := "run the same command with sudo"
	if facts.root {
		why, hint = "this container may not make namespaces", "start it with --privileged"
	}
	if allow != "" {
		hint += ", or allow it with: sudo " + allow
	}
	return fmt.Errorf("make namespaces for the lab: %w: %s; %s", err, why, hint)
}

// tools are the programs that the lab runs, and the Debian packages that have
// them.
func tools() map[string]string {
	return map[string]string{"ip": "iproute2", "tc": "iproute2", "iptables": "iptables", "nft": "nftables", "conntrack": "conntrack", "nsenter": "util-linux"}
}

func checkTools() error { return missingTools(tools(), exec.LookPath) }

func missingTools(tools map[string]string, look func(string) (string, error)) error {
	var missing, packages []string
	for tool, pkg := range tools {
		if _, err := look(tool); err != nil {
			missing = append(missing, tool)
			packages = append(packages, pkg)
		}
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("the lab needs %s: apt-get install %s", sortedWords(missing), sortedWords(packages))
}

func sortedWords(words []string) string {
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " ")
}
