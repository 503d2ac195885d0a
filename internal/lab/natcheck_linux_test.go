package lab

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Every kind, alone on its side and shared by two hosts, is what the table says.
func TestEveryNATIsWhatItIsCalled(t *testing.T) {
	needSandbox(t)
	kinds := Kinds()
	for i, k := range kinds {
		for _, top := range []Topology{{A: k, B: kinds[len(kinds)-1-i]}, {A: k, SameNAT: true}} {
			t.Run(top.String(), func(t *testing.T) {
				t.Parallel()
				l := build(t, top, nil)
				startResponder(t, l)
				if err := l.CheckNATs(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// One rule of each kind is broken: the lab notices, and says what it measured.
func TestBrokenNATIsRefused(t *testing.T) {
	needSandbox(t)
	without := func(words ...string) func([]Rule) []Rule {
		return func(rules []Rule) []Rule {
			return slices.DeleteFunc(rules, func(r Rule) bool {
				line := commandLine(r.Do)
				return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
			})
		}
	}
	first := func(r Rule) func([]Rule) []Rule {
		return func(rules []Rule) []Rule { return append([]Rule{r}, rules...) }
	}
	for _, tt := range []struct {
		kind, what string
		broken     func([]Rule) []Rule
		says       string
	}{
		{"none", "stateful firewall", first(rule("filter", "FORWARD", "-i", "wan", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")),
			"filtering is address-and-port-dependent, expected endpoint-independent"},
		{"none", "translation", first(rule("nat", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE")),
			"translation is on, expected off"},
		{"full-cone", "no DNAT", without("DNAT"),
			"filtering is address-and-port-dependent, expected endpoint-independent"},
		{"address-restricted", "destinations not noted", without("nft add rule", "update"),
			"filtering is address-and-port-dependent, expected address-dependent"},
		{"port-restricted", "router open", without("INPUT", "DROP"),
			"the port after an early probe is changed, expected kept"},
		{"port-restricted-open", "router closed", first(rule("filter", "INPUT", "-i", "wan", "-j", "DROP")),
			"the port after an early probe is kept, expected changed"},
		{"symmetric", "ports kept", without("--random-fully"),
			"mapping is endpoint-independent, expected address-and-port-dependent"},
		{"udp-blocked", "not blocked", without("-p udp", "DROP"),
			"UDP is passing, expected blocked"},
	} {
		t.Run(tt.kind+"/"+strings.ReplaceAll(tt.what, " ", "-"), func(t *testing.T) {
			t.Parallel()
			good := kind(t, "none")
			k := kind(t, tt.kind)
			intact := 0
			l := build(t, Topology{A: good, B: k}, func(of Kind, r Router) []Rule {
				rules := of.Rules(r)
				// Side B alone is broken, also where both are of one kind.
				if of.Name != tt.kind || tt.kind == good.Name && intact == 0 {
					intact++
					return rules
				}
				return tt.broken(rules)
			})
			startResponder(t, l)
			err := l.CheckNATs(t.Context())
			var refused *NATError
			if !errors.As(err, &refused) {
				t.Fatalf("accepted: %v", err)
			}
			if refused.Router != NatB || refused.Peer != PeerB || refused.Kind != tt.kind {
				t.Errorf("blamed %+v", refused)
			}
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), NatA) {
				t.Errorf("says %q, want %q of %s alone", err, tt.says, NatB)
			}
		})
	}
}
