package cli

import (
	"context"
	"errors"
	"os"
	"testing"
)

// failing is an Output on a pipe whose reader is gone, or on a disk that is full.
func failing(t *testing.T, full, data bool) (*Output, context.Context) {
	t.Helper()
	ctx, end := context.WithCancelCause(t.Context())
	t.Cleanup(func() { end(nil) })
	o := &Output{end: end, data: data}
	if full {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err) // there is one on Linux
		}
		o.file = f
	} else {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		o.file = w
	}
	t.Cleanup(func() { o.file.Close() })
	return o, ctx
}

func TestOutputThatFails(t *testing.T) {
	OutliveBrokenPipes()
	for name, tc := range map[string]struct {
		full, data bool
		check      func(cause error) bool
	}{
		"data, nobody reads":  {false, true, func(c error) bool { return errors.Is(c, ErrInterrupted) && errors.Is(c, context.Canceled) }},
		"lines, nobody reads": {false, false, func(c error) bool { return errors.Is(c, ErrInterrupted) }},
		"data, no space":      {true, true, func(c error) bool { return errors.As(c, new(*OutputError)) }},
		"lines, no space":     {true, false, func(c error) bool { return c == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			o, ctx := failing(t, tc.full, tc.data)
			if _, err := o.Write([]byte("a line\n")); err == nil {
				t.Fatal("written")
			}
			if cause := context.Cause(ctx); !tc.check(cause) {
				t.Errorf("the program's end: %v", cause)
			}
		})
	}
}

// What is closed by ourselves is the end of one direction.
func TestClosedOutput(t *testing.T) {
	o, ctx := failing(t, false, true)
	o.Close()
	if _, err := o.Write([]byte("late")); !errors.Is(err, os.ErrClosed) || ctx.Err() != nil {
		t.Errorf("write: %v, end: %v", err, context.Cause(ctx))
	}
}
