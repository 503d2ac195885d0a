package p2pagent_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/p2pagent/p2pagent"

// layer puts each package on its floor. Imports only go down, never sideways;
// what a package may know of the others is what its comment says here.
var layer = map[string]int{
	"cmd/p2pagent":      8, // wiring: subcommands, flags, exit codes, the terminal
	"cmd/signal":        8, // wiring: flags, listeners, shutdown order
	"test/bench":        8, // runs the binaries too, and compares them with others
	"internal/agent":    7, // the only place where the parts meet
	"internal/lab":      7, // runs the binaries; of ours it knows the prober and the trace
	"internal/forward":  6, // knows "open or accept a stream", not QUIC
	"internal/measure":  6, // likewise; which path is measured is for who calls it to arrange
	"internal/session":  5, // knows net.PacketConn, not ICE, not TURN
	"punch":             4, // knows candidates, not what becomes of the path
	"internal/path":     4, // knows carriers, not how they came to be
	"candidates":        3,
	"signaling":         3,
	"relay":             3,
	"internal/udpsock":  2,
	"internal/stunmsg":  1,
	"internal/trace":    0, // knows nobody, so that everybody may record
	"internal/trouble":  0, // errors that pass, for whoever accepts or watches
	"internal/cli":      0, // what both programs do alike at their start, and say of a port they cannot open
	"internal/units":    0, // times and sizes for people, the same everywhere
	"internal/page":     0, // how the pages look that commands write
	"internal/identity": 0, // keys and sealing stand alone, for whoever reviews them
}

// only narrows a package to less than its layer would allow.
var only = map[string][]string{
	"internal/lab": {"candidates", "internal/page", "internal/trace", "internal/trouble", "internal/udpsock", "internal/stunmsg"}, // it judges the agents from outside
	"test/e2e":     {"internal/lab", "internal/trace"},                                                                            // likewise
	// It reads what the agents print, and builds TURN requests; what it measures are processes.
	"test/bench": {"internal/measure", "internal/trace", "internal/stunmsg"},
}

// owner names the one package that may import a library, so that replacing it
// is a change of one package. stun's types appear elsewhere only where pion's
// own interfaces ask for them.
//
// test/bench is an exception for two of them. There quic-go and pion/turn are not
// parts of ours but what ours is measured against, as anybody would use them: behind
// internal/session and relay they would be something else.
var owner = map[string][]string{
	"github.com/pion/ice/v3":         {"punch"},
	"github.com/pion/turn/v3":        {"relay", "test/bench"},
	"github.com/pion/stun/v2":        {"internal/stunmsg", "relay", "punch"},
	"github.com/gorilla/websocket":   {"signaling"},
	"github.com/pires/go-proxyproto": {"signaling"},
	"github.com/quic-go/quic-go":     {"internal/session", "test/bench"},
	"github.com/flynn/noise":         {"internal/identity"},
	"github.com/spf13/cobra":         {"cmd/p2pagent", "cmd/signal"},
}

type listed struct {
	ImportPath  string
	Imports     []string
	TestImports []string
}

func packages(t *testing.T) (out []listed) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports", "./...")
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

func TestLayers(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if name == module {
			continue
		}
		if name == "test/e2e" { // nothing but tests
			for _, imp := range p.TestImports {
				if dep, ours := strings.CutPrefix(imp, module+"/"); ours && !slices.Contains(only[name], dep) {
					t.Errorf("%s imports %s, and may know only %v", name, dep, only[name])
				}
			}
			continue
		}
		floor, ok := layer[name]
		if !ok {
			t.Errorf("%s stands on no layer: give it one, with a reason", name)
			continue
		}
		for _, imp := range p.Imports {
			dep, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if layer[dep] >= floor {
				t.Errorf("%s (layer %d) imports %s (layer %d): imports only go down", name, floor, dep, layer[dep])
			}
			if list, narrow := only[name]; narrow && !slices.Contains(list, dep) {
				t.Errorf("%s imports %s, and may know only %v", name, dep, list)
			}
		}
	}
}

func TestOneLibraryOneOwner(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			for lib, owners := range owner {
				if (imp == lib || strings.HasPrefix(imp, lib+"/")) && !slices.Contains(owners, name) {
					t.Errorf("%s imports %s, which belongs to %v", name, imp, owners)
				}
			}
		}
	}
}

// One file of punch holds the ICE library, so that its peculiarities do too.
func TestICEInOneFile(t *testing.T) {
	b, err := exec.CommandContext(t.Context(), "grep", "-l", `"github.com/pion/ice/v3"`, "-r", "punch", "--include=*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range strings.Fields(string(b)) {
		if !strings.HasSuffix(f, "_test.go") {
			files = append(files, f)
		}
	}
	if !slices.Equal(files, []string{"punch/ice.go"}) {
		t.Errorf("pion/ice is imported by %v, want punch/ice.go alone", files)
	}
}
