package trace

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
)

// fileQueue is how many records may wait for a slow disk before further ones
// are dropped and counted.
const fileQueue = 4096

// maxLine bounds one line of a trace that is read back.
const maxLine = 1 << 20

// A File is a Sink that writes JSON Lines from a goroutine of its own, so that
// a full disk or an unread FIFO never stalls the link it observes.
type File struct {
	queue   chan Record
	done    chan struct{}
	once    sync.Once
	dropped atomic.Int64
	err     error // owned by the writer until done is closed
}

// NewFile starts writing to w. Close flushes and closes w.
func NewFile(w io.WriteCloser) *File {
	f := &File{queue: make(chan Record, fileQueue), done: make(chan struct{})}
	go f.run(w)
	return f
}

// Record queues r, or counts it as dropped when the queue is full.
func (f *File) Record(r Record) {
	select {
	case f.queue <- r:
	default:
		f.dropped.Add(1)
	}
}

// Close writes what is queued and reports the first error, a failed write as
// well as records that had to be dropped. No Record may follow it.
func (f *File) Close() error {
	f.once.Do(func() { close(f.queue) })
	<-f.done
	if n := f.dropped.Load(); n > 0 && f.err == nil {
		return fmt.Errorf("trace: %d events dropped, the file could not keep up", n)
	}
	return f.err
}

func (f *File) run(w io.WriteCloser) {
	defer close(f.done)
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	keep := func(err error) {
		if err != nil && f.err == nil {
			f.err = fmt.Errorf("trace: %w", err)
		}
	}
	for r := range f.queue {
		keep(enc.Encode(r))
		if len(f.queue) == 0 {
			keep(buf.Flush())
		}
	}
	keep(buf.Flush())
	keep(w.Close())
}

// Read yields the records of a trace, and an error with its line number for
// each line that is none.
func Read(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxLine)
		for n := 1; lines.Scan(); n++ {
			var rec Record
			err := json.Unmarshal(lines.Bytes(), &rec)
			if err != nil {
				err = fmt.Errorf("trace line %d: %w", n, err)
			}
			if !yield(rec, err) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Record{}, fmt.Errorf("read trace: %w", err))
		}
	}
}
