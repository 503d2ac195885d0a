package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A relayOnly is `signal --only relay` in the lab's public node, with a secret that
// the test knows, TLS, and peers allowed in one network only.
type relayOnly struct {
	*standing
	server *process
}

const (
	relaySecret = "known to the test"
	relayPort   = "4478"
	relaysPort  = "4449" // TLS
	relayAdmin  = "127.0.0.1:4481"
	relayPeer   = "192.0.2.130" // in the network that is allowed
)

func startRelayOnly(t *testing.T) *relayOnly {
	t.Helper()
	r := &relayOnly{standing: stand(t, "port-restricted", "none")}
	r.write("secret", relaySecret+"\n")
	r.writeCertificate()
	r.server = r.exec("signal", "signal", "--only", "relay", "--public-ip", ourRelay, "--turn-listen", ":"+relayPort, "--turns-listen", ":"+relaysPort,
		"--tls-cert", r.file("cert.pem"), "--tls-key", r.file("key.pem"), "--turn-secret-file", r.file("secret"),
		"--allow-peer", "192.0.2.128/25", "--admin", relayAdmin)
	r.server.await(t, r.server.stderr, `serving turns:`)
	return r
}

// writeCertificate makes a certificate that signs itself.
func (r *relayOnly) writeCertificate() {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "relay"}, IPAddresses: []net.IP{net.ParseIP(ourRelay)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	r.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

// relayCounters is what the test reads of the server's own counters.
type relayCounters struct {
	Allocations      int
	AllocationsTotal int `json:"allocations_total"`
	Relay            struct {
		ClientToPeerPackets int `json:"client_to_peer_packets"`
		PeerToClientPackets int `json:"peer_to_client_packets"`
	}
	Denied  int
	Refused map[int]int
}

func (r *relayOnly) counters() (c relayCounters) {
	r.t.Helper()
	out := r.must("signal", "curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "http://"+relayAdmin+"/stats")
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		r.t.Fatalf("%v\n%s", err, out)
	}
	return c
}

// uclient starts coturn's client at peer-a, behind a NAT.
func (r *relayOnly) uclient(user string, args ...string) *process {
	r.t.Helper()
	return r.exec("peer-a", append(append([]string{"turnutils_uclient", "-W", relaySecret, "-u", user}, args...), ourRelay)...)
}

var uclientCounts = regexp.MustCompile(`tot_send_msgs=(\d+), tot_recv_msgs=(\d+)\n`)

// checkCounts requires that as many messages came back as were sent, and as many
// as they should be.
func checkCounts(t *testing.T, out string, messages int) {
	t.Helper()
	want := strconv.Itoa(messages)
	if m := uclientCounts.FindStringSubmatch(out); m == nil || m[1] != want || m[2] != want {
		t.Errorf("sent and received %v, want %s each", m, want)
	}
	if !strings.Contains(out, "Total lost packets 0 (0.000000%)") {
		t.Errorf("packets were lost")
	}
	if t.Failed() {
		t.Log(out)
	}
}

// coturn's client over our relay: two clients of it that only reach each other by
// their relayed addresses, and clients with an echo on another machine.
func TestCoturnsClient(t *testing.T) {
	needLab(t)
	needProgram(t, "turnutils_uclient", "coturn")
	needProgram(t, "turnutils_peer", "coturn")
	needProgram(t, "curl", "curl")
	r := startRelayOnly(t)
	echo := r.exec("server", "turnutils_peer", "-L", relayPeer, "-p", "3480")
	r.awaitUDP("server", relayPeer+":3480")

	const clients, messages = 2, 100
	transports := map[string][]string{"UDP": {"-p", relayPort}, "TCP": {"-t", "-p", relayPort}, "TLS": {"-t", "-S", "-p", relaysPort}}
	peers := map[string][]string{"each other": {"-y"}, "an echo": {"-e", relayPeer, "-r", "3480"}}
	how := map[string][]string{"channels": {"-c"}, "indications": {"-c", "-s"}}
	// They mostly wait for their own timers, so they run at once.
	running := map[string]*process{}
	for transport, a := range transports {
		for peer, b := range peers {
			for carried, c := range how {
				args := append([]string{"-m", strconv.Itoa(clients), "-n", strconv.Itoa(messages), "-l", "300"}, a...)
				name := transport + " to " + peer + " in " + carried
				running[name] = r.uclient(name, append(append(args, b...), c...)...)
			}
		}
	}
	for name, p := range running {
		t.Run(name, func(t *testing.T) {
			if code := p.wait(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			checkCounts(t, p.stdout.String()+p.stderr.String(), clients*messages)
		})
	}
	c := r.counters()
	if least := len(running) * clients * messages; c.Relay.ClientToPeerPackets < least || c.Relay.PeerToClientPackets < least || c.AllocationsTotal < len(running)*clients {
		t.Errorf("%d messages were sent and came back, the server counts %+v", least, c)
	}
	r.server.unharmed(t)
	echo.unharmed(t)
}

// awaitUDP waits until a program has bound an address.
func (r *relayOnly) awaitUDP(node, address string) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(r.must(node, "ss", "-Hlnu"), address) {
		if time.Now().After(deadline) {
			r.t.Fatalf("nobody listens on %s", address)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Peers that a relay must not reach are refused with 403, in every transport, and a
// wrong secret gets nobody in.
func TestCoturnsClientRefused(t *testing.T) {
	needLab(t)
	needProgram(t, "turnutils_uclient", "coturn")
	needProgram(t, "curl", "curl")
	r := startRelayOnly(t)
	denied := map[string][]string{
		"a private network":          {"-p", relayPort, "-e", "10.2.0.2"},
		"the metadata service":       {"-p", relayPort, "-e", "169.254.169.254"},
		"loopback":                   {"-p", relayPort, "-e", "127.0.0.1"},
		"the server's other address": {"-p", relayPort, "-e", "192.0.2.3"},
		"over TCP":                   {"-t", "-p", relayPort, "-e", "10.2.0.2"},
		"over TLS":                   {"-t", "-S", "-p", relaysPort, "-e", "10.2.0.2"},
	}
	for name, args := range denied {
		t.Run(name, func(t *testing.T) {
			before := r.counters().Refused[403]
			p := r.uclient("somebody", append([]string{"-c", "-n", "1"}, args...)...)
			p.wait(t) // the exit code says little
			if out := p.stdout.String() + p.stderr.String(); !strings.Contains(out, "error 403") {
				t.Errorf("no 403:\n%s", out)
			}
			if after := r.counters().Refused[403]; after <= before {
				t.Errorf("the server counts %d refusals with 403, %d before", after, before)
			}
		})
	}
	t.Run("wrong secret", func(t *testing.T) {
		before := r.counters().AllocationsTotal
		p := r.exec("peer-a", "turnutils_uclient", "-W", "a guess", "-u", "somebody", "-y", "-c", "-n", "1", "-p", relayPort, ourRelay)
		p.wait(t)
		if out := p.stdout.String() + p.stderr.String(); !strings.Contains(out, "Cannot complete Allocation") {
			t.Errorf("no refusal:\n%s", out)
		}
		if after := r.counters().AllocationsTotal; after != before {
			t.Errorf("%d allocations were made", after-before)
		}
	})
	c := r.counters()
	if c.Relay.ClientToPeerPackets != 0 {
		t.Errorf("packets went to denied peers: %+v", c)
	}
	r.server.unharmed(t)
}
