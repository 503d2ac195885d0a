package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"time"
)

// A Key is this machine's long-term Ed25519 key with a certificate that carries
// its public half. The certificate says nothing else; peers pin the key.
type Key struct {
	private     ed25519.PrivateKey
	cert        tls.Certificate
	fingerprint Fingerprint
}

const (
	keyPEMType  = "PRIVATE KEY" // PKCS #8
	maxKeyBytes = 4 << 10
)

// NewKey makes a fresh key that exists in memory only.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return newKey(private)
}

// LoadOrCreateKey reads the key at path, or makes one and writes it there (PEM,
// PKCS #8, mode 0600; the directory 0700). When several processes start at once
// they all return the same key. A key that others can read is refused.
func LoadOrCreateKey(path string) (*Key, error) {
	k, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	err = withLock(path, func() error {
		if k, err = loadKey(path); !errors.Is(err, fs.ErrNotExist) {
			return err // somebody was faster
		}
		if k, err = NewKey(); err != nil {
			return err
		}
		return k.save(path)
	})
	if err != nil {
		return nil, fmt.Errorf("create key %s: %w", path, err)
	}
	return k, nil
}

func loadKey(path string) (*Key, error) {
	b, err := readPrivate(path, maxKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	k, err := parseKey(b)
	if err != nil {
		return nil, fmt.Errorf("load key %s: %w", path, err)
	}
	return k, nil
}

func parseKey(b []byte) (*Key, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != keyPEMType {
		return nil, fmt.Errorf("no PEM block %q in it", keyPEMType)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := any.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want Ed25519", any)
	}
	return newKey(private)
}

func (k *Key) save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return err
	}
	return writeAtomic(path, pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: der}))
}

// newKey adds the certificate. It is made anew each time: only the key in it counts.
func newKey(private ed25519.PrivateKey) (*Key, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "p2pagent"},
		// Nobody looks at the validity, and a machine with a wrong clock shall
		// connect: from the epoch to the last time RFC 5280 can say.
		NotBefore: time.Unix(0, 0).UTC(),
		NotAfter:  time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &Key{
		private:     private,
		cert:        tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf},
		fingerprint: fingerprintOf(leaf.RawSubjectPublicKeyInfo),
	}, nil
}

// Fingerprint returns the name peers know this key by.
func (k *Key) Fingerprint() Fingerprint { return k.fingerprint }

// Certificate returns the self-signed certificate and its key, for TLS.
func (k *Key) Certificate() tls.Certificate { return k.cert }

// String returns the fingerprint: a Key must not print its private half.
func (k *Key) String() string { return k.fingerprint.String() }

// LogValue logs the fingerprint.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// HostSeat returns the token with which the owner of this key takes the host
// seat of a mailbox at the server. It is the same after a restart, so that the
// new process takes over from the old one, and nobody else can compute it: not
// the server, and not the peer that shares the mailbox.
func (k *Key) HostSeat(mailbox string) string {
	return token(k.private.Seed(), "p2pagent-seat/1", []byte(mailbox))
}

// MailboxID returns the mailbox in which a listener and one connector meet. Both
// compute it, and to anyone without their secret it is random. A pair has two,
// one for each direction.
func MailboxID(secret Secret, listener Fingerprint) string {
	return token(secret[:], "p2pagent-mailbox/1", listener[:])
}

// token derives 128 bits from a secret, as text for the signaling server.
func token(secret []byte, label string, context []byte) string {
	b := derive(secret, string(lv([]byte(label), context)), 16)
	return base64.RawURLEncoding.EncodeToString(b)
}

// derive is HKDF-SHA-512 without a salt. It panics only for absurd lengths,
// and all lengths are constants.
func derive(secret []byte, info string, n int) []byte {
	b, err := hkdf.Key(sha512.New, secret, nil, info, n)
	if err != nil {
		panic("identity: derive: " + err.Error())
	}
	return b
}
