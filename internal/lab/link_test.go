package lab

import (
	"strings"
	"testing"
)

func TestParseLink(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Link
		err  string
	}{
		{"", Link{}, ""},
		{"rate=20mbit,loss=1%,mtu=1400", Link{20e6, 0.01, 1400}, ""},
		{"rate=1.5gbit", Link{BitsPerSecond: 15e8}, ""},
		{"rate=8000bit", Link{BitsPerSecond: 8000}, ""},
		{"loss=0.5%", Link{Loss: 0.005}, ""},
		{"delay=20ms", Link{}, "cannot delay"},
		{"rate=20", Link{}, "a rate is"},
		{"rate=-1mbit", Link{}, "a rate is"},
		{"rate=nanmbit", Link{}, "a rate is"},
		{"loss=1", Link{}, "percentage"},
		{"loss=101%", Link{}, "percentage"},
		{"loss=nan%", Link{}, "percentage"},
		{"mtu=100", Link{}, "576"},
		{"mtu", Link{}, "576"},
		{"jitter=1ms", Link{}, "unknown"},
		{"rate=1mbit,", Link{}, "unknown"},
	} {
		got, err := ParseLink(tt.in)
		if tt.err == "" && (err != nil || got != tt.want) {
			t.Errorf("%q: %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
		if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: %v, want an error with %q", tt.in, err, tt.err)
		}
	}
}
