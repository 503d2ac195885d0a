package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

func mustKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestLoadOrCreateKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "key.pem")
	made, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if made.Fingerprint() != loaded.Fingerprint() || !made.private.Equal(loaded.private) {
		t.Error("the key that was loaded is another one")
	}
	if made.HostSeat("m") != loaded.HostSeat("m") {
		t.Error("the host seat changed with a restart")
	}
	if runtime.GOOS != "windows" {
		if m := modeOf(t, path); m != 0o600 {
			t.Errorf("key mode %04o", m)
		}
		if m := modeOf(t, dir); m != 0o700 {
			t.Errorf("directory mode %04o", m)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 { // the key and its lock
		t.Errorf("files left: %v", entries)
	}
}

func TestKeyOthersCanRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("windows has no mode bits")
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o644, 0o601} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if _, err := LoadOrCreateKey(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadOrCreateKey(path)
		if err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ content, want string }{
		"empty":      {"", "no PEM block"},
		"text":       {"hello", "no PEM block"},
		"wrong type": {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "no PEM block"},
		"not DER":    {string(pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: []byte{1, 2}})), "asn1"},
		"ECDSA":      {string(pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: der})), "want Ed25519"},
		"huge":       {strings.Repeat("x", maxKeyBytes+1), "larger than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateKey(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v; want %q and the path", err, tt.want)
			}
			// It must not have been replaced.
			if b, err := os.ReadFile(path); err != nil || string(b) != tt.content {
				t.Errorf("the file is now %q, %v", b, err)
			}
		})
	}
	if _, err := LoadOrCreateKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory as key: %v", err)
	}
}

func TestFingerprint(t *testing.T) {
	k := mustKey(t)
	spki, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	if k.Fingerprint() != sha256.Sum256(spki) {
		t.Error("the fingerprint is not the SHA-256 of the SubjectPublicKeyInfo")
	}
	if s := k.Fingerprint().String(); !regexp.MustCompile(`^([a-z2-7]{4}-){3}[a-z2-7]{4}$`).MatchString(s) {
		t.Errorf("short form %q", s)
	}
	text, err := k.Fingerprint().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back Fingerprint
	if err := back.UnmarshalText(text); err != nil || back != k.Fingerprint() {
		t.Errorf("round trip: %v, %v", back, err)
	}
	for _, bad := range []string{"", "ab", string(text) + "00", strings.Repeat("zz", 32)} {
		if err := back.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("fingerprint %q was taken", bad)
		}
	}
}

// Mailboxes and seats say nothing, differ in everything they depend on, and stay
// what they are: both sides have to compute the same.
func TestTokens(t *testing.T) {
	a, b := testSelf("desk").Fingerprint, testSelf("laptop").Fingerprint
	k1, k2 := mustKey(t), mustKey(t)
	tokens := []string{
		MailboxID(Secret{1}, a), MailboxID(Secret{1}, b), MailboxID(Secret{2}, a),
		k1.HostSeat("m"), k1.HostSeat("n"), k2.HostSeat("m"),
	}
	seen := map[string]bool{}
	for _, s := range tokens {
		if !regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`).MatchString(s) {
			t.Errorf("token %q", s)
		}
		seen[s] = true
	}
	if len(seen) != len(tokens) {
		t.Errorf("two tokens are equal: %q", tokens)
	}
	if got, want := MailboxID(Secret{1}, a), "LXspMd4GBgLASQ04Kwa1WA"; got != want {
		t.Errorf("MailboxID = %q, want %q: a change here strands all known peers", got, want)
	}
}
