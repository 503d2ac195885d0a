package lab

import (
	"strings"
	"testing"
)

// The matrix of the product, written out: A down, B across, in the order of Kinds.
// The last column is one NAT for both.
func TestExpected(t *testing.T) {
	want := map[string]string{
		"none":                 "DDDDDDR D",
		"full-cone":            "DDDDDDR D",
		"address-restricted":   "DDDDDDR D",
		"port-restricted":      "DDDDDRR D",
		"port-restricted-open": "DDDDDRR D",
		"symmetric":            "DDDRRRR D",
		"udp-blocked":          "RRRRRRR D",
	}
	letter := map[Path]string{Direct: "D", Relayed: "R"}
	for _, a := range Kinds() {
		var row strings.Builder
		for _, b := range Kinds() {
			row.WriteString(letter[Expected(a, b, false)])
		}
		row.WriteString(" " + letter[Expected(a, a, true)])
		if row.String() != want[a.Name] {
			t.Errorf("%s: %s, want %s", a.Name, &row, want[a.Name])
		}
	}
	if len(Kinds()) != len(want) {
		t.Errorf("%d kinds, want %d", len(Kinds()), len(want))
	}
}

func TestParseKind(t *testing.T) {
	for _, k := range Kinds() {
		if got, err := ParseKind(k.Name); err != nil || got.Name != k.Name {
			t.Errorf("ParseKind(%q) = %v, %v", k.Name, got.Name, err)
		}
	}
	if _, err := ParseKind("cone"); err == nil || !strings.Contains(err.Error(), "full-cone") {
		t.Errorf("unknown kind: %v, want one that lists the known", err)
	}
}
