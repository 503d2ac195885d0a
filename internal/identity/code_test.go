package identity

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	shape := regexp.MustCompile(`^[a-z]{4,7}$`)
	prefixes := map[string]string{}
	for i, w := range words {
		if !shape.MatchString(w) {
			t.Errorf("%q is not four to seven letters", w)
			continue
		}
		if i > 0 && words[i-1] >= w {
			t.Errorf("%q does not sort after %q", w, words[i-1])
		}
		if other, ok := prefixes[w[:prefixLen]]; ok {
			t.Errorf("%q and %q begin alike", w, other)
		}
		prefixes[w[:prefixLen]] = w
		for _, other := range words[:i] {
			if editDistance(w, other) < 2 {
				t.Errorf("%q and %q are one typing mistake apart", w, other)
			}
		}
	}
	if len(prefixes) != 1024 {
		t.Errorf("%d words, want 1024", len(prefixes))
	}
}

// What sounds like another word, is spelled in two ways, or is a number is hard
// to pass on by telephone.
func TestWordsUnambiguous(t *testing.T) {
	for _, w := range strings.Fields(`
		aisle altar beach berry board boulder brake bread cereal cellar chord creek
		currant deer ensure desert flour flower hair horse idol kernel knight lesson links
		mail main manner medal metal mist morning moose muscle naval night pair pear
		peace peak petal piece plain pole profit rain road root rose sail scene stair
		steel sweet symbol tail throne tide waist wait weather whale wood yolk
		armor color center fiber flavor gray grey harbor humor jewelry labor liter
		meter mold neighbor odor omelet pajamas parlor plow rumor tire vapor yogurt
		three four five seven eight nine eleven twelve twenty hundred million zero`) {
		if _, found := slices.BinarySearch(words[:], w); found {
			t.Errorf("%q is ambiguous when spoken", w)
		}
	}
}

func TestNewCode(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		c, err := NewCode("4071")
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseCode(c.String())
		if err != nil || back != c {
			t.Fatalf("ParseCode(%q) = %v, %v", c, back, err)
		}
		if c.String() != c.Nameplate()+"-"+c.Secret() || c.Nameplate() != "4071" {
			t.Fatalf("code %q, nameplate %q, secret %q", c, c.Nameplate(), c.Secret())
		}
		seen[c.Secret()] = true
	}
	if len(seen) < 199 { // two equal ones among 200 of 2^30: one in 50 000 runs
		t.Errorf("%d different codes of 200", len(seen))
	}
	for _, bad := range []string{"", "12a", "-1", "1234567890", "１２"} {
		if c, err := NewCode(bad); !errors.Is(err, ErrBadCode) {
			t.Errorf("NewCode(%q) = %v, %v", bad, c, err)
		}
	}
}

func TestParseCode(t *testing.T) {
	want := "7-acorn-window-zigzag"
	for _, s := range []string{
		want,
		"7-ACORN-Window-ZigZag",
		"  7 acorn window zigzag\n",
		"7 - acorn - window - zigzag",
		"7–acorn—window‑zigzag",
		"7_acorn.window, zigzag",
		"7-acor-wind-zigz",
		"7-acorn-windo-zigzag",
	} {
		c, err := ParseCode(s)
		if err != nil || c.String() != want {
			t.Errorf("ParseCode(%q) = %q, %v; want %q", s, c, err, want)
		}
		if !LooksLikeCode(s) {
			t.Errorf("LooksLikeCode(%q) = false", s)
		}
	}
}

func TestParseCodeErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "it is empty"},
		{" - ", "it is empty"},
		{"acorn-window-zigzag", `it begins with "acorn" instead of a number`},
		{"7", "0 words after the number, want 3"},
		{"7-acorn-window", "2 words after the number, want 3"},
		{"7-acorn-window-zigzag-acorn", "4 words after the number, want 3"},
		{"1234567890-acorn-window-zigzag", "the number has 10 digits"},
		{"7-acron-window-zigzag", `word 1: "acron" is not in the word list; did you mean acorn or apron?`},
		{"7-acorn-wndow-zigzag", `word 2: "wndow" is not in the word list; did you mean window?`},
		{"7-acorn-window-zigzagg", `word 3: "zigzagg" is not in the word list; did you mean zigzag?`},
		{"7-aco-window-zigzag", `word 1: "aco" is not in the word list`},
		{"7-acorn-qqqqqqqq-zigzag", `word 2: "qqqqqqqq" is not in the word list`},
		{"7-acorn-\x1b[31m-zigzag", `\x1b`},
		{strings.Repeat("7", 300), "too long"},
	}
	for _, tt := range tests {
		_, err := ParseCode(tt.in)
		if !errors.Is(err, ErrBadCode) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseCode(%q): %v; want %q", tt.in, err, tt.want)
		}
		if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("ParseCode(%q): the error has a control character", tt.in)
		}
	}
}

func TestLooksLikeCode(t *testing.T) {
	for s, want := range map[string]bool{
		"12-one-two-three": true, "12 aa bb cc": true,
		"laptop": false, "12": false, "12-one-two": false, "3d-printer-in-attic": false,
		"web-1-2-3": false, "10-0-0-1": false, "": false,
	} {
		if got := LooksLikeCode(s); got != want {
			t.Errorf("LooksLikeCode(%q) = %t", s, got)
		}
	}
}

func TestSecretsStayOutOfLogs(t *testing.T) {
	code := mustCode(t, "12-acorn-window-zigzag") // some words are in every log: "secret", "finger"
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	peer := Peer{Name: "desk", Secret: Secret{0xab, 0xcd}}

	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("m", "code", code, "secret", peer.Secret, "peer", peer, "key", key)
	}
	fmt.Fprintf(&out, "%v %+v %#v %x %s %d", peer, peer, peer, peer.Secret, peer.Secret, peer.Secret)
	for _, word := range strings.Split(code.Secret(), "-") {
		if strings.Contains(out.String(), word) {
			t.Errorf("a word of the code is in %s", &out)
		}
	}
	for _, s := range []string{"abcd", "0xab", "171 205", "171,205", fmt.Sprintf("%x", key.private.Seed())} {
		if strings.Contains(out.String(), s) {
			t.Errorf("secret bytes %q are in %s", s, &out)
		}
	}
	if n := strings.Count(out.String(), redacted); n < 8 {
		t.Errorf("%d placeholders in %s", n, &out)
	}
}

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "axc", 1},
		{"abc", "ab", 1}, {"kitten", "sitting", 3}, {"acorn", "acron", 1}, {"ca", "abc", 3},
	} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := editDistance(tt.b, tt.a); got != tt.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}
