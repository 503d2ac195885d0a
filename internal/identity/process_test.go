package identity

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Tests with several processes run this test binary again as a helper. A helper
// says "ready", waits for its standard input to close, which starts them all at
// the same moment, and then prints what it found.

func helper(what string) int {
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	path := os.Getenv("IDENTITY_TEST_PATH")
	var err error
	switch what {
	case "key":
		var k *Key
		if k, err = LoadOrCreateKey(path); err == nil {
			var fp []byte
			fp, err = k.Fingerprint().MarshalText()
			fmt.Printf("%s\n", fp)
		}
	case "store":
		err = helperStore(path, os.Getenv("IDENTITY_TEST_NAME"))
	default:
		err = fmt.Errorf("no helper %q", what)
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

const helperPeers = 12

func helperStore(path, name string) error {
	s, err := OpenStore(path)
	if err != nil {
		return err
	}
	for i := range helperPeers {
		// The same name from every process, so they fight over suffixes too.
		p := Peer{Name: fmt.Sprintf("peer%d", i), Fingerprint: fingerprintOf(fmt.Append(nil, name, i)), Secret: Secret{1}}
		if _, err := s.Put(p); err != nil {
			return err
		}
	}
	return nil
}

// together runs n helpers at the same moment and returns what each printed.
func together(t *testing.T, what, path string, n int) []string {
	t.Helper()
	type child struct {
		cmd *exec.Cmd
		in  io.Closer
		out *bufio.Reader
	}
	var children []child
	for i := range n {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "IDENTITY_TEST_HELPER="+what, "IDENTITY_TEST_PATH="+path, fmt.Sprintf("IDENTITY_TEST_NAME=p%d", i))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c := child{cmd, in, bufio.NewReader(out)}
		if line, err := c.out.ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("helper %d: %q, %v", i, line, err)
		}
		children = append(children, c)
	}
	for _, c := range children {
		_ = c.in.Close()
	}
	var said []string
	for i, c := range children {
		b, err := io.ReadAll(c.out)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.cmd.Wait(); err != nil {
			t.Fatalf("helper %d: %v: %s", i, err, b)
		}
		said = append(said, strings.TrimSpace(string(b)))
	}
	return said
}

func TestKeyOfSeveralProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "key.pem")
	said := together(t, "key", path, 6)
	k, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := k.Fingerprint().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range said {
		if s != string(want) {
			t.Errorf("process %d has key %s, the file %s", i, s, want)
		}
	}
}

func TestStoreOfSeveralProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "peers.json")
	const processes = 5
	together(t, "store", path, processes)
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	peers, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(peers) != processes*helperPeers {
		t.Errorf("%d peers, want %d: a change was lost", len(peers), processes*helperPeers)
	}
	for i := range helperPeers {
		for _, suffix := range []string{"", "-2", "-3", "-4", "-5"} {
			if _, err := s.Get(fmt.Sprintf("peer%d%s", i, suffix)); err != nil {
				t.Error(err)
			}
		}
	}
}
