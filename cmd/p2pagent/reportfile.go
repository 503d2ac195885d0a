package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A reportFile is where --report writes. A report takes the place of an older one as a
// whole or not at all: it is written beside it first.
type reportFile struct {
	name string   // as the user has it
	f    *os.File // a file beside it, or, where that is no regular file, itself
	goal string   // what f is renamed to; empty: nothing
}

// openReport tells early whether there can be a report.
func openReport(name string) (*reportFile, error) {
	fail := func(err error) (*reportFile, error) { return nil, fmt.Errorf("--report: %w", err) }
	goal, err := filepath.EvalSymlinks(name)
	if errors.Is(err, fs.ErrNotExist) {
		goal, err = name, nil
	}
	if err != nil {
		return fail(err)
	}
	if info, err := os.Stat(goal); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(goal, os.O_WRONLY, 0) // a device or a pipe; fails for a directory
		if err != nil {
			return fail(err)
		}
		return &reportFile{name: name, f: f}, nil
	}
	beside := filepath.Join(filepath.Dir(goal), fmt.Sprintf(".%s.%d", filepath.Base(goal), os.Getpid()))
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fail(err)
	}
	return &reportFile{name: name, f: f, goal: goal}, nil
}

// write puts the report in its place.
func (r *reportFile) write(page func(io.Writer) error) error {
	err := errors.Join(page(r.f), r.f.Close())
	if r.goal == "" {
		return r.explain(err)
	}
	if err == nil {
		err = os.Rename(r.f.Name(), r.goal)
	}
	if err != nil {
		os.Remove(r.f.Name())
	}
	return r.explain(err)
}

func (r *reportFile) explain(err error) error {
	if err != nil {
		return fmt.Errorf("--report %s: %w", r.name, err)
	}
	return nil
}

// discard leaves what was there before. After write it does nothing.
func (r *reportFile) discard() {
	if r.f.Close() == nil && r.goal != "" {
		os.Remove(r.f.Name())
	}
}
