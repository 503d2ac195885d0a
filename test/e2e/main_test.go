// Package e2e drives the built programs as a user does, and judges them from
// outside: by exit codes, sentences, traces and what comes through the link.
//
// badinput_test.go is the table of bad input to the agent, wire_test.go that
// of bad bytes to every socket there is, outage_test.go a server that goes and
// comes, shortage_test.go a process without file descriptors. They run on loopback; loopback_test.go is what they have in common.
//
// The others drive a lab; lab_test.go is what they have in common. matrix_test.go
// and timing_test.go ask the lab for its results and check the figures,
// outside_test.go and coturn_test.go check the lab itself with other eyes,
// heal_test.go and credentials_test.go break a link that is in use, udp_test.go
// walls UDP off, servers_test.go puts its servers where only DNS finds them, foreign_test.go lends the link to
// programs that know nothing of it, turnclient_test.go lends the relay to a client
// that is not ours, and lablife_test.go is about labs that come and go.
package e2e

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "6") // these tests wait more than they work
	}
	code := m.Run()
	programs.remove()
	os.Exit(code)
}
