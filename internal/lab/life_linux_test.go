package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// labProcess prepares the test binary as the lab's command, with a registry of its own.
func labProcess(t *testing.T, runtimeDir string, args ...string) *exec.Cmd {
	t.Helper()
	needSandbox(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{"lab"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+runtimeDir)
	return cmd
}

// startStay starts a lab with programs in it, and returns it with a pipe that all of
// them hold open.
func startStay(t *testing.T, runtimeDir string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd := labProcess(t, runtimeDir, "stay", fakePrograms(t))
	cmd.Stdout, cmd.Stderr = theirs, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("lab said %q, %v", line, err)
	}
	return cmd, lines
}

func labFolders(t *testing.T, runtimeDir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(runtimeDir, "p2pagent-lab"))
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

func TestInterruptCleansUp(t *testing.T) {
	dir := t.TempDir()
	cmd, held := startStay(t, dir)
	cmd.Process.Signal(syscall.SIGINT)
	if _, err := io.Copy(io.Discard, held); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted lab ended with %v", err)
	}
	if left := labFolders(t, dir); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// A killed command cannot clean up. The kernel ends its processes and namespaces at
// once, and the next lab removes its folder.
func TestKillLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	cmd, held := startStay(t, dir)
	cmd.Process.Kill()
	cmd.Wait()
	// The end of the pipe is the end of the last process that had it.
	if _, err := io.Copy(io.Discard, held); err != nil {
		t.Error(err)
	}
	if left := labFolders(t, dir); len(left) != 1 {
		t.Fatalf("folders of a killed lab: %v, want its own", left)
	}
	next, held := startStay(t, dir)
	if left := labFolders(t, dir); len(left) != 1 {
		t.Errorf("folders after the next start: %v, want its own alone", left)
	}
	next.Process.Signal(syscall.SIGTERM)
	io.Copy(io.Discard, held)
	next.Wait()
}

func TestUpExecDown(t *testing.T) {
	dir, bin := t.TempDir(), fakePrograms(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	for _, name := range []string{DefaultName, "second"} {
		up := labProcess(t, dir, "up", name, bin)
		var errs bytes.Buffer
		up.Stderr = &errs
		if out, err := up.Output(); err != nil || string(out) != "ws://192.0.2.2:8080#token\n" {
			t.Fatalf("up %s: %q, %v: %s", name, out, err, &errs)
		}
		t.Cleanup(func() {
			if err := Down(context.Background(), name); err != nil && !strings.Contains(err.Error(), "no lab") {
				t.Error(err)
			}
		})
	}

	again := labProcess(t, dir, "up", DefaultName, bin)
	if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "is up already") {
		t.Errorf("second lab of the same name: %v: %s", err, out)
	}

	cmd, err := ExecCommand("second", PeerB, []string{"sh", "-c", `echo $P2PAGENT_SIGNAL; basename $HOME; pwd; command -v p2pagent; ip -4 -o addr show dev eth0; exit 42`})
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Errorf("exec: %v, want exit code 42", err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ws://192.0.2.2:8080#token\n", PeerB + "\n", wd + "\n", filepath.Join(bin, "p2pagent") + "\n", "203.0.113.130"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("exec printed %q, without %q", out, want)
		}
	}
	if _, err := ExecCommand("second", "nat-c", []string{"true"}); err == nil || !strings.Contains(err.Error(), "it has core, nat-a") {
		t.Errorf("unknown node: %v", err)
	}

	// A child that a command leaves behind is not left in the process table.
	leave, err := ExecCommand("second", Core, []string{"sh", "-c", `sh -c 'sleep 0.05; echo $$' &`})
	if err != nil {
		t.Fatal(err)
	}
	left, err := leave.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(left)) {
		gone, err := ExecCommand("second", Core, []string{"timeout", "10", "sh", "-c", "while test -e /proc/" + pid + "; do sleep 0.01; done"})
		if err != nil {
			t.Fatal(err)
		}
		if err := gone.Run(); err != nil {
			t.Errorf("process %s: %v", pid, err)
		}
	}

	// What runs in a node ends with the lab, and the other lab stays.
	inside, err := ExecCommand("second", Core, []string{"sh", "-c", "echo ready; exec sleep 1000"})
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := inside.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pipe, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, pipe)
	inside.Wait()
	if _, err := ExecCommand("second", Core, []string{"true"}); err == nil || !strings.Contains(err.Error(), `no lab "second"`) {
		t.Errorf("exec after down: %v", err)
	}
	if folders := labFolders(t, dir); len(folders) != 1 || folders[0] != DefaultName {
		t.Errorf("folders after down: %v", folders)
	}
	if _, err := ExecCommand(DefaultName, Core, []string{"true"}); err != nil {
		t.Errorf("the other lab: %v", err)
	}
}

// A supervisor that cannot start says why through the command that waits for it.
func TestUpTellsWhyNot(t *testing.T) {
	out, err := labProcess(t, t.TempDir(), "up", "lab", t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no program signal") {
		t.Errorf("up without programs: %v: %s", err, out)
	}
}

// Somebody with no rights at all makes a lab and proves its NATs.
func TestWithoutRoot(t *testing.T) {
	needSandbox(t)
	dir := t.TempDir()
	const nobody = 65534
	cmd := labProcess(t, dir, "prove", "address-restricted")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Dir = "/"
	open := filepath.Dir(dir) // t.TempDir is for its owner alone
	if err := errors.Join(os.Chmod(open, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Skipf("cannot become another user here: %v", err)
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skipf("cannot become another user here: %v", err)
	}
	if strings.Contains(string(out), "make namespaces for the lab") {
		t.Skipf("this system does not let users make namespaces: %s", out)
	}
	if err != nil || string(out) != "proved\n" {
		t.Errorf("%v: %s", err, out)
	}
}
