package identity

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode"
)

// codeWords is the number of words in a code: 30 bits, of which an attacker
// gets to try one value.
const codeWords = 3

// maxNameplate is the number of digits in the longest nameplate.
const maxNameplate = 9

// ErrBadCode is wrapped by the errors of [ParseCode] and [NewCode].
var ErrBadCode = errors.New("not a pairing code")

// A Code is a pairing code, NUMBER-word-word-word. Its String is the code itself,
// for the terminal; a structured log shows the nameplate alone.
type Code struct {
	nameplate string
	words     [codeWords]string
}

// NewCode makes a code with fresh words for a nameplate the server handed out.
func NewCode(nameplate string) (Code, error) {
	if err := checkNameplate(nameplate); err != nil {
		return Code{}, err
	}
	c := Code{nameplate: nameplate}
	for i := range c.words {
		var b [2]byte
		_, _ = rand.Read(b[:]) // never fails
		c.words[i] = words[int(binary.BigEndian.Uint16(b[:]))%len(words)]
	}
	return c, nil
}

// ParseCode reads a code the way people type one: in any case, with spaces or
// other dashes between the parts, each word cut short to no less than its first
// four letters if one likes. It does not correct mistakes, since a wrong word
// would spend the code, but says which word is unknown and what it may have been.
func ParseCode(s string) (Code, error) {
	if len(s) > 256 {
		return Code{}, fmt.Errorf("%w: %d bytes is too long", ErrBadCode, len(s))
	}
	parts := strings.FieldsFunc(strings.ToLower(s), isCodeSeparator)
	if len(parts) == 0 {
		return Code{}, fmt.Errorf("%w: it is empty; it looks like 1234-word-word-word", ErrBadCode)
	}
	if err := checkNameplate(parts[0]); err != nil {
		return Code{}, err
	}
	c := Code{nameplate: parts[0]}
	if n := len(parts) - 1; n != codeWords {
		return Code{}, fmt.Errorf("%w: %d words after the number, want %d", ErrBadCode, n, codeWords)
	}
	for i, typed := range parts[1:] {
		w, err := lookUp(typed)
		if err != nil {
			return Code{}, fmt.Errorf("%w: word %d: %w", ErrBadCode, i+1, err)
		}
		c.words[i] = w
	}
	return c, nil
}

// LooksLikeCode reports whether s has the shape of a code, with words right or
// wrong. It decides whether an argument is a code or the name of a peer, and no
// peer has such a name.
func LooksLikeCode(s string) bool {
	parts := strings.FieldsFunc(strings.ToLower(s), isCodeSeparator)
	return len(parts) == codeWords+1 && checkNameplate(parts[0]) == nil &&
		!slices.ContainsFunc(parts[1:], func(w string) bool { return !onlyLetters(w) })
}

// Nameplate returns the number in front, which the server may see.
func (c Code) Nameplate() string { return c.nameplate }

// Secret returns the words, which nobody but the two users may see.
func (c Code) Secret() string { return strings.Join(c.words[:], "-") }

// String returns the code as it is read out and typed.
func (c Code) String() string { return c.nameplate + "-" + c.Secret() }

// LogValue keeps the words out of structured logs.
func (c Code) LogValue() slog.Value { return slog.StringValue(c.nameplate + "-" + redacted) }

func checkNameplate(s string) error {
	switch {
	case s == "" || strings.Trim(s, "0123456789") != "":
		return fmt.Errorf("%w: it begins with %q instead of a number", ErrBadCode, clip(s, 16))
	case len(s) > maxNameplate:
		return fmt.Errorf("%w: the number has %d digits, at most %d are possible", ErrBadCode, len(s), maxNameplate)
	}
	return nil
}

func isCodeSeparator(r rune) bool {
	return unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || r == '_' || r == '.' || r == ','
}

func onlyLetters(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) })
}

// prefixLen is how many letters tell any two words apart.
const prefixLen = 4

// lookUp returns the word that typed stands for: itself or cut short.
func lookUp(typed string) (string, error) {
	if len(typed) >= prefixLen {
		// The list is sorted and prefixes are unique, so the first word that
		// does not sort before typed is the only one it can begin.
		i, _ := slices.BinarySearch(words[:], typed)
		if i < len(words) && strings.HasPrefix(words[i], typed) {
			return words[i], nil
		}
	}
	shown := clip(typed, 16)
	if near := nearest(typed); len(near) > 0 {
		return "", fmt.Errorf("%q is not in the word list; did you mean %s?", shown, strings.Join(near, " or "))
	}
	return "", fmt.Errorf("%q is not in the word list", shown)
}

// nearest returns the words with the fewest edits from typed: none when that is
// more than two edits, or when so many are equally near that it is no help.
func nearest(typed string) []string {
	if len(typed) > 16 {
		return nil
	}
	var best []string
	bestDist := 3
	for _, w := range words {
		switch d := editDistance(typed, w); {
		case d < bestDist:
			best, bestDist = []string{w}, d
		case d == bestDist && best != nil:
			best = append(best, w)
		}
	}
	if len(best) > 3 {
		return nil
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment).
func editDistance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
