package lab

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	needSandbox(t)
	for _, tt := range []struct {
		name     string
		topology Topology
		want     Path
	}{
		{"direct", Topology{A: kind(t, "port-restricted"), B: kind(t, "none")}, Direct},
		{"direct on the LAN", Topology{A: kind(t, "none"), SameNAT: true}, Direct},
		{"relayed", Topology{A: kind(t, "port-restricted"), B: kind(t, "symmetric")}, Relayed},
		{"relayed, UDP blocked", Topology{A: kind(t, "udp-blocked"), B: kind(t, "full-cone")}, Relayed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			traces, pcaps := t.TempDir(), t.TempDir()
			var got []Result
			err := sandbox.Run(t.Context(), tt.topology, Config{Bin: fakePrograms(t), Trace: traces, Pcap: pcaps, Runs: 2},
				func(r Result) error { got = append(got, r); return nil })
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 {
				t.Fatalf("%d results, want 2", len(got))
			}
			for _, r := range got {
				if r.Path != tt.want || !r.Connected || r.FirstByteMS == nil || (r.DirectMS != nil) != (tt.want == Direct) {
					t.Errorf("result %v", r)
				}
				if r.Verdict.Text != "fake and "+string(tt.want) {
					t.Errorf("verdict %q", r.Verdict)
				}
			}
			for _, file := range []string{filepath.Join(traces, "peer-b.log"), filepath.Join(pcaps, "nat-a-wan.pcap")} {
				if _, err := os.Stat(file); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What an agent claims counts for nothing.
func TestRunReportsFailure(t *testing.T) {
	needSandbox(t)
	for _, tt := range []struct{ name, script, says string }{
		{"ends", "#!/bin/sh\necho 'no such peer' >&2; exit 4\n", "no such peer"},
		{"not there", "", "go build"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bin := fakePrograms(t)
			agent := filepath.Join(bin, agentBinary)
			if err := os.Remove(agent); err != nil {
				t.Fatal(err)
			}
			if tt.script != "" {
				if err := os.WriteFile(agent, []byte(tt.script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			err := sandbox.Run(t.Context(), Topology{A: kind(t, "none"), B: kind(t, "none")}, Config{Bin: bin}, func(Result) error { return nil })
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one that says %q", err, tt.says)
			}
		})
	}
}

// A connecting program that gives up is a result: no path, and its words.
func TestRunWithoutPath(t *testing.T) {
	needSandbox(t)
	bin := fakePrograms(t)
	agent := filepath.Join(bin, agentBinary)
	if err := os.Rename(agent, agent+"-real"); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/bash\nif [ \"$2\" = peer-b ]; then echo 'nothing gets through' >&2; exit 7; fi\nexec -a p2pagent " + agent + "-real \"$@\"\n"
	if err := os.WriteFile(agent, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var got []Result
	err := sandbox.Run(t.Context(), Topology{A: kind(t, "none"), B: kind(t, "none")}, Config{Bin: bin}, func(r Result) error { got = append(got, r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Connected || got[0].Path != NoPath || got[0].Exit != 7 || !strings.Contains(got[0].Verdict.Text, "nothing gets through") {
		t.Errorf("results %+v", got)
	}
	b, err := json.Marshal(got[0])
	const want = `{"a":"none","b":"none","connected":false,"path":"none","first_byte_ms":null,"direct_ms":null,"proof":null,"verdict":`
	if err != nil || !strings.HasPrefix(string(b), want) {
		t.Errorf("JSON %s %v, want %s", b, err, want)
	}
}

func TestMatrixStopsAtNothing(t *testing.T) {
	needSandbox(t)
	bad := kind(t, "symmetric")
	bad.Mapping = "endpoint-independent" // so the lab finds it to be another
	pairs := []Topology{{A: kind(t, "none"), B: kind(t, "none")}, {A: bad, B: kind(t, "none")}, {A: kind(t, "symmetric"), B: kind(t, "symmetric")}}
	m, err := sandbox.matrix(t.Context(), pairs, Config{Bin: fakePrograms(t)}, func(Cell) {})
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 3 || !m[0].OK() || m[1].OK() || !m[2].OK() {
		t.Fatalf("matrix %+v", m)
	}
	if m.Err() == nil || !strings.Contains(m.Err().Error(), "1 of 3") || !strings.Contains(m[1].Error, "is not symmetric") {
		t.Errorf("error %v", errors.Join(m.Err()))
	}
}
