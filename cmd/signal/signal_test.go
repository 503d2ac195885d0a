package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// A process is one run of the command, in this process.
type process struct {
	t       *testing.T
	state   string // XDG_STATE_HOME
	signals chan os.Signal
	stdout  *lockedBuffer
	stderr  *lockedBuffer
	exit    chan int // the exit code
	ended   chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs the command with a state directory of its own, or the given one.
func start(t *testing.T, state string, args ...string) *process {
	t.Helper()
	if state == "" {
		state = t.TempDir()
	}
	p := &process{
		t: t, state: state, signals: make(chan os.Signal, 4), stdout: &lockedBuffer{}, stderr: &lockedBuffer{},
		exit: make(chan int, 1), ended: make(chan struct{}),
	}
	env := environment{
		signals: p.signals, stdout: p.stdout, stderr: p.stderr,
		getenv: func(k string) string { return map[string]string{"XDG_STATE_HOME": state}[k] },
	}
	go func() {
		defer close(p.ended)
		p.exit <- run(args, env)
	}()
	t.Cleanup(func() { // a test that failed leaves nothing running
		p.signals <- syscall.SIGTERM
		p.signals <- syscall.SIGTERM
		<-p.ended
	})
	return p
}

// startLab starts a server on loopback at ports of its own.
func startLab(t *testing.T, state string, args ...string) *process {
	t.Helper()
	return start(t, state, append([]string{"--public-ip", "127.0.0.1", "--listen", "127.0.0.1:0", "--turn-listen", ":0", "--turns-listen", ":0",
		"--admin", ":0", "--relay-ports", "33000-40000"}, args...)...)
}

// url reads the line for peers.
func (p *process) url() (url, token string) {
	p.t.Helper()
	waitFor(p.t, "the line on stdout", func() bool { return strings.HasSuffix(p.stdout.String(), "\n") })
	line := p.stdout.String()
	value, ok := strings.CutPrefix(strings.TrimSpace(line), "export P2PAGENT_SIGNAL=")
	if !ok {
		p.t.Fatalf("stdout %q", line)
	}
	url, token, err := signaling.ParseURL(value)
	if err != nil {
		p.t.Fatal(err)
	}
	return url, token
}

// served waits for the line on stderr that says where something is served.
func (p *process) served(prefix string) string {
	p.t.Helper()
	var found string
	waitFor(p.t, prefix+" to be served", func() bool {
		for line := range strings.Lines(p.stderr.String()) {
			if _, rest, ok := strings.Cut(line, "serving "+prefix); ok && found == "" {
				found = prefix + strings.Trim(strings.Fields(rest)[0], "\"")
			}
		}
		return found != ""
	})
	return found
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// stop ends it and checks that that is clean.
func (p *process) stop() {
	p.t.Helper()
	p.signals <- syscall.SIGTERM
	p.wantExit(exitOK)
}

func (p *process) wantExit(want int) {
	p.t.Helper()
	select {
	case code := <-p.exit:
		if code != want {
			p.t.Errorf("exit code %d, want %d; stderr:\n%s", code, want, p.stderr)
		}
	case <-time.After(patience):
		p.t.Fatalf("does not end; stderr:\n%s", p.stderr)
	}
}

// meet brings two agents together at a server and returns the credentials
// that the host gets.
func meet(t *testing.T, url, token string) signaling.Credentials {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	join := func(role signaling.Role) *signaling.Mailbox {
		c, err := signaling.NewClient(signaling.ClientConfig{URL: url, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { c.Run(ctx) })
		return c.Join("mailbox-of-the-test-0123456789", role)
	}
	host := join(signaling.RoleHost)
	join(signaling.RoleGuest)
	creds, err := host.Credentials(ctx)
	for err != nil && ctx.Err() == nil { // not before the guest is there
		select {
		case e := <-host.Events():
			if e.Credentials != nil {
				return *e.Credentials
			}
		case <-ctx.Done():
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func TestWholeDeployment(t *testing.T) {
	p := startLab(t, "", "--allow-peer", "127.0.0.0/8")
	url, token := p.url()
	if token == "" || !strings.HasPrefix(url, "ws://127.0.0.1:") {
		t.Errorf("url %q, token %q", url, token)
	}
	creds := meet(t, url, token)
	if len(creds.URIs) != 2 || len(creds.STUN) != 2 || creds.Password == "" {
		t.Fatalf("credentials %+v", creds)
	}
	a := allocate(t, p, creds)
	var got struct {
		Allocations int
		Relay       map[string]int
		Sessions    map[string]any
	}
	getJSON(t, p.served("http://"), &got)
	if got.Allocations != 1 || got.Sessions == nil || got.Relay == nil {
		t.Errorf("stats %+v", got)
	}
	a.Close()
	var events []relay.Event
	getJSON(t, strings.Replace(p.served("http://"), "/stats", "/events", 1), &events)
	if len(events) == 0 || events[0].Event != "allocated" {
		t.Errorf("events %+v", events)
	}
	if !strings.Contains(p.stderr.String(), "127.0.0.0/8") || !strings.Contains(p.stderr.String(), "ALLOWED") {
		t.Errorf("--allow-peer was not loud:\n%s", p.stderr)
	}
	p.stop()
	if out := p.stdout.String(); strings.Count(out, "\n") != 1 {
		t.Errorf("stdout %q", out)
	}
}

// allocate makes an allocation with credentials that were handed out.
func allocate(t *testing.T, p *process, creds signaling.Credentials) *relay.Allocation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	addr := strings.TrimSuffix(strings.TrimPrefix(p.served("turn:"), "turn:"), "?transport=udp")
	a, err := relay.Allocate(ctx, relay.ClientConfig{
		Server: netip.MustParseAddrPort(addr), Transport: "udp", Username: creds.Username, Password: creds.Password,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func getJSON(t *testing.T, url string, v any) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
}

// The token and the secret survive a restart, and are nobody else's to read.
func TestRestartKeepsToken(t *testing.T) {
	p := startLab(t, "")
	_, first := p.url()
	p.stop()
	again := startLab(t, p.state)
	_, second := again.url()
	again.stop()
	if first != second {
		t.Errorf("token %q, then %q", first, second)
	}
	for _, name := range []string{"signal-token", "turn-secret"} {
		info, err := os.Stat(filepath.Join(p.state, "p2pagent", name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if strings.Contains(p.stderr.String(), first) {
			t.Error("the token is on stderr")
		}
	}
}

// Two halves in two processes share the secret, so what one mints the other
// takes.
func TestHalves(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := createSecret(secret); err != nil {
		t.Fatal(err)
	}
	r := startLab(t, "", "--only", "relay", "--turn-secret-file", secret)
	turn := r.served("turn:")
	s := startLab(t, "", "--only", "signaling", "--turn-secret-file", secret, "--turn-uri", turn, "--stun-uri", "stun:127.0.0.1:3478")
	url, token := s.url()
	creds := meet(t, url, token)
	if len(creds.URIs) != 1 || creds.URIs[0] != turn || len(creds.STUN) != 1 {
		t.Errorf("credentials for %v, %v", creds.URIs, creds.STUN)
	}
	a := allocate(t, r, creds)
	a.Close()
	s.stop()
	r.stop()
	if out := r.stdout.String(); out != "" {
		t.Errorf("a relay alone has nothing for stdout, it wrote %q", out)
	}
}

func TestTLS(t *testing.T) {
	cert, key := writeCert(t)
	p := startLab(t, "", "--tls-cert", cert, "--tls-key", key)
	url, _ := p.url()
	if !strings.HasPrefix(url, "wss://signal.example:") {
		t.Errorf("url %q, want the name in the certificate", url)
	}
	turns := p.served("turns:")
	_, port, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(turns, "turns:"), "?transport=tcp"))
	for _, addr := range []string{"127.0.0.1:" + port, "127.0.0.1:" + url[strings.LastIndex(url, ":")+1:]} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		c.Close()
	}
	p.stop()
}

// A renewed certificate is used without a restart; a broken one is not.
func TestCertFileFollowsItsFile(t *testing.T) {
	cert, key := writeCert(t)
	f := &certFile{cert: cert, key: key}
	first, err := f.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	newCert, newKey := writeCert(t)
	replace(t, newKey, key)
	replace(t, newCert, cert)
	second, err := f.get(nil)
	if err != nil || string(second.Certificate[0]) == string(first.Certificate[0]) {
		t.Errorf("still the old certificate, %v", err)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(cert, time.Now(), time.Now().Add(time.Hour))
	third, err := f.get(nil)
	if err != nil || third != second {
		t.Errorf("a broken file: %v", err)
	}
}

func replace(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(to, later, later); err != nil {
		t.Fatal(err)
	}
}

func writeCert(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{"*.example", "signal.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// SIGTERM: nothing new at once, allocations get the grace, exit code 0.
func TestDrainWaitsForAllocations(t *testing.T) {
	p := startLab(t, "", "--grace", "1h")
	url, token := p.url()
	a := allocate(t, p, meet(t, url, token))
	p.signals <- syscall.SIGTERM
	refused(t, strings.TrimPrefix(url, "ws://"))
	select {
	case code := <-p.exit:
		t.Fatalf("ended with an allocation left, code %d", code)
	case <-time.After(50 * time.Millisecond):
	}
	a.Close()
	p.wantExit(exitOK)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := startLab(t, "", "--grace", "1h")
	url, token := p.url()
	a := allocate(t, p, meet(t, url, token))
	defer a.Close()
	p.signals <- syscall.SIGTERM
	p.signals <- syscall.SIGTERM
	p.wantExit(exitOK)
}

func TestGraceEnds(t *testing.T) {
	p := startLab(t, "", "--grace", "50ms")
	url, token := p.url()
	a := allocate(t, p, meet(t, url, token))
	defer a.Close()
	p.stop()
	if !strings.Contains(p.stderr.String(), "1 allocations left") {
		t.Errorf("stderr:\n%s", p.stderr)
	}
}

// refused waits until a TCP address takes no connections any more.
func refused(t *testing.T, addr string) {
	t.Helper()
	waitFor(t, addr+" to take no connections any more", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

func TestRelayRate(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "0": 0, "10M": 10e6, "1.5M": 1.5e6, "640k": 640e3, "2G": 2e9, "1000000": 1e6,
	} {
		if got, err := parseRate("--relay-rate", in); got != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown flag":       {"--nonsense"},
		"argument":           {"now"},
		"open to all":        {"--allow-peer", "0.0.0.0/0"},
		"open to all v6":     {"--allow-peer", "::/0"},
		"not a CIDR":         {"--allow-peer", "lab"},
		"half of what":       {"--only", "turn"},
		"cert without key":   {"--tls-cert", "x"},
		"domain and cert":    {"--domain", "a.example", "--tls-cert", "x", "--tls-key", "y"},
		"domain and relay":   {"--domain", "a.example", "--only", "relay"},
		"address for domain": {"--domain", "192.0.2.2"},
		"IPv6 for domain":    {"--domain", "2001:db8::1"},
		"URL for domain":     {"--domain", "https://a.example"},
		"port in domain":     {"--domain", "a.example:443"},
		"local domain":       {"--domain", "localhost"},
		"open and token":     {"--open", "--token-file", "x"},
		"ports":              {"--relay-ports", "5-4"},
		"privileged ports":   {"--relay-ports", "1-65535"},
		"rate in words":      {"--relay-rate", "fast"},
		"rate too small":     {"--relay-rate", "10"},
		"negative rate":      {"--relay-rate", "-10M"},
		"rate not a number":  {"--relay-rate", "NaNM"},
		"listen":             {"--listen", "8080"},
		"listen name":        {"--listen", "localhost:8080"},
		"public IP":          {"--public-ip", "::1"},
		"public name":        {"--public-ip", "a.example"},
		"admin everywhere":   {"--admin", "0.0.0.0:9000"},
		"turn URI":           {"--turn-uri", "http://a.example"},
		"STUN URI is TURN":   {"--stun-uri", "turn:a.example"},
		"negative grace":     {"--grace", "-1s"},
		"grace not a time":   {"--grace", "soon"},
		"several mistakes":   {"--only", "x", "--relay-ports", "y"},
		"host with scheme":   {"--host", "ws://rendezvous.example"},
		"host with port":     {"--host", "rendezvous.example:8080"},
		"any host":           {"--host", "*"},
		"empty host":         {"--host", ""},
		"proxy by name":      {"--trusted-proxy", "caddy"},
		"every proxy":        {"--trusted-proxy", "0.0.0.0/0"},
		"mapped proxy":       {"--trusted-proxy", "::ffff:10.0.0.0/104"},
		"alt IP half wrong":  {"--alt-ip", "192.0.2.1/x"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "", args...)
			p.wantExit(exitUsage)
			if p.stderr.String() == "" {
				t.Error("nothing on stderr")
			}
		})
	}
}

func TestRuntimeErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"port taken":       {"--listen", taken.Addr().String()},
		"admin port taken": {"--admin", taken.Addr().String()},
		"not our address":  {"--turn-listen", "192.0.2.200:3478"},
		"no certificate":   {"--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"},
		"empty secret":     {"--turn-secret-file", empty},
	} {
		t.Run(name, func(t *testing.T) {
			p := startLab(t, "", args...)
			p.wantExit(exitRuntime)
		})
	}
}

// TestNoState: without a home nothing is written into the working directory, and
// what is missing, and how to do without, is said.
func TestNoState(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := createSecret(secret); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		says string // empty: it can do without
	}{
		"neither":       {nil, nil, "no place for the access token and the TURN secret: neither XDG_STATE_HOME nor HOME"},
		"relative":      {map[string]string{"HOME": "home", "XDG_STATE_HOME": "state"}, nil, "--token-file and --turn-secret-file"},
		"open":          {nil, []string{"--open"}, "no place for the TURN secret"},
		"relay":         {nil, []string{"--only", "relay"}, "name files with --turn-secret-file"},
		"a certificate": {nil, []string{"--domain", "a.example", "--token-file", secret, "--turn-secret-file", secret}, "no place for the certificate"},
		"files":         {nil, []string{"--token-file", secret, "--turn-secret-file", secret}, ""},
		"home":          {map[string]string{"HOME": t.TempDir()}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var o options
			f := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.register(f)
			if err := f.Parse(append(tc.args, "--public-ip", "127.0.0.1")); err != nil {
				t.Fatal(err)
			}
			_, err := o.plan(func(k string) string { return tc.env[k] })
			if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, errUsage) || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("error %v, want %q", err, tc.says)
			}
		})
	}
}

// TestNamedFileIsNotMade: a path with a slip in it makes no new secret.
func TestNamedFileIsNotMade(t *testing.T) {
	for _, flag := range []string{"--token-file", "--turn-secret-file"} {
		path := filepath.Join(t.TempDir(), "tokn")
		p := startLab(t, "", flag, path)
		p.wantExit(exitUsage)
		if _, err := os.Stat(path); err == nil || !strings.Contains(p.stderr.String(), flag+" "+path+": there is no such file") {
			t.Errorf("made: %v; stderr:\n%s", err == nil, p.stderr)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	for _, flag := range []string{"--version", "--help"} {
		p := start(t, "", flag)
		p.wantExit(exitOK)
		if out := p.stdout.String(); !strings.Contains(out, "signal") {
			t.Errorf("%s: %q", flag, out)
		}
	}
}

func TestOpenIsLoud(t *testing.T) {
	p := startLab(t, "", "--open")
	url, token := p.url()
	if token != "" {
		t.Errorf("token %q with --open", token)
	}
	if !strings.Contains(p.stderr.String(), "OPEN") {
		t.Errorf("stderr:\n%s", p.stderr)
	}
	meet(t, url, "")
	p.stop()
}

// An address of IPv4 is one of IPv4 alone, and an error says what can be done.
func TestOpenAddress(t *testing.T) {
	d := &deployment{log: slog.New(slog.DiscardHandler)}
	if ln, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this machine has no IPv6 on loopback: ", err)
	} else {
		ln.Close()
	}
	for address, want := range map[string]bool{"0.0.0.0:0": false, ":0": true, "[::]:0": true} {
		ln, err := d.open("signaling", address)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		c, err := net.Dial("tcp", fmt.Sprintf("[::1]:%d", port))
		if (err == nil) != want {
			t.Errorf("%s answers over IPv6: %v", address, err)
		}
		if err == nil {
			c.Close()
		}
		if _, err := d.open("signaling", ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "signaling: listen ") || !strings.Contains(err.Error(), "; choose another port, or end the program that has it") {
			t.Errorf("%s a second time: %v", address, err)
		}
		ln.Close()
	}
}

func TestAdminHost(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1:9000": true, "127.0.0.1": true, "localhost:9000": true, "LOCALHOST": true, "[::1]:9000": true, "[::1]": true,
		"10.0.0.1:9000": true, "evil.example:9000": false, "evil.example": false, "": false, "127.0.0.1.evil.example": false,
	} {
		if got := literalHost(host); got != want {
			t.Errorf("literalHost(%q) = %v", host, got)
		}
	}
}

func TestAdminAddr(t *testing.T) {
	for in, want := range map[string]string{
		"": "", ":9000": "127.0.0.1:9000", "127.0.0.1:9000": "127.0.0.1:9000", "10.0.0.1:9000": "10.0.0.1:9000", "[::1]:9000": "[::1]:9000",
	} {
		if got, err := adminAddr(in); err != nil || got != want {
			t.Errorf("adminAddr(%q) = %q, %v", in, got, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	ip := netip.MustParseAddr
	for name, tc := range map[string]struct {
		plan plan
		want string // a piece of each warning
	}{
		"private":          {plan{publicIP: ip("192.168.1.2")}, "private address"},
		"public and plain": {plan{publicIP: ip("8.8.8.8"), turnURIs: []string{"turn:a"}}, "not encrypted"},
		"public and TLS":   {plan{publicIP: ip("8.8.8.8"), tlsCert: "x", turnURIs: []string{"turn:a"}}, ""},
		"no relay":         {plan{publicIP: ip("8.8.8.8"), tlsCert: "x"}, "no relay"},
		"admin elsewhere":  {plan{publicIP: ip("8.8.8.8"), tlsCert: "x", turnURIs: []string{"turn:a"}, admin: "10.0.0.1:1"}, "counters"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &deployment{plan: &tc.plan, signaling: new(signaling.Server)}
			got := fmt.Sprint(d.warnings())
			if tc.want == "" && got != "[]" || !strings.Contains(got, tc.want) {
				t.Errorf("warnings %s, want %q", got, tc.want)
			}
		})
	}
}
