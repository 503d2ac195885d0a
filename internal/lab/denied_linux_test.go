package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestDeniedErrorSaysHowToGoOn(t *testing.T) {
	refused := fmt.Errorf("clone: %w", syscall.EPERM)
	for _, tt := range []struct {
		err   error
		facts userNamespaceFacts
		want  string
		not   string
	}{
		{refused, userNamespaceFacts{appArmor: "1", clone: "1"}, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", ""},
		{refused, userNamespaceFacts{clone: "0"}, "sudo sysctl -w kernel.unprivileged_userns_clone=1", "AppArmor"},
		{fmt.Errorf("clone: %w", syscall.ENOSPC), userNamespaceFacts{max: "0"}, "sudo sysctl -w user.max_user_namespaces=10000", ""},
		{refused, userNamespaceFacts{appArmor: "0", max: "1000"}, "run the same command with sudo", "sysctl"},
		{refused, userNamespaceFacts{root: true, max: "0"}, "--privileged", "sudo"},
		{io.ErrUnexpectedEOF, userNamespaceFacts{appArmor: "1"}, "unexpected EOF", "sudo"},
	} {
		got := deniedError(tt.err, tt.facts)
		if !errors.Is(got, tt.err) || !strings.Contains(got.Error(), tt.want) || tt.not != "" && strings.Contains(got.Error(), tt.not) {
			t.Errorf("%v with %+v: %v", tt.err, tt.facts, got)
		}
	}
}

func TestMissingToolsNamesPackages(t *testing.T) {
	has := func(present ...string) func(string) (string, error) {
		return func(name string) (string, error) {
			if strings.Contains(" "+strings.Join(present, " ")+" ", " "+name+" ") {
				return name, nil
			}
			return "", os.ErrNotExist
		}
	}
	if err := missingTools(tools(), has("ip", "tc", "iptables", "nft", "conntrack", "nsenter")); err != nil {
		t.Error(err)
	}
	err := missingTools(tools(), has("iptables", "nft", "nsenter"))
	if err == nil || err.Error() != "the lab needs conntrack ip tc: apt-get install conntrack iproute2" {
		t.Errorf("missing: %v", err)
	}
}
