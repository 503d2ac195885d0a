package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Lab is a network that stands: nodes, lines and NATs, no programs.
type Lab struct {
	Topology Topology

	nodes map[string]*Node
	sites []site
	dir   string
	log   *commandLog
}

// Build makes the nodes, connects them and installs the NATs. Their proof is
// another step (CheckNATs). verbose, which may be nil, gets every command.
func (s *Sandbox) Build(ctx context.Context, t Topology, verbose io.Writer) (*Lab, error) {
	return s.build(ctx, t, verbose, Kind.Rules)
}

// build lets a test put wrong rules in the place of a recipe.
func (s *Sandbox) build(ctx context.Context, t Topology, verbose io.Writer, recipe func(Kind, Router) []Rule) (_ *Lab, err error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.Dir, "lab-")
	if err != nil {
		return nil, err
	}
	l := &Lab{Topology: t, nodes: map[string]*Node{}, sites: t.sites(), dir: dir,
		log: &commandLog{w: verbose, names: map[string]string{}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	env := labEnv(os.Environ())
	for _, name := range t.nodeNames() {
		n, err := newNode(s, name, filepath.Join(dir, name), env, l.log)
		if err != nil {
			return nil, err
		}
		l.nodes[name] = n
		l.log.name(n.path, name)
	}
	if err := l.wire(ctx); err != nil {
		return nil, err
	}
	for _, site := range l.sites {
		router := site.rulesRouter()
		rules := append(site.line.lossRules(router), recipe(site.kind, router)...)
		if err := l.install(ctx, l.nodes[site.router], rules); err != nil {
			return nil, err
		}
		// Now that a rule has brought connection tracking, it can count bytes.
		if err := l.nodes[site.router].Sysctl("net.netfilter.nf_conntrack_acct", "1"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Node returns the node of that name, nil where the topology has none.
func (l *Lab) Node(name string) *Node { return l.nodes[name] }

// Close takes the nodes down. Programs in them have to be gone.
func (l *Lab) Close() error {
	var errs []error
	for _, n := range l.nodes {
		errs = append(errs, n.close())
	}
	clear(l.nodes)
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

func (t Topology) nodeNames() []string {
	names := []string{PeerA, NatA, Core, Signal, Server}
	if !t.SameNAT {
		names = append(names, NatB)
	}
	return append(names, PeerB)
}

// labEnv is the environment of the caller without what leads out of the lab or
// would be shared between nodes.
func labEnv(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		key = strings.ToUpper(key)
		return strings.HasPrefix(key, "P2PAGENT_") || strings.HasPrefix(key, "XDG_") ||
			strings.HasSuffix(key, "_PROXY") || key == "HOME" || key == "XTABLES_LOCKFILE"
	})
}

// wire connects the nodes and sets routes.
func (l *Lab) wire(ctx context.Context) error {
	for _, name := range l.Topology.nodeNames() {
		if err := l.prepare(ctx, l.nodes[name]); err != nil {
			return err
		}
	}
	w := wiring{ctx: ctx, lab: l}
	core := l.nodes[Core]
	for _, s := range l.sites {
		router := l.nodes[s.router]
		w.link(core, "to-"+s.router, router, wanInterface, s.wan)
		for _, dev := range []struct {
			node *Node
			name string
		}{{core, "to-" + s.router}, {router, wanInterface}} {
			for _, cmd := range s.line.commands(dev.name) {
				w.run(dev.node, cmd...)
			}
		}
		w.route(router, "default", s.wan.near)
		if !s.kind.Translated {
			w.route(core, s.lan.near.Masked().String(), s.wan.far[0])
		}
		w.lan(s)
	}
	w.link(core, "to-"+Signal, l.nodes[Signal], hostInterface, signalLink())
	w.route(l.nodes[Signal], "default", signalLink().near)
	w.link(core, "to-"+Server, l.nodes[Server], hostInterface, serverLink())
	w.route(l.nodes[Server], "default", serverLink().near)
	w.run(core, "ip", "route", "add", "blackhole", "default")
	return w.err
}

// prepare sets what has to be set before an interface is there.
func (l *Lab) prepare(ctx context.Context, n *Node) error {
	settings := [][2]string{
		{"net.ipv6.conf.all.disable_ipv6", "1"},
		{"net.ipv6.conf.default.disable_ipv6", "1"},
		{"net.ipv4.conf.all.rp_filter", "1"},
		{"net.ipv4.conf.default.rp_filter", "1"},
	}
	if n.Name == NatA || n.Name == NatB || n.Name == Core {
		settings = append(settings, [2]string{"net.ipv4.ip_forward", "1"})
	}
	for _, kv := range settings {
		if err := n.Sysctl(kv[0], kv[1]); err != nil {
			if strings.Contains(kv[0], "ipv6") && errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6
			}
			return err
		}
	}
	_, err := n.Run(ctx, "ip", "link", "set", "lo", "up")
	return err
}

// wiring runs commands until one fails.
type wiring struct {
	ctx context.Context
	lab *Lab
	err error
}

func (w *wiring) run(n *Node, argv ...string) {
	if w.err == nil {
		_, w.err = n.Run(w.ctx, argv...)
	}
}

// link makes a cable between two nodes and gives both ends their addresses.
func (w *wiring) link(near *Node, nearName string, far *Node, farName string, net link) {
	w.cable(near, nearName, far, farName)
	w.up(near, nearName, net.near)
	w.up(far, farName, net.far...)
}

func (w *wiring) cable(near *Node, nearName string, far *Node, farName string) {
	w.run(near, "ip", "link", "add", nearName, "type", "veth", "peer", "name", farName, "netns", far.path)
}

func (w *wiring) up(n *Node, dev string, addrs ...netip.Prefix) {
	for _, a := range addrs {
		w.run(n, "ip", "addr", "add", a.String(), "dev", dev)
	}
	w.run(n, "ip", "link", "set", dev, "up")
}

func (w *wiring) route(n *Node, dst string, via netip.Prefix) {
	w.run(n, "ip", "route", "add", dst, "via", via.Addr().String())
}

// lan connects the hosts of a site to their router: one by a cable, two by a
// bridge, whose frames are none of iptables' business.
func (w *wiring) lan(s site) {
	router := w.lab.nodes[s.router]
	bridge := len(s.hosts) > 1
	if bridge {
		w.run(router, "ip", "link", "add", lanInterface, "type", "bridge")
		if err := w.sysctl(router, "net.bridge.bridge-nf-call-iptables", "0"); !errors.Is(err, os.ErrNotExist) {
			w.err = err
		}
		w.up(router, lanInterface, s.lan.near)
	}
	for i, name := range s.hosts {
		host := w.lab.nodes[name]
		if bridge {
			w.cable(router, lanPort(name), host, hostInterface)
			w.run(router, "ip", "link", "set", lanPort(name), "master", lanInterface, "up")
		} else {
			w.cable(router, lanInterface, host, hostInterface)
			w.up(router, lanInterface, s.lan.near)
		}
		w.up(host, hostInterface, s.lan.far[i])
		w.route(host, "default", s.lan.near)
		p := localPorts(i)
		w.err = w.sysctl(host, "net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", p.First, p.Last))
	}
}

// sysctl sets a parameter unless something failed before, and returns what did.
func (w *wiring) sysctl(n *Node, key, value string) error {
	if w.err != nil {
		return w.err
	}
	return n.Sysctl(key, value)
}

// lanPort is the bridge port of a host where two share a LAN.
func lanPort(host string) string { return lanInterface + "-" + host }

func (l *Lab) install(ctx context.Context, n *Node, rules []Rule) error {
	for _, r := range rules {
		if _, err := n.Run(ctx, r.Do...); err != nil {
			return err
		}
	}
	return nil
}
