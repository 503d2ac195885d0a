// Package units writes times, sizes and rates for people: with as many digits as
// somebody reads, and a unit in which they are short. Programs read JSON, which has
// plain numbers with the unit in the member's name.
package units

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration shows a time with two significant digits: 130 µs, 1.6 s, 26 s, 2.4 min.
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	// A unit lasts until two digits of the next one say as much.
	for _, u := range []struct {
		name  string
		long  time.Duration
		until float64
	}{
		{"ns", time.Nanosecond, 1000}, {"µs", time.Microsecond, 1000}, {"ms", time.Millisecond, 1000},
		{"s", time.Second, 100}, {"min", time.Minute, 100}, {"h", time.Hour, 100},
	} {
		if v := rounded(float64(d)/float64(u.long), 2); v < u.until {
			if v == 0 {
				return "0 s"
			}
			return trimmed(fixed(v, 2)) + " " + u.name
		}
	}
	return trimmed(fixed(float64(d)/float64(24*time.Hour), 2)) + " days"
}

// Millis is [Duration] for milliseconds, the unit of times in events and reports.
func Millis(ms float64) string { return Duration(time.Duration(ms * float64(time.Millisecond))) }

// Bytes shows a size with three significant digits, in units of a thousand: 512 B,
// 6.40 kB, 1.13 GB.
func Bytes(n uint64) string { return scaled(float64(n), "B", "kB", "MB", "GB", "TB", "PB") }

// Rate shows a rate of so many megabits (10^6 bits) a second with three significant
// digits: 512 kbit/s, 2.74 Gbit/s.
func Rate(mbps float64) string {
	return scaled(mbps*1e6, "bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
}

// scaled picks the first unit in which v is below a thousand. Each is a thousand of
// the one before it.
func scaled(v float64, units ...string) string {
	i := 0
	for ; i < len(units)-1 && rounded(v, 3) >= 1000; i++ {
		v /= 1000
	}
	if i == 0 { // whole ones
		return strconv.FormatFloat(v, 'f', 0, 64) + " " + units[0]
	}
	return fixed(v, 3) + " " + units[i]
}

// rounded is v with so many significant digits.
func rounded(v float64, digits int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'e', digits-1, 64), 64)
	if err != nil {
		return v
	}
	return r
}

// fixed writes v with so many significant digits.
func fixed(v float64, digits int) string {
	v = rounded(v, digits)
	places := 0
	if v != 0 {
		places = max(0, digits-1-int(math.Floor(math.Log10(math.Abs(v)))))
	}
	return strconv.FormatFloat(v, 'f', places, 64)
}

// trimmed takes away zeros behind the point: a timeout of 2.0 s reads like a
// measurement.
func trimmed(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	return s
}
