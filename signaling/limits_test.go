package signaling

import (
	"net/netip"
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b bucket
	for i := range 10 {
		if wait := b.take(now, 1, 2, 10); wait != 0 {
			t.Fatalf("take %d of a full bucket: wait %v", i, wait)
		}
	}
	if wait := b.take(now, 1, 2, 10); wait != 500*time.Millisecond {
		t.Fatalf("empty bucket: wait %v, want 500ms", wait)
	}
	now = now.Add(500 * time.Millisecond)
	if wait := b.take(now, 1, 2, 10); wait != 0 {
		t.Fatalf("after the wait it asked for: wait %v more", wait)
	}
	if wait := b.take(now.Add(-time.Hour), 1, 2, 10); wait <= 0 {
		t.Fatal("a clock that goes back fills the bucket")
	}
	now = now.Add(time.Hour)
	if wait := b.take(now, 99, 2, 10); wait != 0 {
		t.Fatalf("more than the burst from a full bucket: wait %v; it could never be sent", wait)
	}
	if wait := b.take(now, 1, 2, 10); wait <= 0 {
		t.Fatal("a bucket holds more than its burst")
	}
}

func TestMeterTakesBothOrNone(t *testing.T) {
	now := time.Unix(1e9, 0)
	var m meter
	if wait := m.take(now, 200, 10, 100, 1); wait != 0 {
		t.Fatal("first frame has to wait")
	}
	for range 1000 { // refused for the bytes: no message is counted
		if m.take(now, 100, 10, 100, 1) == 0 {
			t.Fatal("bytes over the burst pass")
		}
	}
	if wait := m.take(now.Add(time.Second), 100, 10, 100, 1); wait != 0 {
		t.Fatalf("refused frames have been counted: wait %v", wait)
	}
}

func TestPerAddress(t *testing.T) {
	now := time.Unix(1e9, 0)
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	p := newPerAddress(Rate{PerMinute: 60, Burst: 30})
	for i := range 30 { // a classroom behind one address
		if p.take(now, a) != 0 {
			t.Fatalf("try %d is refused", i)
		}
	}
	if wait := p.take(now, a); wait != time.Second {
		t.Errorf("31st try: wait %v, want 1s", wait)
	}
	if p.take(now, b) != 0 {
		t.Error("another address is refused as well")
	}

	p.most = 2
	if p.take(now, c); len(p.buckets) != 3 || p.buckets[netip.Addr{}] == nil {
		t.Errorf("a third address in a table of two: %v, want the shared bucket", p.buckets)
	}
	if p.take(now.Add(time.Hour), c); len(p.buckets) != 1 {
		t.Errorf("after an hour %d addresses are remembered, want only the last", len(p.buckets))
	}
}

func TestSourceOf(t *testing.T) {
	tests := map[string]string{
		"192.0.2.1":              "192.0.2.1",
		"::ffff:192.0.2.1":       "192.0.2.1",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::",
		"2001:db8:1:2:ffff::1":   "2001:db8:1:2::",
		"fe80::1%eth0":           "fe80::",
		"2001:db8:1:3:ffff::abc": "2001:db8:1:3::",
	}
	for in, want := range tests {
		if got := sourceOf(netip.MustParseAddr(in)); got != netip.MustParseAddr(want) {
			t.Errorf("sourceOf(%s) = %s, want %s", in, got, want)
		}
	}
	if got := sourceOf(netip.Addr{}); got.IsValid() {
		t.Errorf("no address became %s", got)
	}
}

func TestAlarm(t *testing.T) {
	now := time.Unix(1e9, 0)
	a := alarm{threshold: 3}
	for i, want := range []bool{false, false, true, false} {
		if got := a.add(now); got != want {
			t.Errorf("failure %d raises the alarm: %v", i+1, got)
		}
	}
	if !a.ringing(now.Add(59 * time.Second)) {
		t.Error("alarm ends within its minute")
	}
	if a.ringing(now.Add(time.Minute)) {
		t.Error("alarm outlasts its minute")
	}
}

func TestBackoff(t *testing.T) {
	const least, most = 200 * time.Millisecond, 10 * time.Second
	tests := []struct {
		failures int
		random   float64
		want     time.Duration
	}{
		{0, 0, least},
		{0, 1, 400 * time.Millisecond},
		{1, 1, 800 * time.Millisecond},
		{1, 0.5, 500 * time.Millisecond},
		{4, 1, 6400 * time.Millisecond},
		{5, 1, most},
		{1000, 1, most},
		{1000, 0, least},
	}
	for _, tt := range tests {
		if got := backoff(tt.failures, least, most, tt.random); got != tt.want {
			t.Errorf("backoff(%d, random %v) = %v, want %v", tt.failures, tt.random, got, tt.want)
		}
	}
	if got := backoff(3, time.Second, time.Millisecond, 1); got != time.Second {
		t.Errorf("most below least: %v", got)
	}
}
