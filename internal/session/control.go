package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// MaxFrame is the largest control frame, in bytes.
const MaxFrame = 64 << 10

// hello is the first frame of each side.
var hello = []byte(`{"hello":1}`)

// Control is the control stream.
type Control struct {
	s *Stream

	write sync.Mutex // one frame at a time
}

// Send writes one frame of 1 to [MaxFrame] bytes. It is safe for concurrent
// use. It waits while the peer does not read or no path works, for as long as
// the session lives: a frame that was cut off by a deadline would make the rest
// of the stream unreadable.
func (c *Control) Send(frame []byte) error {
	if len(frame) == 0 || len(frame) > MaxFrame {
		return fmt.Errorf("control frame of %d bytes, 1 to %d allowed", len(frame), MaxFrame)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
	c.write.Lock()
	defer c.write.Unlock()
	if _, err := c.s.Write(append(b, frame...)); err != nil {
		return fmt.Errorf("control stream: %w", err)
	}
	return nil
}

// Receive reads one frame. One goroutine may call it at a time; it ends with
// the session.
func (c *Control) Receive() ([]byte, error) {
	b, err := readFrame(c.s)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("control stream: %w", err)
	}
	return b, err
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > MaxFrame {
		return nil, fmt.Errorf("%w: frame of %d bytes, 1 to %d allowed", errMalformed, n, MaxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return b, nil
}

// greet exchanges hellos, within ctx.
func (c *Control) greet(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.s.qs.SetReadDeadline(time.Now()) })
	defer stop()
	if err := c.Send(hello); err != nil {
		return err
	}
	got, err := c.Receive()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("wait for the peer's hello: %w", err)
	}
	if string(got) != string(hello) {
		return fmt.Errorf("%w: hello %.40q", errMalformed, got)
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return c.s.qs.SetReadDeadline(time.Time{})
}
