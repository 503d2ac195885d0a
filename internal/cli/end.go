package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// ErrInterrupted is the cause of a program's end by a signal, or because nobody
// reads any more what it prints. It is a context.Canceled to whoever asks.
var ErrInterrupted error = interrupted{}

type interrupted struct{}

func (interrupted) Error() string        { return "interrupted" }
func (interrupted) Is(target error) bool { return target == context.Canceled }

// Interrupts are the signals that ask a program to take leave: SIGINT, SIGTERM, and
// SIGHUP, which a terminal sends when it is closed. A SIGHUP that is ignored when
// the program starts stays so: that is what nohup is for.
func Interrupts() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	return list
}

// Interruptible returns a context that ends with [ErrInterrupted] at the first
// interrupt, or with the cause that its second result is called with. The next
// interrupt ends the process, as it does where nobody waits for it.
func Interruptible(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, end := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, Interrupts()...)
	go func() {
		select {
		case <-signals:
			end(ErrInterrupted)
		case <-ctx.Done():
		}
		signal.Stop(signals)
	}()
	return ctx, end
}

// OutliveBrokenPipes has a write to a standard output that nobody reads return an
// error. Without it the system ends the process there, and no leave is taken. What
// this process starts is not touched: a signal that is waited for, unlike one that is
// ignored, is not handed on.
func OutliveBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// An Output is standard output or standard error of a program that cannot go on
// without: when the reader has closed its end the program ends with [ErrInterrupted],
// so that it takes leave as it does at SIGTERM. See [OutliveBrokenPipes].
type Output struct {
	file *os.File
	end  context.CancelCauseFunc
	data bool
	once sync.Once
}

// Stdout is standard output, which carries data: end is also called, with an
// *[OutputError], where some of it cannot be written.
func Stdout(end context.CancelCauseFunc) *Output {
	return &Output{file: os.Stdout, end: end, data: true}
}

// Stderr is standard error. A full disk below it costs lines, and not the link that
// they are about.
func Stderr(end context.CancelCauseFunc) *Output { return &Output{file: os.Stderr, end: end} }

// An OutputError says that a program's data could not be written: a full disk behind
// a redirection, say.
type OutputError struct{ Err error } // names the file

func (e *OutputError) Error() string { return fmt.Sprintf("print: %v", e.Err) }
func (e *OutputError) Unwrap() error { return e.Err }

func (o *Output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	switch {
	case err == nil, errors.Is(err, os.ErrClosed): // by us, when a direction has ended
	case errors.Is(err, syscall.EPIPE):
		o.once.Do(func() { o.end(ErrInterrupted) })
	case o.data:
		o.once.Do(func() { o.end(&OutputError{err}) })
	}
	return n, err
}

// Close closes the file.
func (o *Output) Close() error { return o.file.Close() }

// Fd is the descriptor of the file, for who asks whether it is a terminal.
func (o *Output) Fd() uintptr { return o.file.Fd() }
