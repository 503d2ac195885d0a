package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/agent"
	"github.com/p2pagent/p2pagent/internal/cli"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/p2pagent/p2pagent/signaling"
	"github.com/spf13/cobra"
)

const (
	envSignal = "P2PAGENT_SIGNAL"
	envCode   = "P2PAGENT_CODE"
)

// common are the flags of every command that links.
type common struct {
	signal       string
	stun, turn   []string
	turnAuthFile string
	json         bool
	traceFile    string
	relayOnly    bool
	require      string
	udpPort      int
	timeout      time.Duration
	codeFile     string
	codeStdin    bool
	name         string
	color        string
	verbose      bool
	quiet        bool // nothing is told but the error that ends the command
	noMapping    bool
	portable     bool
	loopback     bool
}

func (c *common) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.signal, "signal", os.Getenv(envSignal), "signaling server, ws://HOST:8080#TOKEN; $"+envSignal)
	f.Lookup("signal").DefValue = ""
	f.StringArrayVar(&c.stun, "stun", nil, "STUN server instead of the signaling server's, stun:HOST[:PORT]; repeatable")
	f.StringArrayVar(&c.turn, "turn", nil, "TURN server instead of the signaling server's, turn:HOST[:PORT][?transport=tcp]; repeatable")
	f.StringVar(&c.turnAuthFile, "turn-auth-file", "", "file with USER:PASSWORD for --turn")
	f.BoolVar(&c.json, "json", false, "JSON on stdout")
	f.StringVar(&c.traceFile, "trace", "", "write every event to this file, JSON Lines")
	f.BoolVar(&c.relayOnly, "relay-only", false, "tell nobody this machine's addresses; use the relay")
	f.StringVar(&c.require, "require", "", "\"direct\": payload never touches a relay")
	f.IntVar(&c.udpPort, "udp-port", 0, "local UDP port, for a rule in the router; 0: any")
	f.DurationVar(&c.timeout, "timeout", 0, "give up when there is no link after this time")
	f.BoolVar(&c.noMapping, "no-port-mapping", false, "do not ask the router to map a port (this version never does)")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "more lines on stderr")
	f.StringVar(&c.color, "color", "auto", "auto, always or never; see also $NO_COLOR")
	f.BoolVar(&c.portable, "portable-io", false, "plain UDP I/O, without the kernel's batching")
	f.Lookup("portable-io").Hidden = true
	f.BoolVar(&c.loopback, "loopback", false, "stay on this machine, and believe a peer that says it is here too: for tests")
	f.Lookup("loopback").Hidden = true
	completes(cmd, "require", oneOf("direct"))
	completes(cmd, "color", oneOf("auto", "always", "never"))
}

func (c *common) addCode(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.codeFile, "code-file", "", "read the pairing code from this file")
	cmd.Flags().BoolVar(&c.codeStdin, "code-stdin", false, "read the pairing code from standard input")
	cmd.Flags().StringVar(&c.name, "name", hostname(), "what this machine is called when pairing")
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil || identity.ValidateName(name) != nil {
		return "p2pagent"
	}
	return name
}

// a setup is what a command works with, and what must be closed after it.
type setup struct {
	cfg    agent.Config
	tell   *teller
	linked linked
	events trace.Sink // stdout, with --json; else nil
	close  func() error
}

// linked remembers that there has been a session.
type linked struct{ atomic.Bool }

func (l *linked) Record(r trace.Record) {
	if e, ok := r.Event.(trace.SessionState); ok && e.State == "up" {
		l.Store(true)
	}
}

// configDir is where the key and the peers are: $XDG_CONFIG_HOME/p2pagent, or
// what the system has instead.
func configDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place for the key: %w", err)
	}
	return filepath.Join(dir, "p2pagent"), nil
}

func openStore() (*identity.Store, error) {
	dir, err := configDir()
	if err != nil {
		return nil, err
	}
	return identity.OpenStore(filepath.Join(dir, "peers.json"))
}

// check is for what is wrong with the flags whatever the command.
func (c *common) check() error {
	switch {
	case c.require != "" && c.require != "direct":
		return usageError{fmt.Errorf("--require %q: only \"direct\" can be required", c.require)}
	case c.timeout < 0:
		return usageError{fmt.Errorf("--timeout %s is negative", units.Duration(c.timeout))}
	case c.relayOnly && c.require == "direct":
		return usageError{errors.New("--relay-only and --require direct exclude each other")}
	case c.udpPort < 0 || c.udpPort > 65535:
		return usageError{fmt.Errorf("--udp-port %d: a port is 0 to 65535", c.udpPort)}
	}
	return nil
}

// openTrace makes the file of --trace.
func (c *common) openTrace() (*trace.File, error) {
	f, err := os.OpenFile(c.traceFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--trace: %w", err)
	}
	return trace.NewFile(f), nil
}

// warnOfPlaintext says when the access token is about to cross a public network.
func (c *common) warnOfPlaintext(w io.Writer) {
	if address, _, err := signaling.ParseURL(c.signal); err == nil {
		if warning := signaling.PlaintextWarning(address); warning != "" {
			fmt.Fprintln(w, "warning: "+warning)
		}
	}
}

// prepare checks the flags and makes the agent's configuration.
func (c *common) prepare(cmd *cobra.Command) (*setup, error) {
	s := &setup{close: func() error { return nil }}
	cfg := &s.cfg
	if err := c.check(); err != nil {
		return nil, err
	}
	cfg.Name, cfg.SignalURL, cfg.RelayOnly, cfg.RequireDirect = c.name, c.signal, c.relayOnly, c.require == "direct"
	cfg.StateDir = cli.StateDir(os.Getenv)
	cfg.UDPPort, cfg.Portable, cfg.Loopback, cfg.Version = c.udpPort, c.portable, c.loopback, version()
	if c.signal == "" {
		return nil, usageError{fmt.Errorf("no signaling server; start one with `signal` and paste the line it prints, or give --signal URL")}
	}
	if _, _, err := signaling.ParseURL(c.signal); err != nil {
		return nil, usageError{err}
	}
	var err error
	if cfg.STUN, err = parseURIs("--stun", c.stun, "stun"); err != nil {
		return nil, err
	}
	if cfg.TURN, err = parseURIs("--turn", c.turn, "turn", "turns"); err != nil {
		return nil, err
	}
	if c.turnAuthFile != "" {
		if cfg.TURNUser, cfg.TURNPass, err = readTURNAuth(c.turnAuthFile); err != nil {
			return nil, err
		}
	}
	dir, err := configDir()
	if err != nil {
		return nil, err
	}
	if cfg.Key, err = identity.LoadOrCreateKey(filepath.Join(dir, "key.pem")); err != nil {
		return nil, err
	}
	if cfg.Peers, err = openStore(); err != nil {
		return nil, err
	}
	s.tell, err = newTeller(cmd.ErrOrStderr(), c.verbose, c.color)
	if err != nil {
		return nil, err
	}
	if c.quiet {
		s.tell.mute = func(trace.Record) bool { return true }
	} else {
		c.warnOfPlaintext(cmd.ErrOrStderr())
	}
	sinks := []trace.Sink{&s.linked, s.tell} // in this order: who has read of a session interrupts one that is known
	if c.json {
		s.events = &jsonLines{w: cmd.OutOrStdout()}
		sinks = append(sinks, s.events)
	}
	if c.traceFile != "" {
		file, err := c.openTrace()
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, file)
		s.close = file.Close
	}
	cfg.Trace = trace.New(c.name, sinks...)
	cfg.Trace.Emit(trace.ProcessStarted{Version: cfg.Version, Command: cmd.CommandPath()})
	return s, nil
}

// finish closes what prepare opened, whatever err is.
func (s *setup) finish(err *error) {
	if e := s.close(); e != nil && *err == nil {
		*err = e
	}
}

func parseURIs(flag string, texts []string, schemes ...string) ([]candidates.URI, error) {
	var out []candidates.URI
	for _, t := range texts {
		u, err := candidates.ParseURI(t)
		if err == nil && !contains(schemes, u.Scheme) {
			err = fmt.Errorf("%q is not a %s server", t, schemes[0])
		}
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", flag, err)}
		}
		out = append(out, u)
	}
	return out, nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func readTURNAuth(name string) (user, pass string, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", "", fmt.Errorf("--turn-auth-file: %w", err)
	}
	line := strings.TrimRight(string(b), "\r\n")
	// A REST user name has a colon in it, a password of that form has none:
	// cut at the last one.
	cut := strings.LastIndexByte(line, ':')
	if cut < 1 || strings.ContainsAny(line, "\r\n") {
		return "", "", usageError{fmt.Errorf("--turn-auth-file %s: want one line, USER:PASSWORD", name)}
	}
	return line[:cut], line[cut+1:], nil
}

// readCode finds a pairing code where the user put it: flags first, then the
// environment. found is false when there is none anywhere.
func (c *common) readCode(ctx context.Context, cmd *cobra.Command) (code identity.Code, found bool, err error) {
	var text, from string
	switch {
	case c.codeFile != "" && c.codeStdin:
		return code, false, usageError{errors.New("--code-file and --code-stdin exclude each other")}
	case c.codeFile != "":
		from = "--code-file " + c.codeFile
		text, err = interruptible(ctx, func() (string, error) {
			b, err := os.ReadFile(c.codeFile)
			return string(b), err
		})
		if err != nil {
			return code, false, fmt.Errorf("--code-file: %w", err)
		}
	case c.codeStdin:
		from = "--code-stdin"
		if isTerminal(cmd.InOrStdin()) {
			fmt.Fprint(cmd.ErrOrStderr(), "pairing code: ")
		}
		text, err = interruptible(ctx, func() (string, error) {
			return bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 1<<10)).ReadString('\n')
		})
		if err != nil && err != io.EOF {
			return code, false, fmt.Errorf("--code-stdin: %w", err)
		}
	case os.Getenv(envCode) != "":
		text, from = os.Getenv(envCode), "$"+envCode
	default:
		return code, false, nil
	}
	code, err = identity.ParseCode(strings.TrimSpace(text))
	if err != nil {
		return code, false, fmt.Errorf("%s: %w", from, err)
	}
	return code, true, nil
}

// interruptible is a read that may wait for a person, or for another program. Such a
// read cannot be ended: when ctx ends it is left alone, and ends with the process.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// jsonLines writes records to stdout, one object a line.
type jsonLines struct {
	mu sync.Mutex
	w  io.Writer
}

func (j *jsonLines) Record(r trace.Record) { j.write(r) }

func (j *jsonLines) write(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return // events are of our own making, and tested to marshal
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.w.Write(append(b, '\n'))
}
