package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/udpsock"
)

// ProbeCommand is the name under which `p2pagent lab` has to offer [Probe], with
// the servers as arguments: the lab runs it in its nodes.
const ProbeCommand = "probe"

// probeReport is a measurement on its way from the node to the lab. The NAT's own
// JSON leaves out whether it translates.
type probeReport struct {
	candidates.NAT
	Translated *bool `json:"translated"`
}

// Probe measures the NAT in front of this process and writes the result to w, for
// the lab that started it in one of its nodes. It has to be a process: the prober
// makes sockets in goroutines of its own.
func Probe(ctx context.Context, servers []netip.AddrPort, w io.Writer) error {
	sock, err := udpsock.Listen(udpsock.Config{Network: "udp4"})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- sock.Serve(ctx, ignore{}) }()
	nat, err := candidates.Probe(ctx, sock, servers)
	sock.Close()
	<-served
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(probeReport{nat, nat.Translated})
}

func (r probeReport) nat() candidates.NAT {
	r.NAT.Translated = r.Translated
	return r.NAT
}

func parseProbe(out string) (candidates.NAT, error) {
	var r probeReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return candidates.NAT{}, fmt.Errorf("prober's report: %w", err)
	}
	return r.nat(), nil
}

// ignore is the handler of a socket on which only answers matter.
type ignore struct{}

func (ignore) HandleData(p *udpsock.Packet)      { p.Release() }
func (ignore) HandleSTUN([]byte, netip.AddrPort) {}
