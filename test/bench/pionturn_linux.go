package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/pion/logging"
	"github.com/pion/turn/v3"
)

// pionTURN is the server of pion/turn with nothing added: a socket, an address,
// and REST credentials.
func pionTURN(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("pion-turn", flag.ContinueOnError)
	ip := flags.String("ip", "", "`address` to serve and relay at")
	secretFile := flags.String("secret-file", "", "`file` with the secret for REST credentials")
	if err := flags.Parse(args); err != nil {
		return err
	}
	addr := net.ParseIP(*ip)
	if addr == nil {
		return fmt.Errorf("-ip %q: not an address", *ip)
	}
	secret, err := os.ReadFile(*secretFile)
	if err != nil {
		return fmt.Errorf("-secret-file: %w", err)
	}
	conn, err := net.ListenPacket("udp4", net.JoinHostPort(*ip, turnPort))
	if err != nil {
		return err
	}
	server, err := newPionTURN(conn, addr, string(secret))
	if err != nil {
		conn.Close()
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", conn.LocalAddr())
	<-ctx.Done()
	return server.Close()
}

// newPionTURN serves on conn, and relays at ip.
func newPionTURN(conn net.PacketConn, ip net.IP, secret string) (*turn.Server, error) {
	log := logging.NewDefaultLoggerFactory()
	return turn.NewServer(turn.ServerConfig{
		Realm:         "bench",
		AuthHandler:   turn.LongTermTURNRESTAuthHandler(secret, log.NewLogger("auth")),
		LoggerFactory: log,
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn:            conn,
			RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{RelayAddress: ip, Address: ip.String()},
		}},
	})
}
