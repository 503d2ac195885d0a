package path

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"testing/synctest"
)

// TestOutbox puts writes and looks at the batches that come of them.
func TestOutbox(t *testing.T) {
	type write struct{ size, seg int }
	type leaves struct{ size, seg int }
	for name, c := range map[string]struct {
		in  []write
		out []leaves
	}{
		"one":                     {[]write{{100, 100}}, []leaves{{100, 100}}},
		"equal ones join":         {[]write{{1200, 1200}, {1200, 1200}, {3600, 1200}}, []leaves{{6000, 1200}}},
		"a shorter one is last":   {[]write{{2400, 1200}, {700, 700}, {1200, 1200}}, []leaves{{3100, 1200}, {1200, 1200}}},
		"a short tail is last":    {[]write{{2500, 1200}, {1200, 1200}}, []leaves{{2500, 1200}, {1200, 1200}}},
		"a longer one is apart":   {[]write{{1200, 1200}, {1452, 1452}}, []leaves{{1200, 1200}, {1452, 1452}}},
		"two shorter ones apart":  {[]write{{1452, 1452}, {2400, 1200}}, []leaves{{1452, 1452}, {2400, 1200}}},
		"seg beyond the write":    {[]write{{900, 1200}, {900, 900}}, []leaves{{1800, 900}}},
		"at most one send":        {[]write{{45 * 1452, 1452}, {1452, 1452}}, []leaves{{45 * 1452, 1452}, {1452, 1452}}},
		"a write is cut":          {[]write{{40 * 1452, 1452}, {10*1452 + 7, 1452}}, []leaves{{45 * 1452, 1452}, {5*1452 + 7, 1452}}},
		"at most what is allowed": {[]write{{60 * 100, 100}, {10 * 100, 100}}, []leaves{{64 * 100, 100}, {6 * 100, 100}}},
	} {
		t.Run(name, func(t *testing.T) {
			var o outbox
			o.init()
			var want, got []byte
			for i, w := range c.in {
				b := bytes.Repeat([]byte{byte(i + 1)}, w.size)
				want = append(want, b...)
				if err := o.put(b, w.seg); err != nil {
					t.Fatal(err)
				}
			}
			o.end()
			for _, l := range c.out {
				b := o.take()
				if b == nil || len(b.b) != l.size || b.seg != l.seg {
					t.Fatalf("batch %+v, want %+v", b, l)
				}
				got = append(got, b.b...)
			}
			if o.take() != nil || !bytes.Equal(got, want) {
				t.Error("other bytes came out than went in")
			}
		})
	}
}

// TestOutboxWaits has a writer wait for room, and let go by the end.
func TestOutboxWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outbox
		o.init()
		whole := make([]byte, 45*1452)
		var wrote int
		var last error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for last == nil {
				if last = o.put(whole, 1452); last == nil {
					wrote++
				}
			}
		}()
		synctest.Wait()
		if wrote != outboxRoom {
			t.Errorf("%d batches wait, want %d", wrote, outboxRoom)
		}
		o.take()
		synctest.Wait()
		if wrote != outboxRoom+1 {
			t.Errorf("%d writes went on after one batch was taken", wrote-outboxRoom)
		}
		o.end()
		<-done
		if !errors.Is(last, net.ErrClosed) {
			t.Errorf("error %v", last)
		}
	})
}

// What is put while the outbox is paused waits, and comes when the pause ends or
// the outbox does.
func TestOutboxPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outbox
		o.init()
		taken := make(chan string, 10)
		go func() {
			for b := o.take(); b != nil; b = o.take() {
				taken <- string(b.b)
			}
			close(taken)
		}()
		put := func(s string) {
			if err := o.put([]byte(s), len(s)); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		o.pause(true)
		put("one")
		put("another")
		if len(taken) != 0 {
			t.Fatalf("%q was taken in the pause", <-taken)
		}
		o.pause(false)
		synctest.Wait()
		if len(taken) != 2 || <-taken != "one" || <-taken != "another" {
			t.Error("what waited did not come")
		}
		o.pause(true)
		put("the last")
		o.end()
		synctest.Wait()
		if got, ok := <-taken; got != "the last" {
			t.Errorf("at the end: %q, %v", got, ok)
		}
		if got, ok := <-taken; ok {
			t.Errorf("after the end: %q", got)
		}
	})
}
