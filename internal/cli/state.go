package cli

import "path/filepath"

// StateDir is the directory of what must survive a restart (XDG base directories),
// empty where the environment names none. A relative one would be another one for each
// working directory.
func StateDir(getenv func(string) string) string {
	if d := getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "p2pagent")
	}
	for _, home := range []string{"HOME", "USERPROFILE"} { // the second one is of Windows
		if d := getenv(home); filepath.IsAbs(d) {
			return filepath.Join(d, ".local", "state", "p2pagent")
		}
	}
	return ""
}
