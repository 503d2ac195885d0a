package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/lab"
)

// What is wrong on the command line is said before anything is built.
func TestLabUsage(t *testing.T) {
	for _, tt := range []struct{ args, says string }{
		{"run", `"a" not set`},
		{"run --a none", "--b is missing"},
		{"run --a cone --b none", `no NAT "cone"; it has none, full-cone`},
		{"run --a none --b symetric", `--b: the lab has no NAT "symetric"`},
		{"run --a none --b symmetric --same-nat", "one NAT for both"},
		{"run --a none --same-nat --link-b mtu=1400", "no second line"},
		{"run --a none --b none --link-a delay=20ms", "cannot delay"},
		{"run --a none --b none extra", "unknown command"},
		{"up --a none", "--b is missing"},
		{"exec peer-a", "at least 2 arg"},
		{"nat --type symmetric --lan eth0", `"wan" not set`},
		{"nat --type cone --lan eth0 --wan eth1", `no NAT "cone"`},
		{"nat --type full-cone --lan eth0 --wan eth1 --host router", "--host"},
		{"run --a none --b none --no-such-flag", "unknown flag"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"lab"}, strings.Fields(tt.args)...), strings.NewReader(""), &stdout, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), tt.says) || stdout.Len() > 0 {
			t.Errorf("lab %s: exit code %d, stdout %q, stderr %q, want %d and %q", tt.args, code, &stdout, &stderr, exitUsage, tt.says)
		}
	}
}

func TestJudgeLabResult(t *testing.T) {
	for _, tt := range []struct {
		result lab.Result
		want   int
	}{
		{lab.Result{Connected: true, Path: lab.Direct}, exitOK},
		{lab.Result{Connected: true, Path: lab.Relayed}, exitOK},
		{lab.Result{Connected: true, Path: lab.Unproven}, exitError},
		{lab.Result{Path: lab.NoPath}, exitNoPath},
		{lab.Result{Path: lab.NoPath, Exit: exitError}, exitNoPath},
		{lab.Result{Path: lab.NoPath, Exit: exitAbsent}, exitAbsent},
		{lab.Result{Path: lab.NoPath, Exit: exitRefused}, exitRefused},
	} {
		err := judgeLabResult(lab.Topology{}, tt.result)
		// As the command returns it, beside an error that there is not.
		if got := exitCode(errors.Join(nil, err)); got != tt.want {
			t.Errorf("%+v: exit code %d, want %d (%v)", tt.result, got, tt.want, err)
		}
	}
}
