package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// natFacts is the part of `nat --json` that tells the kinds apart.
type natFacts struct {
	UDP                *bool
	Mapping, Filtering *string
	Allocation         struct{ Pattern *string }
	Mapped             []string
}

// What `nat --json` says from inside each kind of NAT, in RFC 4787 words.
func TestNATWords(t *testing.T) {
	needLab(t)
	const (
		ei  = "endpoint-independent"
		ad  = "address-dependent"
		apd = "address-and-port-dependent"
	)
	type words struct{ kind, udp, mapping, filtering string }
	for _, pair := range [][2]words{
		{{"none", "true", ei, ei}, {"full-cone", "true", ei, ei}},
		{{"address-restricted", "true", ei, ad}, {"port-restricted", "true", ei, apd}},
		{{"port-restricted-open", "true", ei, apd}, {"symmetric", "true", apd, apd}},
		{{"udp-blocked", "false", "null", "null"}, {"none", "true", ei, ei}},
	} {
		s := stand(t, pair[0].kind, pair[1].kind)
		for i, node := range []string{"peer-a", "peer-b"} {
			t.Run(pair[i].kind, func(t *testing.T) {
				s, want := s.in(t), pair[i]
				var out string
				var got natFacts
				var said words
				for range 3 { // on a machine that stands still an answer may come too late
					out, got = s.must(node, "p2pagent", "nat", "--json"), natFacts{}
					if err := json.Unmarshal([]byte(out), &got); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					if said = (words{want.kind, spell(got.UDP), spell(got.Mapping), spell(got.Filtering)}); said == want {
						break
					}
				}
				if said != want {
					t.Errorf("%+v, want %+v\n%s", said, want, out)
				}
				// Where packets come from is the router, unless it does not translate.
				inside := s.must(node, "ip", "-4", "-o", "addr", "show", "dev", "eth0")
				for _, m := range got.Mapped {
					if addr, _, _ := strings.Cut(m, ":"); strings.Contains(inside, " "+addr+"/") != (want.kind == "none") {
						t.Errorf("mapped to %s behind %s", m, want.kind)
					}
				}
				if (len(got.Mapped) == 0) != (want.udp == "false") {
					t.Errorf("mapped addresses %v", got.Mapped)
				}
				if want.kind == "symmetric" && spell(got.Allocation.Pattern) != "random" {
					t.Errorf("port allocation %s", spell(got.Allocation.Pattern))
				}
			})
		}
	}
}

// spell is a fact as JSON has it.
func spell(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return strings.Trim(string(b), `"`)
}

// Two labs that stand and two that run, all at once: same names of nodes, same
// addresses, and none sees the others.
func TestLabsSideBySide(t *testing.T) {
	needLab(t)
	first, second := stand(t, "full-cone", "port-restricted"), stand(t, "symmetric", "none")
	runs := map[string]*process{}
	for _, pair := range [][2]string{{"port-restricted", "port-restricted"}, {"symmetric", "full-cone"}} {
		runs[pair[0]+" × "+pair[1]] = start(t, "p2pagent", os.Environ(), nil, "lab", "run", "--a", pair[0], "--b", pair[1], "--runs", "3", "--json")
	}
	if a, b := first.mapping("peer-a"), second.mapping("peer-a"); a != "endpoint-independent" || b != "address-and-port-dependent" {
		t.Errorf("mappings %s and %s: the labs are mixed up", a, b)
	}
	for name, p := range runs {
		if code := p.waitFor(t, 2*time.Minute); code != 0 {
			t.Errorf("%s: exit code %d\n%s%s", name, code, p.stdout, p.stderr)
		}
		if n := strings.Count(p.stdout.String(), `"connected":true,"path":"direct"`); n != 3 {
			t.Errorf("%s: %d of 3 runs are direct\n%s", name, n, p.stdout)
		}
	}
}

func (s *standing) mapping(node string) string {
	s.t.Helper()
	var facts natFacts
	if out := s.must(node, "p2pagent", "nat", "--json"); json.Unmarshal([]byte(out), &facts) != nil {
		s.t.Fatalf("nat --json printed %q", out)
	}
	return spell(facts.Mapping)
}

// A lab whose command or supervisor is killed takes all of its processes with it,
// and the next lab removes its files.
func TestKilledLabLeavesNothing(t *testing.T) {
	needLinux(t)
	if os.Getuid() != 0 {
		t.Skip("reads the environment of processes in other namespaces, and runs as root")
	}
	dir := t.TempDir()
	env := append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
	registry := filepath.Join(dir, "p2pagent-lab")

	run := start(t, "p2pagent", env, nil, "lab", "run", "--a", "full-cone", "--b", "full-cone", "--runs", "100000", "--json")
	run.await(t, run.stdout, `"connected":true`)
	run.cmd.Process.Kill()
	run.wait(t)

	up := start(t, "p2pagent", env, nil, "lab", "up", "--a", "full-cone", "--b", "full-cone", "--name", "killed")
	if code := up.wait(t); code != 0 {
		t.Fatalf("lab up: exit code %d\n%s", code, up.stderr)
	}
	if got := labFolders(t, registry); len(got) != 1 || got[0] != "killed" {
		t.Errorf("after the next lab's start there are %v", got)
	}
	if err := signalTo(supervisor(t, registry, "killed"), os.Kill); err != nil {
		t.Fatal(err)
	}
	awaitNobody(t, registry)
	last := start(t, "p2pagent", env, nil, "lab", "run", "--a", "full-cone", "--b", "full-cone", "--json")
	if code := last.wait(t); code != 0 {
		t.Fatalf("lab run: exit code %d\n%s", code, last.stderr)
	}
	if got := labFolders(t, registry); len(got) != 0 {
		t.Errorf("after all labs there are %v", got)
	}
	awaitNobody(t, registry)
}

func labFolders(t *testing.T, registry string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// supervisor is the process that holds a standing lab.
func supervisor(t *testing.T, registry, name string) int {
	t.Helper()
	var state struct{ PID int }
	b, err := os.ReadFile(filepath.Join(registry, name, "state.json"))
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err != nil || state.PID <= 1 {
		t.Fatalf("supervisor of lab %s: process %d, %v", name, state.PID, err)
	}
	return state.PID
}

// awaitNobody waits until no process is left whose environment names the
// directory: programs in a lab have their home in it.
func awaitNobody(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := processesOf(t, dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes are left: %q", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func processesOf(t *testing.T, dir string) (left []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(files) == 0 {
		t.Fatalf("no processes in /proc: %v", err)
	}
	for _, f := range files {
		if env, err := os.ReadFile(f); err == nil && strings.Contains(string(env), dir) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

// The lab as a user without rights.
func TestLabWithoutRoot(t *testing.T) {
	needLinux(t)
	if os.Getuid() != 0 {
		t.Skip("every other test of `lab run` was run without root already")
	}
	needProgram(t, "setpriv", "util-linux")
	const nobody = 65534
	home, err := os.MkdirTemp("", "e2e-nobody-") // and not t.TempDir, which others may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	program := programs.path(t, "p2pagent")
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups", "--",
		program, "lab", "run", "--a", "full-cone", "--b", "port-restricted", "--pcap", filepath.Join(home, "pcap"), "--json")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	cmd.Dir = home
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if strings.Contains(stderr.String(), "make namespaces for the lab") {
		t.Skip(stderr.String())
	}
	var r labResult
	if err != nil || json.Unmarshal(out, &r) != nil {
		t.Fatalf("lab run as nobody: %v\n%s%s", err, out, stderr.String())
	}
	if err := r.check(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"nat-a-lan.pcap", "nat-a-wan.pcap", "nat-b-lan.pcap", "nat-b-wan.pcap"} {
		info, err := os.Stat(filepath.Join(home, "pcap", name))
		if err != nil {
			t.Error(err)
		} else if info.Size() < provedBytes {
			t.Errorf("%s has %d bytes, less than what went through", name, info.Size())
		}
	}
}

// ^Z stops a command in a node, and the program that waits for it outside; the lab can
// be ended all the same.
func TestLabDownWithAStoppedCommand(t *testing.T) {
	s := stand(t, "none", "none")
	p := s.exec("peer-a", "sleep", "1000")
	deadline := time.Now().Add(patience)
	for state := ""; state != "T"; time.Sleep(10 * time.Millisecond) {
		p.signalInside(syscall.SIGSTOP) // when there is one
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%s does not stop: %s, %v", p.name, b, err)
		}
		state = strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[0]
	}
	down := start(t, "p2pagent", os.Environ(), nil, "lab", "down", "--name", s.name)
	if code := down.wait(t); code != 0 {
		t.Fatalf("lab down: exit code %d\n%s", code, down.stderr)
	}
	p.wait(t)
	again := start(t, "p2pagent", os.Environ(), nil, "lab", "exec", "peer-a", "--name", s.name, "--", "true")
	if code := again.wait(t); code != 1 || !strings.Contains(again.stderr.String(), "no lab") {
		t.Errorf("afterwards: exit code %d\n%s", code, again.stderr)
	}
}

// Flags may stand before the node or behind it, as the usage has it; what is behind --
// is the command's, and without -- all that follows the node is.
func TestLabExecFlags(t *testing.T) {
	s := stand(t, "none", "none")
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--name", s.name, "core", "--", "echo", "--name"}, 0, "--name"},
		{[]string{"core", "--name", s.name, "--", "echo", "-n"}, 0, ""},
		{[]string{"core", "--name=" + s.name, "--", "sh", "-c", "echo -- $0", "--"}, 0, "-- --"},
		{[]string{"--name", s.name, "core", "echo", "-v", "--", "x"}, 0, "-v -- x"},
		{[]string{"core", "--nam", s.name, "--", "true"}, 2, "unknown flag: --nam; did you mean --name?"},
		{[]string{"core", "--name", s.name, "stray", "--", "true"}, 2, `unexpected argument "stray" before --`},
		{[]string{"core", "--"}, 2, "no command to run in the node"},
		{[]string{"--name", s.name, "nowhere", "--", "true"}, 1, "has no node \"nowhere\"; it has core, nat-a"},
	} {
		p := start(t, "p2pagent", os.Environ(), nil, append([]string{"lab", "exec"}, tc.args...)...)
		if code := p.wait(t); code != tc.code || !strings.Contains(p.stdout.String()+p.stderr.String(), tc.says) {
			t.Errorf("lab exec %q: exit code %d, want %d with %q\n%s%s", tc.args, code, tc.code, tc.says, p.stdout, p.stderr)
		}
	}
}

// An interrupt ends a lab that is being made or that runs, leaves nothing, and says so.
func TestLabInterrupted(t *testing.T) {
	needLab(t)
	for name, args := range map[string][]string{
		"up":     {"lab", "up", "--a", "port-restricted", "--b", "port-restricted", "--name", fmt.Sprintf("e2e-cut-%d", os.Getpid())},
		"run":    {"lab", "run", "--a", "port-restricted", "--b", "port-restricted", "--runs", "100"},
		"matrix": {"lab", "matrix"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "p2pagent", os.Environ(), nil, args...)
			for end := time.Now().Add(patience); len(children(children(p.cmd.Process.Pid)...)) == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s starts nothing in the lab", p.name)
				}
			}
			time.Sleep(300 * time.Millisecond) // somewhere in the middle, wherever that is
			if code := p.interrupt(t); code != 130 || lastLine(p.stderr.String()) != "p2pagent: interrupted" {
				t.Errorf("exit code %d\n%s", code, p.stderr)
			}
			if name == "up" {
				down := start(t, "p2pagent", os.Environ(), nil, "lab", "down", "--name", args[len(args)-1])
				if code := down.wait(t); code != 1 || !strings.Contains(down.stderr.String(), "no lab") {
					t.Errorf("afterwards: exit code %d\n%s", code, down.stderr)
				}
			}
		})
	}
}
