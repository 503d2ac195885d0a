package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// serverTLS returns the configuration for wss and turns, and the host name
// that clients should use, nil and "" without a certificate.
func (p *plan) serverTLS() (*tls.Config, string, error) {
	switch {
	case p.domain != "":
		return p.acmeTLS(), p.domain, nil
	case p.tlsCert != "":
		f := &certFile{cert: p.tlsCert, key: p.tlsKey}
		first, err := f.get(nil)
		if err != nil {
			return nil, "", err
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.get}, certName(first, p.publicIP), nil
	}
	return nil, "", nil
}

// certName is the name to reach a certificate's server under: the public
// address if it vouches for that, else its first full name.
func certName(c *tls.Certificate, public netip.Addr) string {
	if c.Leaf.VerifyHostname(public.String()) == nil {
		return public.String()
	}
	for _, name := range c.Leaf.DNSNames {
		if !strings.Contains(name, "*") {
			return name
		}
	}
	return public.String()
}

// A certFile is a certificate that follows its file, so that a renewed one is
// used without a restart.
type certFile struct {
	cert, key string

	mu      sync.Mutex
	loaded  *tls.Certificate
	changed time.Time
}

func (f *certFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.cert)
	if err == nil && f.loaded != nil && info.ModTime().Equal(f.changed) {
		return f.loaded, nil
	}
	pair, loadErr := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil || loadErr != nil {
		if f.loaded != nil { // being replaced: the old one is good for now
			return f.loaded, nil
		}
		return nil, fmt.Errorf("certificate %s: %w", f.cert, loadErr)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.cert, err)
		}
	}
	f.loaded, f.changed = &pair, info.ModTime()
	return f.loaded, nil
}
