package path

import (
	"slices"
	"testing"
	"time"
)

// probePath runs one round of probes through a path that carries mtu bytes.
func probePath(s *sizer, now time.Duration, probes []int, mtu int) {
	for _, n := range probes {
		if n <= mtu {
			s.answered(n)
		}
	}
	for _, n := range probes {
		if n > mtu {
			probePath(s, now, s.missed(now, n, 1452), mtu)
		}
	}
}

func TestSizerFindsSize(t *testing.T) {
	for mtu, want := range map[int]int{
		547: 0, 548: 548, 1199: 548, 1200: 1200, 1279: 1200, 1300: 1280, 1399: 1360,
		1448: 1444, 1451: 1444, 1452: 1452, 9000: 1452,
	} {
		s := &sizer{max: 1452}
		probePath(s, 0, s.raise(0, 1452, 0), mtu)
		if s.proven != want {
			t.Errorf("a path of %d bytes: proved %d, want %d", mtu, s.proven, want)
		}
	}
}

func TestSizerRetries(t *testing.T) {
	s := &sizer{max: 1452}
	s.answered(1200)
	var at []time.Duration
	for now := time.Duration(0); now < 200*time.Second; now += 10 * time.Millisecond {
		if probes := s.raise(now, 1452, 0); probes != nil {
			at = append(at, now)
			if !slices.Equal(probes, []int{1280, 1360, 1400, 1444, 1452}) {
				t.Fatalf("at %v: probes %v", now, probes)
			}
		}
	}
	want := []time.Duration{0, 100, 400, 1400, 11_400, 31_400, 71_400, 131_400, 191_400}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(at, want) {
		t.Errorf("attempts at %v, want %v", at, want)
	}
	s.answered(1452)
	if probes := s.raise(time.Hour, 1452, 0); probes != nil {
		t.Errorf("probes %v though all is proved", probes)
	}
}

func TestSizerClimbsFurtherWhenAsked(t *testing.T) {
	s := &sizer{max: 1452}
	if got := s.raise(0, sizeBase, 0); !slices.Equal(got, []int{548, 1200}) {
		t.Errorf("at first %v", got)
	}
	s.answered(1200)
	if got := s.raise(time.Millisecond, sizeBase, 0); got != nil {
		t.Errorf("up to what is proved: %v", got)
	}
	if got := s.raise(2*time.Millisecond, 1452, 0); !slices.Equal(got, []int{1280, 1360, 1400, 1444, 1452}) {
		t.Errorf("further: %v", got)
	}
	// Not again before an answer could be here.
	if s.raise(200*time.Millisecond, 1452, time.Second) == nil {
		t.Error("no second attempt")
	}
	if s.raise(1199*time.Millisecond, 1452, time.Second) != nil {
		t.Error("a third attempt before the answers to the second could be here")
	}
}

func TestSizerSweeps(t *testing.T) {
	s := &sizer{max: 1452}
	s.answered(1200)
	s.sweepLater(0)
	type try struct {
		at   time.Duration
		size int
	}
	var tries []try
	for now := time.Duration(0); now < 90*time.Second; now += time.Second {
		if n := s.sweep(now); n > 0 {
			tries = append(tries, try{now / time.Second, n})
			if n <= 1370 {
				s.answered(n)
			}
		}
	}
	want := []try{
		{5, 1452}, {7, 1444}, {9, 1400}, {11, 1360}, // and that is it: nothing is left to try
		{73, 1452}, {75, 1444}, {77, 1400},
	}
	if !slices.Equal(tries, want) {
		t.Errorf("tried %v, want %v", tries, want)
	}
	if s.proven != 1360 {
		t.Errorf("proved %d", s.proven)
	}
}

func TestSizerRefused(t *testing.T) {
	for _, tt := range []struct{ proven, refused, want int }{
		{1452, 1452, 1444}, {1452, 1430, 1400}, {1452, 1300, 1280}, {1200, 1452, 1200}, {1200, 1200, 548}, {1452, 600, 548}, {548, 500, 548}, {0, 1200, 0},
	} {
		s := &sizer{max: 1452, target: 1452, proven: tt.proven}
		s.refused(time.Minute, tt.refused)
		if s.proven != tt.want {
			t.Errorf("%d bytes refused when %d were proved: %d, want %d", tt.refused, tt.proven, s.proven, tt.want)
		}
		if tt.want < tt.proven && s.raise(time.Minute+9*time.Second, 1452, 0) != nil {
			t.Errorf("%d bytes refused: more is tried at once", tt.refused)
		}
	}
}

func TestSizerShrinks(t *testing.T) {
	s := &sizer{max: 1452, target: 1452}
	s.answered(1452)

	t.Run("not by two losses", func(t *testing.T) {
		if got := s.missed(0, 1452, 1452); !slices.Equal(got, sizes[:]) {
			t.Errorf("after a loss: probes %v", got)
		}
		s.answered(1280)
		s.missed(0, 1452, 1452)
		s.answered(1452)
		if s.proven != 1452 || s.misses != 0 {
			t.Errorf("proved %d, %d misses", s.proven, s.misses)
		}
	})
	t.Run("by three", func(t *testing.T) {
		probePath(s, time.Minute, []int{1452}, 1390)
		if s.proven != 1360 {
			t.Errorf("proved %d", s.proven)
		}
		if s.raise(time.Minute+9*time.Second, 1452, 0) != nil || s.raise(time.Minute+10*time.Second, 1452, 0) == nil {
			t.Error("the next attempt at more is not after 10 s")
		}
	})
	t.Run("losses of larger ones do not count", func(t *testing.T) {
		for range 5 {
			s.missed(0, 1452, 1452)
		}
		if s.proven != 1360 {
			t.Errorf("proved %d", s.proven)
		}
	})
	t.Run("to the floor when nothing was answered", func(t *testing.T) {
		for range missesToShrink {
			s.missed(0, 1360, 1452)
		}
		if s.proven != sizeFloor {
			t.Errorf("proved %d", s.proven)
		}
	})
}
