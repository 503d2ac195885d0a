package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/trouble"
	"github.com/p2pagent/p2pagent/relay"
	"github.com/p2pagent/p2pagent/signaling"
)

// credentialTTL is how long a minted credential can allocate. An allocation
// outlives it; an agent asks for a new one with every meeting.
const credentialTTL = 10 * time.Minute

// A deployment is what runs: one half or both, and the admin listener.
type deployment struct {
	plan  *plan
	log   *slog.Logger
	token string
	host  string // for URLs over TLS

	relay     *relay.Server     // nil: not served
	signaling *signaling.Server // nil: not served
	web       *http.Server
	webLn     net.Listener
	admin     *http.Server // nil: not served
	adminLn   net.Listener
}

// serve runs a plan until a signal ends it.
func serve(p *plan, env environment) error {
	level := slog.LevelInfo
	if p.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(env.stderr, &slog.HandlerOptions{Level: level}))
	d, err := newDeployment(p, log)
	if err != nil {
		return err
	}
	for _, w := range d.warnings() {
		log.Warn(w)
	}
	for _, line := range d.announcement() {
		log.Info(line)
	}
	if d.signaling != nil {
		if _, err := fmt.Fprintf(env.stdout, "export P2PAGENT_SIGNAL=%s\n", d.url()); err != nil {
			d.close()
			return fmt.Errorf("print the line for the peers: %w", err)
		}
	}
	return d.run(env)
}

// newDeployment opens everything, or nothing.
func newDeployment(p *plan, log *slog.Logger) (_ *deployment, err error) {
	d := &deployment{plan: p, log: log}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	secrets, err := d.secrets("--turn-secret-file", p.turnSecretFile, "turn-secret", "TURN secret")
	if err != nil {
		return nil, err
	}
	tlsConfig, host, err := p.serverTLS()
	if err != nil {
		return nil, err
	}
	d.host = host
	if p.relay {
		if err := d.openRelay(secrets, tlsConfig); err != nil {
			return nil, err
		}
	}
	if p.signaling {
		if err := d.openSignaling(secrets[0], tlsConfig); err != nil {
			return nil, err
		}
	}
	if p.admin != "" {
		if d.adminLn, err = d.open("admin", p.admin); err != nil {
			return nil, err
		}
		d.admin = d.adminServer()
	}
	return d, nil
}

// open listens for an http.Server, which by itself ends at the first error of Accept
// that is not about file descriptors.
func (d *deployment) open(part, address string) (net.Listener, error) {
	network := "tcp"
	at, err := netip.ParseAddrPort(address)
	if err == nil && at.Addr().Is4() {
		network = "tcp4" // "tcp" takes 0.0.0.0 for every address of IPv6 too
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		err = fmt.Errorf("%s: %w", part, err)
		_, port, _ := net.SplitHostPort(address)
		n, _ := net.LookupPort("tcp", port)
		if advice := cli.ListenAdvice(err, n); advice != "" {
			err = fmt.Errorf("%w; %s", err, advice)
		}
		return nil, err
	}
	return trouble.Listener(ln, func(why string) {
		if why == "" {
			d.log.Info("accepting again", "listener", part)
			return
		}
		d.log.Warn("accept failed, trying again", "listener", part, "err", why)
	}), nil
}

// secrets reads the secrets in the file that a flag names, or else in the one of
// the state directory, which is made where there is none. A file that was named
// has to be there: with a new secret in place of the one that was meant, the
// server would start and refuse everybody.
func (d *deployment) secrets(flag, named, unnamed, what string) ([][]byte, error) {
	path := cmp.Or(named, filepath.Join(d.plan.stateDir, unnamed))
	if _, err := os.Stat(path); named != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, usageError(fmt.Errorf("%s %s: there is no such file; if it is to be a new one, make it: (umask 077; head -c 24 /dev/urandom | base64 > FILE)", flag, named))
	}
	secrets, made, err := secretLines(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if made {
		d.log.Info("made a new "+what, "file", path)
	}
	if readable(path) {
		d.log.Warn("others on this machine can read the "+what, "file", path)
	}
	return secrets, nil
}

func (d *deployment) openRelay(secrets [][]byte, tlsConfig *tls.Config) error {
	p := d.plan
	s, err := relay.NewServer(relay.ServerConfig{
		PublicIP: p.publicIP, LocalIP: p.localIP, AltIP: p.altIP, AltLocalIP: p.altLocalIP,
		Port: p.turnPort, TLS: tlsConfig, TLSPort: p.turnsPort,
		Realm: p.realm, Secrets: secrets, PortMin: p.portMin, PortMax: p.portMax,
		Allow: p.allow, Limits: relay.Limits{SessionRate: p.relayRate}, Log: d.log.With("part", "relay"),
	})
	if err != nil {
		return err
	}
	d.relay = s
	return nil
}

func (d *deployment) openSignaling(secret []byte, tlsConfig *tls.Config) error {
	p := d.plan
	if !p.open {
		tokens, err := d.secrets("--token-file", p.tokenFile, "signal-token", "access token")
		if err != nil {
			return err
		}
		d.token = string(tokens[0])
	}
	stun, turn := d.uris()
	hosts := p.hosts
	if hosts != nil && d.host != "" {
		hosts = append(hosts, d.host)
	}
	cfg := signaling.ServerConfig{
		Token: d.token, STUN: stun, TURN: turn, Hosts: hosts, TrustedProxies: p.proxies,
		Software: "signal", Log: d.log.With("part", "signaling"),
	}
	if len(turn) > 0 {
		cfg.Mint = func(user string, now time.Time) signaling.Credentials {
			name, password := relay.Mint(secret, user, credentialTTL, now)
			return signaling.Credentials{Username: name, Password: password, TTL: credentialTTL, URIs: turn, STUN: stun}
		}
	}
	s, err := signaling.NewServer(cfg)
	if err != nil {
		return err
	}
	ln, err := d.open("signaling", p.listen)
	if err != nil {
		return err
	}
	ln = s.Listener(ln)
	if tlsConfig != nil {
		ln = tls.NewListener(ln, tlsConfig)
	}
	d.signaling, d.web, d.webLn = s, s.HTTPServer(), ln
	return nil
}

// uris are what agents are told: our own servers, and those named by flags.
func (d *deployment) uris() (stun, turn []string) {
	stun, turn = d.plan.stunURIs, d.plan.turnURIs
	if d.relay == nil {
		return stun, turn
	}
	var ownSTUN, ownTURN []string
	for _, a := range d.relay.STUNAddrs() {
		ownSTUN = append(ownSTUN, "stun:"+a.String())
	}
	ownTURN = append(ownTURN, "turn:"+d.relay.UDPAddr().String()+"?transport=udp")
	if a := d.relay.StreamAddr("tcp"); a.IsValid() {
		ownTURN = append(ownTURN, "turn:"+a.String()+"?transport=tcp")
	}
	if a := d.relay.StreamAddr("tls"); a.IsValid() {
		ownTURN = append(ownTURN, "turns:"+net.JoinHostPort(d.host, strconv.Itoa(int(a.Port())))+"?transport=tcp")
	}
	return append(ownSTUN, stun...), append(ownTURN, turn...)
}

// url is what peers set P2PAGENT_SIGNAL to.
func (d *deployment) url() string {
	addr := d.webLn.Addr().(*net.TCPAddr).AddrPort()
	bound, public := addr.Addr().Unmap(), d.plan.publicIP
	if !bound.IsUnspecified() && bound != d.plan.localIP {
		public = bound // listening somewhere else on purpose
	}
	scheme, host := "ws", public.String()
	if d.plan.secure() {
		scheme, host = "wss", d.host
	}
	u := scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(addr.Port())))
	if d.token != "" {
		u += "#" + d.token
	}
	return u
}

// warnings are what an operator should know and may not have meant.
func (d *deployment) warnings() (w []string) {
	p := d.plan
	public := p.publicIP.IsGlobalUnicast() && !p.publicIP.IsPrivate()
	if !public {
		w = append(w, fmt.Sprintf("%s is a private address: only peers in the same network reach it; --public-ip names another", p.publicIP))
	}
	if d.signaling != nil && public && !p.secure() {
		w = append(w, "signaling is not encrypted: who listens on the way sees the access token and when peers meet, not what they send; --domain or --tls-cert mends that")
	}
	if p.open {
		w = append(w, "OPEN: anybody who reaches this server may use it, and its relay as well")
	}
	for _, a := range p.allow {
		w = append(w, fmt.Sprintf("ALLOWED: clients may relay to %v, which is denied otherwise; what listens there is reachable for every client", a))
	}
	if d.signaling != nil {
		if _, turn := d.uris(); len(turn) == 0 {
			w = append(w, "no relay: peers that find no direct path will not connect; --turn-uri names one")
		}
	}
	if host, _, err := net.SplitHostPort(p.admin); err == nil {
		if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
			w = append(w, fmt.Sprintf("counters are shown to whoever reaches %s", p.admin))
		}
	}
	return w
}

// announcement says what is served.
func (d *deployment) announcement() (lines []string) {
	stun, turn := d.uris()
	for _, u := range append(stun, turn...) {
		lines = append(lines, "serving "+u)
	}
	if d.webLn != nil {
		lines = append(lines, "serving signaling on "+d.webLn.Addr().String())
	}
	if d.adminLn != nil {
		lines = append(lines, "serving http://"+d.adminLn.Addr().String()+"/stats")
	}
	return lines
}

// run serves until a signal, drains, and ends. Whatever fails ends the rest.
func (d *deployment) run(env environment) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	if d.relay != nil {
		group.Go(func() error { return d.relay.Serve(ctx) })
	}
	if d.signaling != nil {
		group.Go(func() error { return serveHTTP(d.web, d.webLn) })
	}
	if d.admin != nil {
		group.Go(func() error { return serveHTTP(d.admin, d.adminLn) })
	}
	group.Go(func() error {
		select {
		case s := <-env.signals:
			d.log.Info("draining, a second signal ends at once", "signal", s.String(), "grace", d.plan.grace)
			d.drain(ctx, env)
		case <-ctx.Done():
		}
		cancel()
		d.close()
		return nil
	})
	return group.Wait()
}

// drain stops accepting at once, then lets agents leave and allocations end,
// for as long as the grace and the user's patience last.
func (d *deployment) drain(ctx context.Context, env environment) {
	ctx, cancel := context.WithTimeout(ctx, d.plan.grace)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var group errgroup.Group
		if d.signaling != nil {
			d.webLn.Close()
			group.Go(func() error { return d.signaling.Drain(ctx) })
		}
		if d.relay != nil {
			group.Go(func() error { return d.relay.Drain(ctx) })
		}
		if err := group.Wait(); err != nil {
			d.log.Warn("not all was over in time", "err", err)
		}
	}()
	select {
	case <-done:
	case s := <-env.signals:
		d.log.Info("ending at once", "signal", s.String())
		cancel()
		<-done
	}
}

// close ends what drain has left, in this order: no new signaling, then the
// relay (which ends with its context when it is served), last the counters,
// which are of use until the end.
func (d *deployment) close() {
	if d.webLn != nil {
		d.webLn.Close()
		d.web.Close()
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		d.signaling.Drain(ended) // WebSockets, which http.Server does not know
	}
	if d.relay != nil {
		d.relay.Close()
	}
	if d.adminLn != nil {
		d.adminLn.Close()
		d.admin.Close()
	}
}

// serveHTTP serves until the listener is closed.
func serveHTTP(s *http.Server, ln net.Listener) error {
	err := s.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}
