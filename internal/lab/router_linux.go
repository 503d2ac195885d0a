package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// BeRouter makes this machine a router of the kind until ctx ends, and then what it
// was before. ready is called when the rules stand.
func BeRouter(ctx context.Context, c RouterConfig, ready func(Router)) (err error) {
	if !hasCapability(unix.CAP_NET_ADMIN) {
		return errors.New("a router needs CAP_NET_ADMIN: run it as root, in a container with --cap-add NET_ADMIN")
	}
	needed := map[string]string{"iptables": "iptables"}
	if remembers(c.Kind) {
		needed["nft"] = "nftables"
	}
	if err := missingTools(needed, exec.LookPath); err != nil {
		return err
	}
	all, err := attachments()
	if err != nil {
		return err
	}
	r, err := c.router(all)
	if err != nil {
		return err
	}
	here := machine{&commandLog{w: c.Verbose}}
	if err := here.noForeignRules(ctx); err != nil {
		return err
	}
	if err := here.forwarding(); err != nil {
		return err
	}
	var done []Rule
	defer func() {
		err = errors.Join(err, here.undo(context.WithoutCancel(ctx), done))
	}()
	for _, rule := range c.Kind.Rules(r) {
		// A command that is killed may have done its work or not.
		if err := here.run(context.WithoutCancel(ctx), rule.Do); err != nil {
			return err
		}
		done = append(done, rule)
	}
	ready(r)
	<-ctx.Done()
	return nil
}

// machine is the one this process runs on.
type machine struct{ log *commandLog }

func (m machine) run(ctx context.Context, argv []string) error {
	m.log.print("", argv)
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", commandLine(argv), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// undo takes back in reverse order what was done.
func (m machine) undo(ctx context.Context, done []Rule) error {
	var errs []error
	for _, rule := range slices.Backward(done) {
		if rule.Undo != nil {
			errs = append(errs, m.run(ctx, rule.Undo))
		}
	}
	return errors.Join(errs...)
}

// noForeignRules makes sure that our rules decide, and that nobody loses theirs.
func (m machine) noForeignRules(ctx context.Context) error {
	for _, c := range [][2]string{{"filter", "INPUT"}, {"filter", "FORWARD"}, {"nat", "PREROUTING"}} {
		argv := []string{"iptables", "-w", "-t", c[0], "-S", c[1]}
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		if err != nil {
			return fmt.Errorf("%s: %w", commandLine(argv), err)
		}
		if foreign := foreignRules(string(out)); foreign != nil {
			return fmt.Errorf("this machine filters already (%s: %w): be a router in a fresh container, or flush that chain first: iptables -t %s -F %s",
				c[1], foreign, c[0], c[1])
		}
	}
	return nil
}

// forwarding switches routing on. Containers may be forbidden to; then somebody
// has to have done it for them.
func (m machine) forwarding() error {
	const key = "net.ipv4.ip_forward"
	now, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil || strings.TrimSpace(string(now)) == "1" {
		return err
	}
	m.log.print("", []string{"sysctl", "-w", key + "=1"})
	if err := setSysctl(key, "1"); err != nil {
		return fmt.Errorf("switch on routing: %w: start the container with --sysctl %s=1", err, key)
	}
	return nil
}

// attachments lists the interfaces of this machine.
func attachments() ([]attachment, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []attachment
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		a := attachment{name: i.Name}
		for _, addr := range addrs {
			if p, err := netip.ParsePrefix(addr.String()); err == nil {
				a.addrs = append(a.addrs, p)
			}
		}
		out = append(out, a)
	}
	return out, nil
}
