package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/lab"
)

// completed is what the shell proposes for the last of args.
func completed(t *testing.T, args ...string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(do(t, "", append([]string{"__complete"}, args...)...)), "\n")
	return lines[:len(lines)-1] // the last one says what to do with files
}

func TestCompletion(t *testing.T) {
	at(t, shortDir(t))
	store, err := openStore()
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(identity.Peer{Name: "office", Fingerprint: key.Fingerprint(), Secret: [32]byte{1}, Added: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"connect", ""}, []string{"office"}},
		{[]string{"ping", "of"}, []string{"office"}},
		{[]string{"bench", ""}, []string{"office"}},
		{[]string{"pipe", ""}, []string{"office"}},
		{[]string{"pipe", "office", ""}, nil},
		{[]string{"peers", "forget", ""}, []string{"office"}},
		{[]string{"connect", "--require", ""}, []string{"direct"}},
		{[]string{"listen", "--color", "a"}, []string{"auto", "always"}},
		{[]string{"lab", "run", "--a", ""}, labKindNames()},
		{[]string{"lab", "up", "--b", "sym"}, []string{"symmetric"}},
		{[]string{"lab", "nat", "--type", "full"}, []string{"full-cone"}},
		{[]string{"lab", "exec", ""}, lab.Nodes()},
	} {
		got := completed(t, tc.args...)
		for _, want := range tc.want {
			if !slices.Contains(got, want) {
				t.Errorf("%q: %q, and not %q", tc.args, got, want)
			}
		}
		if tc.want == nil && len(got) > 0 {
			t.Errorf("%q: %q, want nothing", tc.args, got)
		}
	}
}

func TestVersion(t *testing.T) {
	at(t, shortDir(t))
	if a, b := do(t, "", "version"), do(t, "", "--version"); a != b || !strings.Contains(a, version()) {
		t.Errorf("version: %q, --version: %q", a, b)
	}
}
