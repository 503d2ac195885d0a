package cli

import (
	"path/filepath"
	"testing"
)

func TestStateDir(t *testing.T) {
	root := t.TempDir()
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"nothing is set", nil, ""},
		{"home", map[string]string{"HOME": root}, filepath.Join(root, ".local", "state", "p2pagent")},
		{"its own", map[string]string{"HOME": root, "XDG_STATE_HOME": filepath.Join(root, "state")}, filepath.Join(root, "state", "p2pagent")},
		{"relative ones", map[string]string{"HOME": "home", "XDG_STATE_HOME": "state"}, ""},
		{"a relative one of its own", map[string]string{"HOME": root, "XDG_STATE_HOME": "state"}, filepath.Join(root, ".local", "state", "p2pagent")},
	} {
		if got := StateDir(func(name string) string { return tt.env[name] }); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
