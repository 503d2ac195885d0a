package measure

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/p2pagent/p2pagent/internal/units"
)

// space keeps a figure and its unit on one line.
const space = "\u00a0"

// unknown is what stands in the place of a figure that there is not.
const unknown = "not measured"

// number shows v with three significant digits, or all that are left of its
// point.
func number(v float64) string {
	switch size := math.Abs(v); {
	case size == 0:
		return "0"
	case size < 1e-6:
		return "<0.000001"
	case size >= 99.95:
		return grouped(strconv.FormatFloat(v, 'f', 0, 64))
	default:
		return strconv.FormatFloat(v, 'f', min(2-exponent(v), 6), 64)
	}
}

// exponent is the power of ten of v's first digit, once it is rounded to three.
func exponent(v float64) int {
	_, e, _ := strings.Cut(strconv.FormatFloat(v, 'e', 2, 64), "e")
	n, _ := strconv.Atoi(e) // always a number
	return n
}

// grouped puts narrow spaces between the thousands of five digits and more.
func grouped(digits string) string {
	if len(digits) < 5 {
		return digits
	}
	var out []byte
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			out = append(out, "\u202f"...)
		}
		out = append(out, digits[i])
	}
	return string(out)
}

func optional(v *float64) string {
	if v == nil {
		return unknown
	}
	return number(*v)
}

func percent(v *float64) string {
	if v == nil {
		return unknown
	}
	return number(100 * *v)
}

func count(n *uint64) string {
	if n == nil {
		return unknown
	}
	return grouped(strconv.FormatUint(*n, 10))
}

func yesNo(v *bool) string {
	switch {
	case v == nil:
		return unknown
	case *v:
		return "yes"
	default:
		return "no"
	}
}

// byteSize shows a size as [units.Bytes] does, on one line.
func byteSize(n uint64) string { return strings.ReplaceAll(units.Bytes(n), " ", space) }

func optionalBytes(n *uint64) string {
	if n == nil {
		return unknown
	}
	return byteSize(*n)
}

// many is "1 round", "3 rounds".
func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
