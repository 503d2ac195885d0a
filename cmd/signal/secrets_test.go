package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A secret that a killed process has left beside its file goes, one that is being
// written stays.
func TestSweptSecrets(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, age := range map[string]time.Duration{".secret-12": time.Hour, ".secret-34": 0, ".secret-x": time.Hour} {
		if err := os.WriteFile(path(name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(path(name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	if _, made, err := secretLines(path("secret")); err != nil || !made {
		t.Fatal(made, err)
	}
	for name, want := range map[string]bool{".secret-12": false, ".secret-34": true, ".secret-x": true, "secret": true} {
		if _, err := os.Stat(path(name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
