package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// kinds are the NATs of the matrix, in the order of its rows and columns.
func kinds() []string {
	return []string{"none", "full-cone", "address-restricted", "port-restricted", "port-restricted-open", "symmetric", "udp-blocked"}
}

// expectations say for each kind on side A what is to be found with each kind on
// side B: D is direct, R relayed. Direct is wherever both mappings are endpoint-
// independent, early-probe trap or not, and wherever one side's is and it filters
// no stricter than by address. Two peers on one LAN are direct whatever is in
// front of it.
func expectations() map[string]string {
	return map[string]string{
		"none":                 "DDDDDDR",
		"full-cone":            "DDDDDDR",
		"address-restricted":   "DDDDDDR",
		"port-restricted":      "DDDDDRR",
		"port-restricted-open": "DDDDDRR",
		"symmetric":            "DDDRRRR",
		"udp-blocked":          "RRRRRRR",
	}
}

func expected(r labResult) string {
	if r.SameNAT {
		return "direct"
	}
	for i, k := range kinds() {
		if k == r.B {
			return map[byte]string{'D': "direct", 'R': "relayed"}[expectations()[r.A][i]]
		}
	}
	return "no kind " + r.B
}

// provedBytes is what the lab sends each way to prove a path.
const provedBytes = 1 << 20

// check says what is wrong with a result, in the test's own words.
func (r labResult) check() error {
	want := expected(r)
	p := r.Proof
	switch {
	case r.Error != "":
		return fmt.Errorf("no result: %s", r.Error)
	case !r.Connected || p == nil:
		return fmt.Errorf("not connected: %s", r.Verdict)
	case r.Path != want:
		return fmt.Errorf("%s, expected %s: %s", r.Path, want, r.Verdict)
	case p.PayloadBytes < provedBytes:
		return fmt.Errorf("proved with %d bytes", p.PayloadBytes)
	case r.FirstByteMS == nil:
		return fmt.Errorf("no time of the first byte")
	case (r.DirectMS != nil) != (want == "direct"):
		return fmt.Errorf("%s with direct_ms %v", want, r.DirectMS)
	case want == "direct" && (100*p.RelayBytes >= p.PayloadBytes || p.NATABytes < p.PayloadBytes || p.NATBBytes < p.PayloadBytes):
		return fmt.Errorf("called direct with the proof %+v", *p)
	case want == "relayed" && p.RelayBytes < p.PayloadBytes:
		return fmt.Errorf("called relayed with the proof %+v", *p)
	case r.Verdict.Path != want || !strings.HasPrefix(r.Verdict.Text, want):
		return fmt.Errorf("the agent itself says %q", r.Verdict)
	}
	return nil
}

// The table above against the rule's other half, so that neither can be mistyped
// alone: relayed is only what is listed here.
func TestExpectations(t *testing.T) {
	relayed := map[string]bool{
		"symmetric × port-restricted": true, "symmetric × port-restricted-open": true, "symmetric × symmetric": true,
		"port-restricted × symmetric": true, "port-restricted-open × symmetric": true,
	}
	for _, a := range kinds() {
		for _, b := range kinds() {
			want := "direct"
			if relayed[a+" × "+b] || a == "udp-blocked" || b == "udp-blocked" {
				want = "relayed"
			}
			if got := expected(labResult{A: a, B: b}); got != want {
				t.Errorf("%s × %s: %s, the rule says %s", a, b, got, want)
			}
		}
	}
}

// What a result must not get away with.
func TestResultCheck(t *testing.T) {
	direct := `{"a":"none","b":"none","connected":true,"path":"direct","first_byte_ms":1,"direct_ms":2,"proof":{"payload_bytes":1048576,"relay_bytes":0,"nat_a_bytes":1048576,"nat_b_bytes":1048576},"verdict":{"path":"direct","text":"direct: yes","remedy":""}}`
	relayed := `{"a":"none","b":"udp-blocked","connected":true,"path":"relayed","first_byte_ms":1,"direct_ms":null,"proof":{"payload_bytes":1048576,"relay_bytes":1048576,"nat_a_bytes":0,"nat_b_bytes":0},"verdict":{"path":"relayed","text":"relayed: no UDP","remedy":"allow it"}}`
	check := func(text string) error {
		var r labResult
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		return r.check()
	}
	for _, good := range []string{direct, relayed} {
		if err := check(good); err != nil {
			t.Errorf("%v: %s", err, good)
		}
	}
	for _, change := range [][3]string{
		{direct, `"connected":true`, `"connected":false`},
		{direct, `"b":"none"`, `"b":"udp-blocked"`},
		{direct, `"path":"direct"`, `"path":"relayed"`},
		{direct, `"first_byte_ms":1`, `"first_byte_ms":null`},
		{direct, `"direct_ms":2`, `"direct_ms":null`},
		{direct, `"payload_bytes":1048576`, `"payload_bytes":1048575`},
		{direct, `"relay_bytes":0`, `"relay_bytes":10486`},
		{direct, `"nat_a_bytes":1048576`, `"nat_a_bytes":1048575`},
		{direct, `"nat_b_bytes":1048576`, `"nat_b_bytes":1048575`},
		{direct, `direct: yes`, `relayed: no`},
		{direct, `"verdict":{"path":"direct"`, `"verdict":{"path":"none"`},
		{direct, `"verdict"`, `"error":"no lab","verdict"`},
		{relayed, `"relay_bytes":1048576`, `"relay_bytes":1048575`},
		{relayed, `"direct_ms":null`, `"direct_ms":3`},
		{relayed, `"b":"udp-blocked"`, `"b":"symmetric"`},
	} {
		if bad := strings.Replace(change[0], change[1], change[2], 1); check(bad) == nil {
			t.Errorf("passed: %s", bad)
		}
	}
}

// A dozen fields of the matrix, among them each kind of NAT on both sides, each
// kind of trap, and both ways to end on a relay.
func TestMatrixSample(t *testing.T) {
	needLinux(t)
	for _, pair := range [][2]string{
		{"none", "none"},
		{"none", "symmetric"},
		{"full-cone", "port-restricted"},
		{"address-restricted", "symmetric"},
		{"symmetric", "full-cone"},
		{"port-restricted", "address-restricted"},
		{"port-restricted-open", "port-restricted-open"},
		{"port-restricted", "port-restricted-open"},
		{"symmetric", "port-restricted"},
		{"symmetric", "symmetric"},
		{"udp-blocked", "none"},
		{"port-restricted", "udp-blocked"},
	} {
		t.Run(pair[0]+" × "+pair[1], func(t *testing.T) {
			checkRun(t, "--a", pair[0], "--b", pair[1])
		})
	}
	for _, kind := range []string{"port-restricted", "symmetric"} {
		t.Run("both behind one "+kind, func(t *testing.T) {
			checkRun(t, "--a", kind, "--same-nat")
		})
	}
}

func checkRun(t *testing.T, args ...string) {
	t.Helper()
	dir := t.ArtifactDir()
	for _, r := range measured(t, 2*time.Minute, append(args, "--trace", dir)...) {
		if err := r.check(); err != nil {
			t.Errorf("%v (traces, if kept with -artifacts: %s)", err, dir)
		}
	}
}

// Three runs of every pair and of each kind as one NAT for both.
func TestMatrix(t *testing.T) {
	needLinux(t)
	needFull(t, "168 runs take five minutes and more")
	const runs = 3
	p := start(t, "p2pagent", os.Environ(), nil, "lab", "matrix", "--runs", fmt.Sprint(runs), "--json", "--trace", t.ArtifactDir())
	code := p.waitFor(t, time.Hour)
	var cells []labResult
	if err := json.Unmarshal([]byte(p.stdout.String()), &cells); err != nil {
		t.Fatalf("lab matrix: exit code %d, %v\n%s", code, err, p.stderr)
	}
	seen := map[string]int{}
	for _, r := range cells {
		name := r.A + " × " + r.B
		if r.SameNAT {
			name = "both behind one " + r.A
		}
		seen[name]++
		if err := r.check(); err != nil {
			t.Errorf("%s, run %d: %v", name, seen[name], err)
		}
	}
	for _, a := range kinds() {
		names := []string{"both behind one " + a}
		for _, b := range kinds() {
			names = append(names, a+" × "+b)
		}
		for _, name := range names {
			if seen[name] != runs {
				t.Errorf("%s: %d runs, want %d", name, seen[name], runs)
			}
		}
	}
	if code != 0 {
		t.Errorf("lab matrix: exit code %d\n%s", code, p.stderr)
	}
}
