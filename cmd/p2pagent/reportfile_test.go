package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReportFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "report.html")
	page := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			io.WriteString(w, text)
			return err
		}
	}
	holds := func(want string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if b, _ := os.ReadFile(name); string(b) != want || err != nil || want == "" && len(entries) > 0 || want != "" && len(entries) != 1 {
			t.Errorf("%q in %v (%v), want %q alone", b, entries, err, want)
		}
	}
	full := errors.New("no space left on device")
	for _, step := range []struct {
		text string
		err  error
		want string
	}{
		{"", io.EOF, ""}, // discarded before the first one
		{"cut", full, ""},
		{"the first", nil, "the first"},
		{"cu", full, "the first"},
		{"", io.EOF, "the first"},
		{"2nd", nil, "2nd"},
	} {
		r, err := openReport(name)
		if err != nil {
			t.Fatal(err)
		}
		if step.err != io.EOF {
			if err := r.write(page(step.text, step.err)); !errors.Is(err, step.err) {
				t.Errorf("write: %v, want %v", err, step.err)
			}
		}
		r.discard()
		holds(step.want)
	}
	for _, bad := range []string{dir, filepath.Join(name, "below-a-file"), filepath.Join(dir, "no", "such", "folder")} {
		if r, err := openReport(bad); err == nil {
			t.Errorf("%s can be written", bad)
			r.discard()
		}
	}
	if r, err := openReport(os.DevNull); err != nil {
		t.Error(err)
	} else if err := r.write(page("x", nil)); err != nil {
		t.Error(err)
	}
}
