package identity

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A run is over when its process has ended, and not before; and only for the key
// and the peer it was with.
func TestEndedRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "runs")
	self, peer, other := Fingerprint{1}, Fingerprint{2}, Fingerprint{3}
	record := func(self, peer Fingerprint) (*Run, RunID) {
		t.Helper()
		id := NewRunID()
		r, err := RecordRun(dir, id, self, peer)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r, id
	}
	ended := func(r *Run, want ...RunID) {
		t.Helper()
		got, err := r.Ended()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("ended are %v, want %v", got, want)
		}
	}
	first, firstID := record(self, peer)
	second, _ := record(self, peer)
	ended(second)
	ended(first)
	first.Close()
	ended(second, firstID)
	ended(second, firstID) // until the peer has been told

	elsewhere, _ := record(self, other)
	ended(elsewhere)
	another, _ := record(other, peer)
	ended(another)

	if err := second.Told([]RunID{firstID, NewRunID()}); err != nil {
		t.Error(err)
	}
	ended(second)
}

// Runs that nobody can be told of do not pile up, and the last ones are told first.
func TestEndedRunsAreBounded(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	var all []RunID
	for i := range MaxEndedRuns + 3 {
		id := NewRunID()
		r, err := RecordRun(dir, id, Fingerprint{1}, Fingerprint{2})
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		when := now.Add(time.Duration(i-60) * time.Minute)
		if err := os.Chtimes(r.path(id), when, when); err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	slices.Reverse(all)
	r, err := RecordRun(dir, NewRunID(), Fingerprint{1}, Fingerprint{2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := r.Ended()
	if err != nil || !slices.Equal(got, all[:MaxEndedRuns]) {
		t.Errorf("ended are %v, %v; want %v", got, err, all[:MaxEndedRuns])
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != MaxEndedRuns+1 {
		t.Errorf("%d files, %v; want those and our own", len(entries), err)
	}
}

// Where nothing can be written there is no mark, and an error that says so.
func TestRecordRunFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RecordRun(filepath.Join(file, "runs"), NewRunID(), Fingerprint{1}, Fingerprint{2}); err == nil {
		t.Error("a mark in a directory that cannot be")
	}
}
