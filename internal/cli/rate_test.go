package cli

import "testing"

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{"1000": 1000, "7": 7, "640k": 640e3, "800k": 8e5, "50M": 5e7, "1.5G": 1.5e9, "2m": 2e6} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "0", "-5M", "NaN", "Inf", "5 M", "5T", "1e308G"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
