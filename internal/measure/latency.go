package measure

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
)

const (
	pingSize   = 16
	pingEvery  = 20 * time.Millisecond // under load
	idlePings  = 40
	idleEvery  = 5 * time.Millisecond
	pingWithin = 10 * time.Second
)

// echo answers pings until their end.
func echo(st Stream) {
	var b [pingSize]byte
	for {
		if _, err := io.ReadFull(st, b[:]); err != nil {
			if err == io.EOF {
				st.CloseWrite()
				return
			}
			st.Reset(session.CodeReset)
			return
		}
		if _, err := st.Write(b[:]); err != nil {
			st.Reset(session.CodeReset)
			return
		}
	}
}

// ping sends one ping after the other, each when the last has come back and
// every is over, until ctx ends or there were most; it returns the round trips
// in milliseconds.
func ping(ctx context.Context, st Stream, most int, every time.Duration) (ms []float64, err error) {
	var out, in [pingSize]byte
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; most == 0 || n < most; n++ {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ms, nil
		}
		start := time.Now()
		timer.Reset(every)
		rand.Read(out[:]) // nobody can answer what has not been asked
		st.SetDeadline(start.Add(pingWithin))
		if _, err := st.Write(out[:]); err != nil {
			return ms, err
		}
		for { // an answer to an earlier ping that was given up does not count
			if _, err := io.ReadFull(st, in[:]); err != nil {
				return ms, err
			}
			if in == out {
				break
			}
		}
		ms = append(ms, time.Since(start).Seconds()*1000)
	}
	return ms, nil
}
