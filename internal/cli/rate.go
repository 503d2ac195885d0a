package cli

import (
	"errors"
	"math"
	"strconv"
)

var errRate = errors.New("a rate is a number of bits a second such as 800k, 50M or 1.5G")

// ParseRate reads bits a second: a number above zero, with k, M or G (or K, m, g)
// for 10^3, 10^6, 10^9. The bounds are the caller's.
func ParseRate(text string) (float64, error) {
	number, unit := text, 1.0
	if n := len(text); n > 0 {
		if u, ok := map[byte]float64{'k': 1e3, 'K': 1e3, 'm': 1e6, 'M': 1e6, 'g': 1e9, 'G': 1e9}[text[n-1]]; ok {
			number, unit = text[:n-1], u
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v*unit > 0) || math.IsInf(v*unit, 0) {
		return 0, errRate
	}
	return v * unit, nil
}
