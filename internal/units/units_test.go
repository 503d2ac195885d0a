package units

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                 "0 s",
		7:                                 "7 ns",
		130 * time.Microsecond:            "130 µs",
		134567 * time.Nanosecond:          "130 µs",
		999600 * time.Nanosecond:          "1 ms",
		1232 * time.Microsecond:           "1.2 ms",
		12960 * time.Microsecond:          "13 ms",
		996 * time.Millisecond:            "1 s",
		1619470 * time.Microsecond:        "1.6 s",
		2 * time.Second:                   "2 s",
		26400 * time.Millisecond:          "26 s",
		99400 * time.Millisecond:          "99 s",
		99600 * time.Millisecond:          "1.7 min",
		144 * time.Second:                 "2.4 min",
		15 * time.Minute:                  "15 min",
		99*time.Minute + 40*time.Second:   "1.7 h",
		26 * time.Hour:                    "26 h",
		240 * time.Hour:                   "10 days",
		400 * 24 * time.Hour:              "400 days",
		-1500 * time.Millisecond:          "-1.5 s",
		10 * time.Second:                  "10 s",
		100 * time.Millisecond:            "100 ms",
		30*time.Second + time.Microsecond: "30 s",
		time.Hour + 59*time.Minute + 30*time.Second: "2 h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
	if got := Millis(12.3456); got != "12 ms" {
		t.Errorf("12.3456 ms: %q", got)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1: "1 B", 999: "999 B", 1000: "1.00 kB", 6412: "6.41 kB", 999499: "999 kB", 999500: "1.00 MB",
		1132000000: "1.13 GB", 3170000000: "3.17 GB", 346e6: "346 MB", 18446744073709551615: "18400 PB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	for mbps, want := range map[float64]string{
		0: "0 bit/s", 0.0005: "500 bit/s", 0.9: "900 kbit/s", 9.876: "9.88 Mbit/s", 346.4: "346 Mbit/s", 999.6: "1.00 Gbit/s", 2741: "2.74 Gbit/s",
	} {
		if got := Rate(mbps); got != want {
			t.Errorf("%v: %q, want %q", mbps, got, want)
		}
	}
}
