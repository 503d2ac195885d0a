package lab

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Link is the quality of the line between a router and the core, both ways. Zero
// values change nothing.
type Link struct {
	BitsPerSecond int64
	Loss          float64 // 0 to 1, of the packets that are forwarded
	MTU           int
}

// ParseLink reads "rate=20mbit,loss=1%,mtu=1400".
func ParseLink(s string) (Link, error) {
	var l Link
	if s == "" {
		return l, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		if err := l.set(key, value); err != nil {
			return Link{}, fmt.Errorf("link %q: %w", part, err)
		}
	}
	return l, nil
}

func (l *Link) set(key, value string) (err error) {
	switch key {
	case "rate":
		l.BitsPerSecond, err = parseRate(value)
	case "loss":
		l.Loss, err = parseLoss(value)
	case "mtu":
		l.MTU, err = parseMTU(value)
	case "delay":
		return fmt.Errorf("the lab cannot delay packets yet (that needs a router in user space); it has rate=, loss= and mtu=")
	default:
		return fmt.Errorf("unknown; there are rate=, loss= and mtu=")
	}
	return err
}

// rateUnits are tc's, in bits per second; the longer name stands before its end.
var rateUnits = []struct {
	name string
	bits float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

func parseRate(s string) (int64, error) {
	for _, u := range rateUnits {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(v) || v*u.bits < 8000 || v*u.bits > 1e12 {
			break
		}
		return int64(v * u.bits), nil
	}
	return 0, fmt.Errorf("a rate is a number with kbit, mbit or gbit, at least 8kbit")
}

func parseLoss(s string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !strings.HasSuffix(s, "%") || !(v >= 0 && v <= 100) {
		return 0, fmt.Errorf("a loss is a percentage, such as 1%%")
	}
	return v / 100, nil
}

func parseMTU(s string) (int, error) {
	v, err := strconv.Atoi(s)
	if err != nil || v < 576 || v > 65535 {
		return 0, fmt.Errorf("an MTU is 576 to 65535 bytes")
	}
	return v, nil
}

// commands are what makes interface dev one end of such a line. Loss is made by
// the router alone, see lossRules.
func (l Link) commands(dev string) [][]string {
	var out [][]string
	if l.MTU > 0 {
		out = append(out, []string{"ip", "link", "set", dev, "mtu", strconv.Itoa(l.MTU)})
	}
	if l.BitsPerSecond > 0 {
		out = append(out, []string{"tc", "qdisc", "add", "dev", dev, "root", "tbf",
			"rate", strconv.FormatInt(l.BitsPerSecond, 10) + "bit", "burst", "32k", "latency", "50ms"})
	}
	return out
}

// lossRules drop packets between the line and the LAN, each direction by itself.
func (l Link) lossRules(r Router) []Rule {
	if l.Loss == 0 {
		return nil
	}
	dice := []string{"-m", "statistic", "--mode", "random", "--probability", strconv.FormatFloat(l.Loss, 'f', -1, 64), "-j", "DROP"}
	return []Rule{
		rule("mangle", "FORWARD", append([]string{"-i", r.WAN}, dice...)...),
		rule("mangle", "FORWARD", append([]string{"-o", r.WAN}, dice...)...),
	}
}
