package main

import (
	"crypto/tls"
	"path/filepath"

	"golang.org/x/crypto/acme/autocert"
)

// acmeTLS gets certificates for the plan's domain by ACME, proving the name on
// the WebSocket's own port (tls-alpn-01).
func (p *plan) acmeTLS() *tls.Config {
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		HostPolicy: autocert.HostWhitelist(p.domain),
		Cache:      autocert.DirCache(filepath.Join(p.stateDir, "acme")),
	}
	c := m.TLSConfig()
	c.NextProtos = []string{"http/1.1", "acme-tls/1"} // WebSockets are not for HTTP/2
	c.MinVersion = tls.VersionTLS12
	return c
}
