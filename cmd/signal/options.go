package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/p2pagent/p2pagent/relay"
)

// options are the flags as they were given.
type options struct {
	listen, turnListen, turnsListen string
	publicIP, altIP, realm          string
	tlsCert, tlsKey, domain         string
	turnSecretFile, tokenFile       string
	relayPorts, relayRate           string
	allowPeers                      []string
	turnURIs, stunURIs              []string
	hosts, trustedProxies           []string
	open                            bool
	only, admin                     string
	grace                           time.Duration
	verbose                         bool
}

func (o *options) register(f *pflag.FlagSet) {
	f.StringVar(&o.listen, "listen", "", "`address` of the WebSocket (default :8080, with --domain :443)")
	f.StringVar(&o.turnListen, "turn-listen", ":3478", "`address` of STUN and TURN, UDP and TCP; the second STUN port is the next one")
	f.StringVar(&o.turnsListen, "turns-listen", ":5349", "`address` of TURN over TLS, served when there is a certificate")
	f.StringVar(&o.publicIP, "public-ip", "", "`IP` that peers reach this machine at (default: address of the default route)")
	f.StringVar(&o.altIP, "alt-ip", "", "second public `IP`, lets peers measure their NAT in full (RFC 5780)")
	f.StringVar(&o.realm, "realm", "p2pagent", "TURN `realm`")
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate `file` (PEM): serves wss and turns")
	f.StringVar(&o.tlsKey, "tls-key", "", "key `file` of the certificate (PEM)")
	f.StringVar(&o.domain, "domain", "", "`name` of this machine: gets a certificate by ACME, and accepts the terms of Let's Encrypt")
	f.StringVar(&o.turnSecretFile, "turn-secret-file", "", "`file` that has the TURN secrets, one a line, the first one mints (default: one in the state directory, made if need be)")
	f.StringVar(&o.tokenFile, "token-file", "", "`file` that has the access token (default: one in the state directory, made if need be)")
	f.StringVar(&o.relayPorts, "relay-ports", "49152-65535", "`range` of relayed UDP ports")
	f.StringVar(&o.relayRate, "relay-rate", "", "most `bits` per second, such as 10M, that one seat of a mailbox may relay in each direction (default: no limit)")
	f.StringArrayVar(&o.allowPeers, "allow-peer", nil, "let clients relay to this denied `CIDR`; repeatable")
	f.StringArrayVar(&o.turnURIs, "turn-uri", nil, "TURN `URI` to announce beside our own, or instead with --only signaling; repeatable")
	f.StringArrayVar(&o.stunURIs, "stun-uri", nil, "STUN `URI`, likewise; repeatable")
	f.StringArrayVar(&o.hosts, "host", nil, "answer under this `name` only, besides IP addresses and the name of the certificate; repeatable (default: under any)")
	f.StringArrayVar(&o.trustedProxies, "trusted-proxy", nil, "believe proxies in this `CIDR` for whom they speak (X-Forwarded-For, PROXY protocol); repeatable")
	f.BoolVar(&o.open, "open", false, "let anybody in, without a token")
	f.StringVar(&o.only, "only", "", "serve one half: `signaling|relay`")
	f.StringVar(&o.admin, "admin", "", "`address` for counters as JSON at /stats and /events; without a host on loopback")
	f.DurationVar(&o.grace, "grace", 10*time.Second, "how long relayed sessions have to end after SIGTERM")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say more on stderr")
}

// A plan is what is to be served, every address decided.
type plan struct {
	signaling, relay bool

	listen     string // of the WebSocket
	admin      string // empty: none
	publicIP   netip.Addr
	localIP    netip.Addr // bound for it
	altIP      netip.Addr
	altLocalIP netip.Addr
	turnPort   uint16
	turnsPort  uint16
	realm      string
	portMin    uint16
	portMax    uint16
	relayRate  int64 // bits per second; 0: no limit
	allow      []netip.Prefix
	turnURIs   []string
	stunURIs   []string
	hosts      []string       // nil: any
	proxies    []netip.Prefix // that are trusted

	tlsCert, tlsKey, domain string
	stateDir                string // empty: there is none
	tokenFile               string // empty: the default one
	turnSecretFile          string // empty: the default one
	open                    bool
	grace                   time.Duration
	verbose                 bool
}

func (p *plan) secure() bool { return p.tlsCert != "" || p.domain != "" }

// plan checks the flags and finds out what they leave open. Errors are the
// user's to mend, and all of them are told at once.
func (o *options) plan(getenv func(string) string) (*plan, error) {
	p := &plan{
		signaling: o.only != "relay", relay: o.only != "signaling",
		listen: o.listen, realm: o.realm, domain: o.domain, tlsCert: o.tlsCert, tlsKey: o.tlsKey,
		turnURIs: o.turnURIs, stunURIs: o.stunURIs,
		stateDir: cli.StateDir(getenv), tokenFile: o.tokenFile, turnSecretFile: o.turnSecretFile,
		open: o.open, grace: o.grace, verbose: o.verbose,
	}
	var errs []error
	check := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if o.only != "" && o.only != "signaling" && o.only != "relay" {
		check(fmt.Errorf("--only %q: signaling or relay", o.only))
	}
	if (o.tlsCert == "") != (o.tlsKey == "") {
		check(errors.New("--tls-cert and --tls-key go together"))
	}
	if o.domain != "" && o.tlsCert != "" {
		check(errors.New("--domain and --tls-cert: one or the other"))
	}
	if o.domain != "" && o.only == "relay" {
		check(errors.New("--domain needs the WebSocket's port to prove the name; with --only relay give --tls-cert"))
	}
	if o.domain != "" {
		check(checkDomain(o.domain))
	}
	if o.open && o.tokenFile != "" {
		check(errors.New("--open and --token-file: one or the other"))
	}
	if p.stateDir == "" {
		check(p.needsState())
	}
	if o.grace < 0 {
		check(fmt.Errorf("--grace %s: negative", units.Duration(o.grace)))
	}
	if p.listen == "" {
		p.listen = ":8080"
		if o.domain != "" {
			p.listen = ":443"
		}
	}
	_, err := splitPort("--listen", p.listen)
	check(err)
	p.admin, err = adminAddr(o.admin)
	check(err)
	p.portMin, p.portMax, err = parsePorts(o.relayPorts)
	check(err)
	p.relayRate, err = parseRate("--relay-rate", o.relayRate)
	check(err)
	for _, s := range o.allowPeers {
		prefix, err := relay.ParseAllow(s)
		if err != nil {
			check(fmt.Errorf("--allow-peer: %w", err))
			continue
		}
		p.allow = append(p.allow, prefix)
	}
	check(checkURIs("--turn-uri", o.turnURIs, "turn:", "turns:"))
	check(checkURIs("--stun-uri", o.stunURIs, "stun:", "stuns:"))
	for _, s := range o.hosts {
		host, err := parseHost(s)
		check(err)
		p.hosts = append(p.hosts, host)
	}
	for _, s := range o.trustedProxies {
		prefix, err := parseProxies(s)
		check(err)
		p.proxies = append(p.proxies, prefix)
	}
	check(p.addresses(o))
	if len(errs) > 0 {
		return nil, usageError(errors.Join(errs...))
	}
	return p, nil
}

// addresses decides which address is bound and which one is told.
func (p *plan) addresses(o *options) error {
	local, err := splitPort("--turn-listen", o.turnListen)
	if err != nil {
		return err
	}
	p.turnPort, p.localIP = local.Port(), local.Addr()
	turns, err := splitPort("--turns-listen", o.turnsListen)
	if err != nil {
		return err
	}
	p.turnsPort = turns.Port()

	if o.publicIP == "" {
		if p.publicIP = p.localIP; !p.publicIP.IsValid() {
			p.publicIP, err = relay.DefaultRouteAddr()
		}
		if err != nil {
			return fmt.Errorf("%w; say which address peers reach with --public-ip", err)
		}
	} else if p.publicIP, err = parseIPv4("--public-ip", o.publicIP); err != nil {
		return err
	}
	if !p.localIP.IsValid() {
		if p.localIP, err = relay.LocalFor(p.publicIP); err != nil {
			return fmt.Errorf("%w; say which address to bind with --turn-listen", err)
		}
	}
	if o.altIP == "" {
		return nil
	}
	// PUBLIC/LOCAL, for two addresses that a NAT maps one to one.
	public, bound, both := strings.Cut(o.altIP, "/")
	if p.altIP, err = parseIPv4("--alt-ip", public); err != nil {
		return err
	}
	p.altLocalIP = p.altIP
	if both {
		p.altLocalIP, err = parseIPv4("--alt-ip", bound)
	}
	return err
}

func parseIPv4(flag, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}, fmt.Errorf("%s %q: not an IPv4 address", flag, s)
	}
	return a, nil
}

// splitPort reads [IP]:PORT. The address is invalid where there is none, or
// the one that means all.
func splitPort(flag, s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want [IP]:PORT", flag, s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s %q: port %q", flag, s, port)
	}
	var ip netip.Addr
	if host != "" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%s %q: %q is not an IP address", flag, s, host)
		}
		if ip.IsUnspecified() {
			ip = netip.Addr{}
		}
	}
	return netip.AddrPortFrom(ip, uint16(n)), nil
}

// adminAddr puts loopback where no host is given.
func adminAddr(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	a, err := splitPort("--admin", s)
	if err != nil {
		return "", err
	}
	if !a.Addr().IsValid() {
		if !strings.HasPrefix(s, ":") {
			return "", fmt.Errorf("--admin %q: would show the counters on every network; name one address", s)
		}
		return "127.0.0.1" + s, nil
	}
	return a.String(), nil
}

func parsePorts(s string) (lo, hi uint16, err error) {
	first, last, ok := strings.Cut(s, "-")
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if !ok || err1 != nil || err2 != nil || a < 1024 || a > b {
		return 0, 0, fmt.Errorf("--relay-ports %q: want FIRST-LAST, from 1024 to 65535", s)
	}
	return uint16(a), uint16(b), nil
}

// parseRate reads bits per second: a number, and k, M or G.
func parseRate(flag, s string) (int64, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	const least, most = 64e3, 1e12 // less would not carry one full packet in time
	v, err := cli.ParseRate(s)
	if err != nil || v < least || v > most {
		return 0, fmt.Errorf("%s %q: want bits per second, from 64k to 1000G, such as 10M", flag, s)
	}
	return int64(v), nil
}

// parseHost reads a host name, or an IP address.
func parseHost(s string) (string, error) {
	name := strings.TrimSuffix(s, ".")
	if _, err := netip.ParseAddr(name); err != nil && !isHostName(name) {
		return "", fmt.Errorf("--host %q: want the name alone, such as rendezvous.example.org", s)
	}
	return name, nil
}

// checkDomain wants what a certificate can be had for.
func checkDomain(s string) error {
	switch _, err := netip.ParseAddr(strings.Trim(s, "[]")); {
	case err == nil:
		return fmt.Errorf("--domain %s: an address, and certificates are for names; point a name at it and give that, or leave the flag out for ws://, or bring a certificate with --tls-cert", s)
	case !isHostName(s) || !strings.Contains(strings.Trim(s, "."), "."):
		return fmt.Errorf("--domain %q: want a full name that points at this machine, such as rendezvous.example.org", s)
	}
	return nil
}

func isHostName(s string) bool { return s != "" && !strings.ContainsAny(s, ":/*@[]?# ") }

// parseProxies reads the addresses of proxies: a prefix, or one address.
func parseProxies(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, aErr := netip.ParseAddr(s); aErr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("--trusted-proxy %q: want an address or a CIDR, such as 127.0.0.1 or 10.0.0.0/8", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("--trusted-proxy %s: write it as an IPv4 CIDR", s)
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("--trusted-proxy %s: would let everybody make up an address; name your proxies only", s)
	}
	return p.Masked(), nil
}

func checkURIs(flag string, uris []string, schemes ...string) error {
	for _, u := range uris {
		ok := false
		for _, scheme := range schemes {
			rest, found := strings.CutPrefix(u, scheme)
			ok = ok || found && rest != "" && !strings.HasPrefix(rest, "//")
		}
		if !ok {
			return fmt.Errorf("%s %q: want %sHOST:PORT", flag, u, schemes[0])
		}
	}
	return nil
}

// needsState says for what the state directory is missing, if for anything.
func (p *plan) needsState() error {
	var what, flags []string
	if p.signaling && !p.open && p.tokenFile == "" {
		what, flags = append(what, "the access token"), append(flags, "--token-file")
	}
	if p.turnSecretFile == "" {
		what, flags = append(what, "the TURN secret"), append(flags, "--turn-secret-file")
	}
	advice := "set XDG_STATE_HOME to a directory that stays"
	if len(flags) > 0 {
		advice += ", or name files with " + strings.Join(flags, " and ")
	}
	if p.domain != "" {
		what, advice = append(what, "the certificate"), "set XDG_STATE_HOME to a directory that stays"
	}
	if len(what) == 0 {
		return nil
	}
	return fmt.Errorf("no place for %s: neither XDG_STATE_HOME nor HOME is an absolute path; %s", strings.Join(what, " and "), advice)
}
